//! Explores every interleaving of a small cluster, within bounds, and holds it to its
//! promises in each state.
//!
//! What steps is the real [`Raft`](crate::raft::Raft), above a disk that loses in a crash what
//! was not synced. In each state every one of these is tried, as often as the [`Scenario`]
//! allows: a message arrives, arrives and arrives once more later, or is lost; a node times
//! out, crashes and comes back, with its directory or without; its oldest write reaches the
//! disk; a leader sends heartbeats, hears of no majority, is asked for a command, a read, a
//! change of the members, a transfer; it hears of another node's directory, or its connection
//! ends. n1 founds the cluster while all directories are new.
//!
//! # What is left out, and why that hides nothing
//!
//! * *Clocks.* A tick is an action, and so may come whenever it likes. What a node has noted of
//!   its clock is reduced to the order in which things run out
//!   ([`Raft::forget_time`](crate::raft::Raft::forget_time)): nobody refuses a vote because it
//!   has just heard of a leader, for that does no more than to lose the question, and questions
//!   get lost anyway (one before an election is answered, and who asked may follow again, as it
//!   does when it hears of a leader); and a leader may find at any time that it has heard of no majority. Leases
//!   need clocks: they are the simulator's.
//! * *Waits of the leader's own changes* (`raft/admission.rs`): an old directory counts as
//!   silent at once, so that one in use is exchanged, too; those who catch up are waited for
//!   until a tick.
//! * *Random numbers*: only election time-outs are drawn, and births, which hang on the node,
//!   its life and its term.
//! * *Losses*, until the network is nearly full: a message that never arrives is as good as lost.
//!   So is one that changes nothing when it arrives.
//! * *Being down*: a node that is down does nothing that a slow one does not do. A crash and the
//!   start behind it are one step.
//! * *Names*: states that differ only in who is called what are the same one, but for nodes that
//!   a change of the members names.
//! * *Answers of terms that the receiver's disk is past*: it never looks at them again.
//! * *Snapshots*: nothing is compacted.
//!
//! | file | what it is |
//! |---|---|
//! | `scenario.rs` | where it starts, and what may happen how often |
//! | `scenarios.rs` | those there are |
//! | `node.rs` | one node with its disk; alone knows how a `Raft` begins and is addressed |
//! | `state.rs` | a state of all nodes, and what may happen next |
//! | `numbered.rs` | equal values kept once, with their digests |
//! | `invariants.rs` | what must hold |
//! | `table.rs` | the states that were seen, and how they were reached |
//! | `search.rs` | breadth first, on several threads |
//! | `story.rs` | a finding as a golden script |
//!
//! Imports `raft` and the lowest layer.

mod invariants;
mod node;
mod numbered;
mod scenario;
mod scenarios;
mod search;
mod state;
mod story;
mod table;
#[cfg(test)]
mod tests;

pub use scenario::{Budget, Scenario, Spend, Start};
pub use scenarios::SCENARIOS;
pub use search::{End, Finding, Limits, Outcome, Report, explore};
