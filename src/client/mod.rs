//! The client library: blocking calls with a deadline, for Rust programs.
//!
//! ```no_run
//! use std::time::Duration;
//! use raftkv::client::{Client, ClientOptions, Range};
//!
//! let options = ClientOptions { timeout: Duration::from_secs(2), ..ClientOptions::default() };
//! let mut client = Client::connect(&["127.0.0.1:4397", "127.0.0.1:4399"], options)?;
//! client.put(b"k", b"v")?;
//! assert_eq!(client.get(b"k")?.as_deref(), Some(&b"v"[..]));
//! client.compare_and_set(b"k", Some(b"v"), Some(b"w"))?;
//! let page = client.scan(Range { prefix: "k".into(), ..Range::default() })?;
//! assert_eq!(page.entries, [("k".into(), "w".into())]);
//! # Ok::<(), raftkv::client::ClientError>(())
//! ```
//!
//! [`Client`] finds the leader, follows redirects, goes to other nodes when one is
//! down, and sends a write again under the same name, so that it is applied once: in an
//! explicit session, which it opens before the first write
//! ([`ClientOptions::explicit_sessions`]). Every call ends within its timeout, and each [`ClientError`] says
//! whether the call may be repeated.
//!
//! `protocol` builds requests and understands answers without any I/O, for programs
//! that have an event loop of their own; `request` is its fast way for programs that
//! send many; `connection` is the blocking socket;
//! [`status_of`] asks many nodes at once; [`backup`] fetches snapshots and writes them
//! back; [`pursue`] changes the members of the cluster
//! and who leads it.

pub mod backup;
mod blocking;
mod connection;
mod error;
mod operator;
pub mod protocol;
pub mod request;
mod resolve;
mod status;

pub use crate::kv::WriteOp;
pub use blocking::{Client, ClientOptions};
pub use error::{Attempt, ClientError};
pub use operator::{Goal, OperatorError, pursue};
pub use protocol::{Outcome, Page, Range};
pub use resolve::resolve;
pub use status::{NodeStatus, status_of};
