//! Who is who: introductions, incarnations, and the right to vote.
//!
//! A data directory is named by its *incarnation*, drawn when it is created. A node
//! that comes back under a known id with another one has lost its directory: the votes
//! it gave and the entries it confirmed are gone, so its vote could elect a second
//! leader in one term, or one that lacks committed entries. It takes part in elections
//! again only when it has caught up. The rules:
//!
//! 1. Each node keeps the incarnations of its peers on disk, and answers an
//!    introduction only when it has.
//! 2. A new directory is not *established*. It becomes so when, with itself, a majority
//!    has recorded it and nobody has known the node under another incarnation.
//! 3. If somebody has, it must first hear from a majority of the *others*, be in a term
//!    at least as late as theirs, and have applied an entry that its leader made after
//!    it came back. While it waits its answers count for nothing, so that entry was
//!    committed by a majority without it: whoever may still win an election with the
//!    vote that it has forgotten needs a vote from one of these, and has a log that ends
//!    before that entry, so it does not get it.
//!    A directory that was begun in the place of a damaged one (`--rejoin`) says so itself,
//!    so that the node keeps to this also where nobody has met it before.
//! 4. Being established is kept on disk, and then whatever others remember is history.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use log::{info, warn};

use crate::disk::{Disk, FileId};
use crate::limits;
use crate::node::core::Node;
use crate::node::requests::Caller;
use crate::time::Time;
use crate::types::{Index, NodeId, Term};

/// The version of the messages between nodes. Nodes of different versions refuse each
/// other.
pub const PROTOCOL_VERSION: u32 = 1;

/// How a node introduces itself: the first message of a peer connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// A hash of the first members.
    pub cluster_id: u64,
    /// Who it is.
    pub from: NodeId,
    /// Whom it wants to talk to.
    pub to: NodeId,
    /// Names its data directory.
    pub incarnation: u64,
    /// Whether it takes part in elections.
    pub established: bool,
    /// See [`PROTOCOL_VERSION`].
    pub version: u32,
}

/// The answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// Who introduced itself.
    pub to: NodeId,
    /// Why the connection is refused, if it is.
    pub refused: Option<String>,
    /// The caller was known here under another incarnation.
    pub lost_directory: bool,
    /// The answering node's own.
    pub incarnation: u64,
    /// The answering node's term.
    pub term: Term,
}

/// What is known of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    incarnation: u64,
    /// It was known under another one before, and has not been established since.
    lost: bool,
}

/// What is known of all peers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: BTreeMap<NodeId, Known>,
    /// Whether this node takes part in elections.
    established: bool,
    /// What `established` was last asked to be on disk; voting waits for it.
    establishing: bool,
    /// Whether the file is being written, and whether that holds the latest.
    writing: bool,
    dirty: bool,
    /// Answers that wait for the file.
    answers: Vec<(Caller, HelloReply)>,
    /// What those others answered whom we introduced ourselves to.
    heard: BTreeMap<NodeId, Term>,
    /// Somebody knew us under another incarnation, or our own directory says that it
    /// takes the place of one.
    lost: bool,
    /// The term of the leader, and the first entry that it made after we came back.
    target: Option<(Term, Index)>,
}

impl Peers {
    /// Whether this node takes part in elections.
    pub(super) fn established(&self) -> bool {
        self.established
    }

    /// The only member of its cluster has nobody to ask.
    pub(super) fn alone() -> Peers {
        Peers {
            established: true,
            establishing: true,
            ..Peers::default()
        }
    }

    /// Of a directory that takes the place of a damaged one: as if a peer had said so.
    pub(super) fn rejoining(mut self) -> Peers {
        self.lost = !self.established;
        self
    }

    /// Whether this is an intact file of a newer version.
    pub(super) fn is_newer(file: &[u8]) -> bool {
        intact(file).is_some_and(|body| body.first().is_some_and(|version| *version > VERSION))
    }

    /// As the file has it; `None` if it is damaged or of a newer version.
    pub(super) fn restore(file: &[u8]) -> Option<Peers> {
        let mut body = intact(file)?;
        if body.len() < 2 {
            return None;
        }
        let (version, established) = (body.get_u8(), body.get_u8() != 0);
        let mut peers = Peers {
            established,
            establishing: established,
            ..Peers::default()
        };
        if version != VERSION || body.len() % RECORD_BYTES != 0 {
            return None;
        }
        while !body.is_empty() {
            let (id, incarnation) = (NodeId(body.get_u64_le()), body.get_u64_le());
            let lost = body.get_u8() != 0;
            peers.known.insert(id, Known { incarnation, lost });
        }
        Some(peers)
    }

