//! The consensus core: Raft without I/O, clocks or threads.
//!
//! # The protocol in short
//!
//! Time is divided into *terms*, each with at most one *leader*. A follower that
//! hears nothing from a leader for a randomised time asks around whether it would
//! win ([pre-vote](Body::PreVote)); if so it starts a new term and asks for votes.
//! A node votes once in a term, on disk, and only for a log at least as up to date
//! as its own, so whoever wins a majority holds every committed entry (paper §5.4).
//!
//! The leader appends commands to its log and sends them on. An entry of its own
//! term that is on the disks of a majority is *committed*, and with it all before
//! it; committed entries are applied in order and are never lost. A new leader
//! begins with an empty entry, since it must not commit older ones by counting
//! (§5.4.2, Figure 8).
//!
//! A read is answered from the leader's state once a majority has confirmed, in a
//! round of heartbeats sent *after* the read came in, that no later leader exists
//! ([`read`], thesis §6.4). A leader that hears from no majority steps down.
//!
//! A follower whose next entry is compacted gets a snapshot instead (§7).
//!
//! The members of the cluster are an entry of the log like any other, which counts from the
//! moment a node has it ([`configuration`], §6), the first entry included: a cluster begins
//! with the founder's. A leader can hand its leadership to a
//! follower that has caught up (thesis §3.10).
//!
//! # How it is driven
//!
//! [`Raft`] is a value. Give it messages ([`Raft::step`]), proposals
//! ([`Raft::propose`]), reads ([`Raft::read`]), confirmations of the disk
//! ([`Raft::persisted`]) and time ([`Raft::tick`] at [`Raft::next_deadline`]); then
//! take what has to happen ([`Raft::take_ready`]). A [`Ready`] separates messages
//! that may leave at once from those that promise something durable. The one place
//! that carries it out is `node`; the order of its lines is the durability rule.
//!
//! # Where to go next
//!
//! [`core`](self) types and step: `core.rs`; elections: `election.rs`; the leader:
//! `leader.rs`; the follower: `follower.rs`; members: `configuration.rs` (what may follow
//! what), `membership.rs` (how a change comes about) and `admission.rs` (changes that the
//! leader makes by itself); handing over: `transfer.rs`;
//! reads: `read.rs`, `follower_read.rs`; what must hold after each step: `invariants.rs`;
//! scripts that read like stories: `tests/`.

mod admission;
mod config;
pub mod configuration;
mod core;
mod election;
mod entries;
mod fingerprint;
mod follower;
mod follower_read;
mod invariants;
mod leader;
mod lease;
mod log;
mod membership;
mod message;
mod progress;
pub mod quorum;
pub mod read;
mod ready;
#[cfg(test)]
pub(crate) mod tests;
mod transfer;
mod view;

pub use self::admission::Introduction;
pub use self::config::Config;
pub use self::configuration::{
    Change, ChangeError, Configuration, ConfigurationError, LEVEL_MAX, Member, Standing, Step,
};
pub use self::core::{ProposeError, Raft};
pub use self::entries::Entries;
pub use self::fingerprint::{Digest, TICK_CAMPAIGNS, TICK_GIVES_TRANSFER_UP, TICK_REPEATS};
pub use self::invariants::check_log;
pub use self::log::Log;
pub use self::message::{
    Accepted, Body, Message, Rejected, SnapshotChunk, SnapshotMeta, StateClaim, StateHash,
};
pub use self::progress::{Progress, State as ProgressState};
pub use self::quorum::Quorum;
pub use self::read::{ReadId, ReadOutcome};
pub use self::ready::{Ready, Write};
pub use self::transfer::TransferError;
pub use self::view::RoleName;
