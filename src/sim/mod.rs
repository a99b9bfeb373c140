//! The deterministic simulator: a whole cluster, its network, its disks and its
//! clients in one thread, in virtual time, all of it drawn from one seed.
//!
//! It runs the very [`Node`](crate::node::Node) that the server runs, over the very log
//! code, on a [`SimDisk`](crate::disk::SimDisk) that loses what was not synced; messages
//! go through the real encoding. What a seed shows once, it shows again.
//!
//! | file | what it is |
//! |---|---|
//! | `plan.rs` | what a run is like: how many nodes, which faults, how often |
//! | `network.rs` | loses, delays, repeats and reorders; partitions of all shapes |
//! | `cluster.rs` | the whole of it; the queue of what happens next |
//! | `nodes.rs` | nodes at work: flushes, disks, connections |
//! | `faults.rs` | crashes, pauses, partitions, lost directories |
//! | `clients.rs` | clients with sessions and retries; the history of what they saw |
//! | `invariants.rs` | what must hold after each step |
//! | [`linearizability`] | judges a history, of simulated or of real clusters |
//!
//! A run ends with a quiet phase: faults stop, and the cluster must converge to
//! byte-identical stores. Imports the layers below L5, and never `server`.

mod clients;
mod cluster;
mod faults;
mod invariants;
pub mod linearizability;
mod network;
mod nodes;
mod plan;

pub use cluster::{Report, run};