    fn encode(&self) -> Bytes {
        let mut file = BytesMut::with_capacity(6 + self.known.len() * RECORD_BYTES);
        file.put_u8(VERSION);
        file.put_u8(u8::from(self.establishing));
        for (id, known) in &self.known {
            file.put_u64_le(id.0);
            file.put_u64_le(known.incarnation);
            file.put_u8(u8::from(known.lost));
        }
        let crc = crc32fast::hash(&file);
        file.put_u32_le(crc);
        file.freeze()
    }
}

/// What a file `peers` says, for tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeersFile {
    /// Whether the node takes part in elections.
    pub may_vote: bool,
    /// The nodes that it has met.
    pub known: Vec<KnownPeer>,
}

/// A node that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownPeer {
    /// Which one.
    pub id: NodeId,
    /// Of its data directory, as last met.
    pub incarnation: u64,
    /// It was known under another one before, and has not been established since.
    pub lost: bool,
}

/// Reads a file `peers`; `None` if it is damaged or of a newer version.
#[must_use]
pub fn inspect_peers(file: &[u8]) -> Option<PeersFile> {
    let peers = Peers::restore(file)?;
    let known = peers.known.into_iter().map(|(id, known)| KnownPeer {
        id,
        incarnation: known.incarnation,
        lost: known.lost,
    });
    Some(PeersFile {
        may_vote: peers.established,
        known: known.collect(),
    })
}

/// What stands before the checksum, if that is right. So it is in all versions.
fn intact(file: &[u8]) -> Option<&[u8]> {
    let (body, crc) = file.split_at_checked(file.len().checked_sub(4)?)?;
    (crc32fast::hash(body).to_le_bytes() == crc).then_some(body)
}

/// The version of the file.
const VERSION: u8 = 1;
const RECORD_BYTES: usize = 8 + 8 + 1;
/// How many nodes are remembered: members of all times, and who wants to be one.
const KNOWN_MAX: usize = 8 * limits::MEMBERS_MAX;

impl<D: Disk> Node<D> {
    /// How this node introduces itself to `to`.
    #[must_use]
    pub fn hello(&self, to: NodeId) -> Hello {
        Hello {
            cluster_id: self.config.cluster_id,
            from: self.config.id,
            to,
            incarnation: self.config.incarnation,
            established: self.peers.established,
            version: PROTOCOL_VERSION,
        }
    }

    /// Why an introduction is refused, if it is.
    fn refusal(&self, hello: &Hello) -> Option<String> {
        let Hello {
            cluster_id,
            from,
            to,
            version,
            ..
        } = *hello;
        if cluster_id != self.config.cluster_id {
            Some(format!(
                "cluster {cluster_id:016x} is not {:016x}",
                self.config.cluster_id
            ))
        } else if to != self.config.id {
            Some(format!("this is {}, not {to}", self.config.id))
        } else if from == to {
            Some(format!("{from} is this node itself"))
        } else if self.peers.known.len() >= KNOWN_MAX && !self.peers.known.contains_key(&from) {
            Some(format!(
                "more than {KNOWN_MAX} nodes have introduced themselves"
            ))
        } else if version != PROTOCOL_VERSION {
            Some(format!(
                "protocol version {version} is not {PROTOCOL_VERSION}"
            ))
        } else {
            None
        }
    }

    pub(super) fn meet(&mut self, now: Time, caller: Caller, hello: Hello) {
        let refused = self.refusal(&hello);
        let mut reply = HelloReply {
            to: hello.from,
            refused,
            lost_directory: false,
            incarnation: self.config.incarnation,
            term: self.raft.term(),
        };
        if reply.refused.is_some() {
            self.out.hellos.push((caller, reply));
            return;
        }
        let Hello {
            from,
            incarnation,
            established,
            ..
        } = hello;
        let old = self.peers.known.get(&from).copied();
        let other = old.is_some_and(|known| known.incarnation != incarnation);
        let lost = !established && (other || old.is_some_and(|known| known.lost));
        let new = Known { incarnation, lost };
        if other {
            warn!(target: "Raft", "peer has a new data directory: peer={from} established={established}");
            self.raft.peer_lost_directory(now, from);
        }
        reply.lost_directory = lost;
        if old != Some(new) {
            self.peers.known.insert(from, new);
            self.peers.dirty = true;
        }
        // Not before it is on disk what the answer says: also not while an earlier
        // answer's record is still on its way.
        if self.peers.writing || self.peers.dirty {
            self.peers.answers.push((caller, reply));
        } else {
            self.out.hellos.push((caller, reply));
        }
    }

