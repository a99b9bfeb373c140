//! Model checks: every interleaving of a few sends and drains. A lost wake-up is a
//! deadlock in the model. Run with
//! `RUSTFLAGS="--cfg loom" cargo test --lib mailbox::model`.

use std::sync::Arc;

use super::{Doorbell, Receiver, Sender, channel};
use crate::mutation::{Mutation, is_found};

/// The thread's way: sleep, acknowledge, drain.
fn receive_as_thread(doorbell: &Doorbell, lanes: &[Receiver<u32>], expected: usize) {
    let mut received = 0;
    while received < expected {
        doorbell.wait_until(None);
        received += drain(lanes);
    }
}

/// The reactor's way: awake and hushed, drain; before sleeping acknowledge, drain again.
fn receive_as_reactor(doorbell: &Doorbell, lanes: &[Receiver<u32>], expected: usize) {
    let mut received = 0;
    loop {
        doorbell.hush();
        received += drain(lanes);
        doorbell.acknowledge();
        received += drain(lanes);
        if received == expected {
            return;
        }
        doorbell.sleep();
    }
}

fn drain(lanes: &[Receiver<u32>]) -> usize {
    let mut received = 0;
    for lane in lanes {
        while lane.try_recv().is_some() {
            received += 1;
        }
    }
    received
}

fn send_from_a_thread(sender: &Sender<u32>, messages: u32) -> loom::thread::JoinHandle<()> {
    let sender = sender.clone();
    loom::thread::spawn(move || {
        for message in 0..messages {
            sender.try_send(message).expect("there is room");
        }
    })
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // All interleavings with at most so many involuntary switches: loom's authors
    // advise 2 or 3, which finds all known kinds of bugs.
    builder.preemption_bound = Some(3);
    builder.check(check);
}

fn one_sender() {
    let doorbell = Arc::new(Doorbell::for_thread());
    let (sender, receiver) = channel(2, doorbell.clone());
    let thread = send_from_a_thread(&sender, 2);
    receive_as_thread(&doorbell, &[receiver], 2);
    thread.join().unwrap();
}

#[test]
fn a_thread_that_sleeps_gets_every_message_of_one_sender() {
    model(one_sender);
}

fn two_lanes() {
    let doorbell = Arc::new(Doorbell::for_thread());
    let (clients, from_clients) = channel(2, doorbell.clone());
    let (peers, from_peers) = channel(2, doorbell.clone());
    let threads = [
        send_from_a_thread(&clients, 1),
        send_from_a_thread(&peers, 1),
    ];
    receive_as_thread(&doorbell, &[from_clients, from_peers], 2);
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_thread_that_sleeps_gets_every_message_of_two_lanes() {
    model(two_lanes);
}

fn hushed_senders() {
    let doorbell = Arc::new(Doorbell::for_thread());
    let (sender, receiver) = channel(2, doorbell.clone());
    let thread = send_from_a_thread(&sender, 2);
    receive_as_reactor(&doorbell, &[receiver], 2);
    thread.join().unwrap();
}

#[test]
fn a_reactor_that_hushes_its_senders_gets_every_message() {
    model(hushed_senders);
}

fn batch() {
    let doorbell = Arc::new(Doorbell::for_thread());
    let (sender, receiver) = channel(2, doorbell.clone());
    let thread = loom::thread::spawn(move || {
        sender.try_send_quiet(1).unwrap();
        sender.try_send_quiet(2).unwrap();
        sender.ring();
    });
    receive_as_reactor(&doorbell, &[receiver], 2);
    thread.join().unwrap();
}

#[test]
fn a_batch_that_rings_once_is_received_in_whole() {
    model(batch);
}

#[test]
fn a_sender_that_looks_at_the_flag_before_it_swaps_it_is_found() {
    let models = [one_sender, two_lanes, hushed_senders, batch];
    assert!(is_found(Mutation::DoorbellLoadedFirst, models, model));
}
