//! The key-value store that the log drives: the replicated state machine.
//!
//! Everything here is a function of the log alone: no clock, no thread, no I/O,
//! so that replicas that applied the same entries hold the same bytes. The raft
//! thread owns it all.
//!
//! - [`command`]: what an entry asks for, and its bytes in the log; [`batch`]: several
//!   changes in one
//! - [`state_machine`]: applies entries; store, sessions and position move together
//! - [`sessions`]: remembers answers, so that a repeated write is applied once;
//!   those of `implicit` sessions are in a table of their own
//! - [`skiplist`], of `node`s and `row`s of links in the memory of `slab`: the ordered
//!   store
//! - [`snapshot`]: the file format of a state; `walk` takes one beside writes,
//!   [`restore`] reads it back
//! - `digest`: a hash of the store, which replicas compare
//!
//! Imports only `types`, `limits` and `mem`. Start with [`StateMachine::apply`].

#![forbid(unsafe_code)]

pub mod batch;
mod codec;
pub mod command;
mod digest;
mod implicit;
mod node;
mod outcome;
pub mod restore;
mod row;
pub mod sessions;
pub mod skiplist;
mod slab;
pub mod snapshot;
pub mod state_machine;
mod walk;

pub use batch::Operations;
pub use command::{ClientId, Command, DecodeError, Identity, WriteOp};
pub use outcome::Outcome;
pub use restore::{Keep, Restore, SnapshotError, SnapshotInfo};
pub use sessions::SessionLimits;
pub use snapshot::SnapshotStep;
pub use state_machine::StateMachine;

/// Where the store's memory comes from: slabs of 2 MiB, and one block for each
/// value of more than 1 KiB.
pub type StoreAlloc = crate::mem::Pool;
