//! The node: the consensus core, the log on disk, the state machine and the requests
//! that wait for them, held together by one thread.
//!
//! A [`Node`] is a value that does no I/O of its own and knows no sockets. Its driver
//! (a thread of the server, or the simulator) gives it what came in, calls
//! [`Node::flush`] once for the whole batch, and takes what goes out from
//! [`Node::outputs`]. It is generic over one trait, the [`Disk`](crate::disk::Disk).
//!
//! | file | what happens there |
//! |---|---|
//! | `core.rs` | what comes in, what goes out, the order of a flush |
//! | `durability.rs` | **the durability rule**: what waits for which sync |
//! | `requests.rs` | clients: writes, reads, who gets which answer |
//! | `scan.rs` | reads of many keys in order |
//! | `snapshots.rs` | taking snapshots beside writes, compaction of the log |
//! | `transfer.rs` | sending a snapshot to a follower |
//! | `install.rs` | receiving one |
//! | `backup.rs` | handing one out as a backup |
//! | `memory.rs` | the memory limit: which writes are refused |
//! | `space.rs` | a full disk: what goes on, who leads instead |
//! | `state_check.rs` | comparing the own state with that of other nodes |
//! | `members.rs` | operators: changes of the members, leadership, an orderly stop |
//! | `identity.rs` | introductions, the founding of a cluster, the file `meta` |
//! | `removal.rs` | a node that is no member any more |
//! | `recovery.rs` | what the disk has at a start |
//! | `status.rs` | what operators see |

mod backup;
mod core;
#[cfg(test)]
mod crash_tests;
mod disk_watch;
mod durability;
mod identity;
mod install;
mod members;
mod memory;
mod pace;
mod recovery;
mod removal;
mod requests;
mod scan;
mod snapshots;
mod space;
mod state_check;
mod status;
mod transfer;

pub use self::backup::{BackupAnswer, BackupRequest};
pub use self::core::{APPLY_ENTRIES_MAX, Node, NodeConfig, Outputs};
pub use self::identity::{Facts, Hello, HelloReply, PROTOCOL_VERSION, was_established};
pub use self::members::{Addresses, OperatorAnswer};
pub use self::recovery::{OpenError, RecoverySummary};
pub use self::requests::{Answer, Caller, Request};
pub use self::scan::{Page, Scan};
pub use self::status::{MemberStatus, PeerStatus, Status};
