//! WW-RaftKV: a linearizable, durable key-value store, replicated with Raft.
//!
//! Threads meet only in bounded queues: reactors move bytes and frames, one raft
//! thread owns all state, a log writer stores and syncs. Read
//! `docs/ARCHITECTURE.md` for one put and one get on their way through the house.
//!
//! A module imports only from lower layers:
//!
//! | layer | modules |
//! |---|---|
//! | L6 | [`server`], [`sim`], [`explore`], [`client`] |
//! | L5 | [`proto`] |
//! | L4 | [`node`] |
//! | L3 | [`raft`], [`kv`], [`wal`], [`net`] |
//! | L2 | [`disk`] |
//! | L1 | [`mem`], [`mailbox`], [`logging`], [`config`], [`pb`] |
//! | L0 | [`types`], [`time`], [`limits`], `mutation` |

pub mod limits;
mod mutation;
pub mod time;
pub mod types;

pub mod config;
pub mod disk;
pub mod logging;
pub mod mailbox;
pub mod mem;
pub mod pb;

pub mod kv;
pub mod net;
pub mod raft;
pub mod wal;

pub mod node;
pub mod proto;

pub mod client;
pub mod explore;
pub mod server;
pub mod sim;
