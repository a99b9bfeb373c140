//! Requests on their way from a reactor to the raft thread, on one thread: what the queue
//! costs without the caches of two cores, which no count can tell.

use std::sync::Arc;

use raftkv::mailbox::{Doorbell, channel};

use super::{Workload, repeated};

pub(super) const WORKLOADS: [Workload; 2] = [
    Workload::new("mailbox/send and receive", 10_000, || send_and_receive(1)),
    Workload::new("mailbox/send and receive 24, one ring", 1_000, || {
        send_and_receive(24)
    }),
];

/// About as large as a request with its caller.
type Message = [u64; 8];

fn send_and_receive(batch: u64) -> Box<dyn FnMut(u64)> {
    let doorbell = Arc::new(Doorbell::for_thread());
    let (sender, receiver) = channel::<Message>(1_024, doorbell.clone());
    // Awake, as a receiver under load is: the flag is taken down, and nothing is woken.
    doorbell.hush();
    repeated(move || {
        for n in 0..batch {
            sender.try_send_quiet([n; 8]).expect("there is room");
        }
        sender.ring();
        let mut sum = 0;
        while let Some(message) = receiver.try_recv() {
            sum += message[7];
        }
        sum
    })
}
