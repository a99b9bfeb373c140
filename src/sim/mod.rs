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
//! | `network.rs` | loses, delays, repeats, reorders, holds back; partitions of all shapes |
//! | `clock.rs` | a clock of its own for each node, a little fast or slow |
//! | `cluster.rs` | the whole of it; the queue of what happens next |
//! | `nodes.rs` | nodes at work: flushes, disks, connections |
//! | `faults.rs` | the kinds of faults |
//! | `place.rs` | a place for a node, over all its lives |
//! | `operators.rs` | who asks for other members, and another leader |
//! | `lives.rs` | how nodes start, stop, pause and come back |
//! | `calm.rs` | faults stop, in a majority first: it must serve, and all must agree |
//! | `clients.rs` | clients with sessions and retries; the history of what they saw |
//! | `invariants.rs` | what must hold after each step, with `promises.rs` and `mirror.rs` |
//! | [`linearizability`] | judges a history, of simulated or of real clusters |
//! | `mutations.rs` | known bugs that must be found |
//! | [`swarm`] | many runs on all cores |
//!
//! Imports the layers below L5, and never `server`.

mod calm;
mod clients;
mod clock;
mod cluster;
mod faults;
mod invariants;
pub mod linearizability;
mod lives;
mod mirror;
#[cfg(test)]
mod mutations;
mod network;
mod nodes;
mod operators;
mod place;
mod plan;
mod promises;
pub mod swarm;

pub use cluster::{Detail, FAULT_NAMES, Report, run, run_and_tell};
