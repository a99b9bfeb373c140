use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Doorbell, TrySendError, channel};

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(10))
}

#[test]
fn messages_arrive_in_order_and_a_full_lane_gives_the_message_back() {
    let (sender, receiver) = channel(2, Arc::new(Doorbell::for_thread()));
    assert_eq!(sender.try_send(1), Ok(()));
    assert_eq!(sender.try_send(2), Ok(()));
    assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
    assert_eq!(receiver.len(), 2);
    assert_eq!(receiver.try_recv(), Some(1));
    assert_eq!(receiver.try_recv(), Some(2));
    assert_eq!(receiver.try_recv(), None);
    assert!(receiver.is_empty());
}

#[test]
fn a_sender_learns_that_the_receiver_is_gone_and_what_waited_is_dropped() {
    let waiting = Arc::new(());
    let (sender, receiver) = channel(2, Arc::new(Doorbell::for_thread()));
    sender.try_send(waiting.clone()).unwrap();
    drop(receiver);
    assert!(sender.is_disconnected());
    assert_eq!(Arc::strong_count(&waiting), 1);
    let error = sender.try_send(waiting.clone()).unwrap_err();
    assert_eq!(error, TrySendError::Disconnected(waiting));
}

#[test]
fn a_wait_without_a_ring_ends_at_its_deadline() {
    let doorbell = Doorbell::for_thread();
    let deadline = Instant::now() + Duration::from_millis(5);
    assert!(!doorbell.wait_until(Some(deadline)));
    assert!(Instant::now() >= deadline);
}

#[test]
fn a_ring_before_the_wait_is_not_lost_and_many_rings_are_one() {
    let doorbell = Doorbell::for_thread();
    doorbell.ring();
    doorbell.ring();
    assert!(doorbell.wait_until(soon()));
    let past = Instant::now();
    assert!(!doorbell.wait_until(Some(past)));
}

#[test]
fn a_quiet_message_rings_when_the_lane_is_full() {
    let doorbell = Arc::new(Doorbell::for_thread());
    let (sender, _receiver) = channel(1, doorbell.clone());
    sender.try_send_quiet(1).unwrap();
    assert!(!doorbell.wait_until(Some(Instant::now())));
    assert_eq!(sender.try_send_quiet(2), Err(TrySendError::Full(2)));
    assert!(doorbell.wait_until(soon()));
}

#[test]
fn many_senders_through_two_lanes_lose_nothing() {
    const SENDERS: u64 = 4;
    const MESSAGES: u64 = 5_000;
    let doorbell = Arc::new(Doorbell::for_thread());
    let (clients, from_clients) = channel(64, doorbell.clone());
    let (peers, from_peers) = channel(64, doorbell.clone());
    let threads: Vec<_> = (0..SENDERS)
        .map(|n| {
            let sender = if n % 2 == 0 { &clients } else { &peers }.clone();
            thread::spawn(move || {
                for message in 0..MESSAGES {
                    let mut message = message;
                    while let Err(error) = sender.try_send(message) {
                        message = error.into_inner();
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let (mut count, mut sum) = (0, 0);
    while count < SENDERS * MESSAGES {
        assert!(doorbell.wait_until(soon()), "a wake-up was lost");
        for lane in [&from_clients, &from_peers] {
            while let Some(message) = lane.try_recv() {
                count += 1;
                sum += message;
            }
        }
    }
    assert_eq!(sum, SENDERS * (0..MESSAGES).sum::<u64>());
    for thread in threads {
        thread.join().unwrap();
    }
}