    pub(super) fn hear_back(&mut self, now: Time, from: NodeId, reply: HelloReply) {
        if let Some(reason) = reply.refused {
            warn!(target: "Raft", "refused by peer: peer={from} reason={reason}");
            return;
        }
        self.peers.heard.insert(from, reply.term);
        if reply.lost_directory && !self.peers.established && !self.peers.lost {
            warn!(target: "Raft", "this node has lost its data directory: it votes again when it has caught up");
            self.peers.lost = true;
        }
        self.check_established(now);
    }

    /// Whether the rules in the module's docs are met by now.
    fn check_established(&mut self, _now: Time) {
        let peers = &self.peers;
        if peers.established || peers.establishing {
            return;
        }
        let quorum = self.raft.configuration().quorum();
        let own = self.config.id;
        let ready = if peers.lost {
            // A majority of the others: of all, if that is more than there are others.
            let others: Vec<NodeId> = quorum.all().filter(|id| *id != own).collect();
            let heard = |id: &NodeId| peers.heard.contains_key(id);
            (quorum.is_met(|id| heard(&id)) || others.iter().all(heard))
                && peers.heard.values().all(|term| *term <= self.raft.term())
                && peers.target.is_some_and(|(term, entry)| {
                    term == self.raft.term() && entry <= self.applied()
                })
        } else {
            quorum.is_met(|id| id == own || peers.heard.contains_key(&id))
        };
        if ready {
            self.peers.establishing = true;
            self.peers.dirty = true;
        }
    }

    /// Follows how a node that lost its directory catches up.
    pub(super) fn check_caught_up(&mut self, now: Time) {
        if self.peers.established {
            return;
        }
        let term = self.raft.term();
        if self.peers.target.is_none_or(|(of, _)| of != term) {
            self.peers.target = self.raft.leader_last().map(|last| (term, last.next()));
        }
        self.check_established(now);
    }

    /// Writes the file of the peers if there is news for it. Not before there is a log on
    /// disk: a directory with this file and without a log has lost it.
    pub(super) fn write_peers(&mut self) {
        let peers = &mut self.peers;
        if peers.dirty && !peers.writing && self.ledger.wal.is_open() {
            peers.dirty = false;
            peers.writing = true;
            let file = peers.encode();
            self.disk.create_file(FileId::PeersDraft);
            self.disk.append_file(FileId::PeersDraft, file);
            self.disk.finish_file(FileId::PeersDraft, FileId::Peers);
        }
    }

    /// The file of the peers is on disk.
    pub(super) fn peers_finished(&mut self, now: Time) {
        self.peers.writing = false;
        if self.peers.dirty {
            return;
        }
        self.out.hellos.append(&mut self.peers.answers);
        if self.peers.establishing && !self.peers.established {
            self.peers.established = true;
            if self.peers.lost {
                info!(target: "Raft", "caught up, vote again: applied={}", self.applied());
            }
            self.raft.allow_voting(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_peers_survives_the_file() {
        let mut peers = Peers {
            establishing: true,
            ..Peers::default()
        };
        peers.known.insert(
            NodeId(3),
            Known {
                incarnation: 7,
                lost: true,
            },
        );
        peers.known.insert(
            NodeId(5),
            Known {
                incarnation: u64::MAX,
                lost: false,
            },
        );
        let restored = Peers::restore(&peers.encode()).expect("intact");
        assert!(restored.established);
        assert_eq!(restored.known, peers.known);
    }

    #[test]
    fn a_damaged_file_of_peers_is_noticed_at_every_byte() {
        let mut peers = Peers::default();
        peers.known.insert(
            NodeId(3),
            Known {
                incarnation: 7,
                lost: true,
            },
        );
        let file = peers.encode();
        for at in 0..file.len() {
            let mut damaged = file.to_vec();
            damaged[at] ^= 0x10;
            assert!(Peers::restore(&damaged).is_none(), "byte {at}");
            assert!(Peers::restore(&file[..at]).is_none(), "cut at {at}");
        }
    }
}
