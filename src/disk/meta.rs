//! The description of a data directory: the small text file `meta`.
//!
//! Version 1 was written before clusters had a birth, version 2 since then; there is no way
//! back. A directory of version 1 keeps it until its cluster is at feature level 1. The
//! file repeats what the log says, so that a directory that has lost its log is noticed,
//! and a node can name its cluster before it has read its log; where both differ, the log
//! is right.

use std::fmt::Write as _;

use crate::types::{Birth, NodeId};

const TITLE: &str = "ww-raftkv data directory";
/// The version that is written.
pub(super) const VERSION: u64 = 2;

/// Addresses of a node in place of those that the log has: after all of a cluster's
/// addresses have changed there is nobody who could commit a change of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressOverride {
    /// The node.
    pub id: NodeId,
    /// Its peer and client address, `ip:port`.
    pub addresses: (String, String),
    /// The addresses that these replace. Once the log has others, it is right again.
    pub replaced: (String, String),
}

/// The content of `meta`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The version of the file.
    pub version: u64,
    /// A hash of the first members, as the cluster file named them when the directory was
    /// made. Log segments name it too.
    pub cluster_id: u64,
    /// The node that the directory belongs to.
    pub node: NodeId,
    /// The directory's name: random, never 0.
    pub incarnation: u64,
    /// The incarnation of the damaged directory whose place it takes, 0 if unknown.
    pub replaces: Option<u64>,
    /// The cluster that the directory belongs to; [`Birth::NONE`] before it is founded or
    /// adopted, and below feature level 1.
    pub birth: Birth,
    /// Whether a configuration has ever named the directory a voter.
    pub was_voter: bool,
    /// The longest promise to a leader's lease that the node may have given, in milliseconds.
    pub promised_ms: u64,
    /// Addresses in place of those in the log.
    pub overrides: Vec<AddressOverride>,
}

pub(super) enum MetaError {
    Newer(u64),
    Bad(&'static str),
}

impl Meta {
    /// The description of a new directory.
    #[must_use]
    pub fn new(node: NodeId, cluster_id: u64, incarnation: u64) -> Meta {
        Meta {
            version: VERSION,
            cluster_id,
            node,
            incarnation,
            replaces: None,
            birth: Birth::NONE,
            was_voter: false,
            promised_ms: 0,
            overrides: Vec::new(),
        }
    }

    /// The text of the file, in the version that `self` names.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut body = format!(
            "{TITLE}\nversion {}\ncluster {:016x}\nnode {}\nincarnation {:016x}\n",
            self.version, self.cluster_id, self.node.0, self.incarnation
        );
        // Writing to a string cannot fail.
        if let Some(old) = self.replaces {
            let _ = writeln!(body, "replaces {old:016x}");
        }
        if self.birth != Birth::NONE {
            let _ = writeln!(body, "birth {}", self.birth);
        }
        if self.was_voter {
            body += "voter 1\n";
        }
        if self.promised_ms > 0 {
            let _ = writeln!(body, "promised {}", self.promised_ms);
        }
        for AddressOverride {
            id,
            addresses: (peer, client),
            replaced: (old_peer, old_client),
        } in &self.overrides
        {
            let _ = writeln!(
                body,
                "address {} {peer} {client} {old_peer} {old_client}",
                id.0
            );
        }
        let crc = crc32fast::hash(body.as_bytes());
        format!("{body}crc32 {crc:08x}\n")
    }

    /// Reads what [`Meta::encode`] wrote; `None` if it did not, or a newer version did.
    #[must_use]
    pub fn read(text: &str) -> Option<Meta> {
        Meta::decode(text).ok()
    }

    pub(super) fn decode(text: &str) -> Result<Meta, MetaError> {
        let lines = |name: &'static str| {
            let lines = text.lines();
            lines.filter_map(move |line| line.strip_prefix(name)?.strip_prefix(' '))
        };
        let field =
            |name: &'static str, radix: u32| u64::from_str_radix(lines(name).next()?, radix).ok();
        if text.lines().next() != Some(TITLE) {
            return Err(MetaError::Bad("is not the description of a data directory"));
        }
        // The version first: in a newer one the rest may look different.
        let version = match field("version", 10) {
            Some(version @ 1..=VERSION) => version,
            Some(newer) if newer > VERSION => return Err(MetaError::Newer(newer)),
            _ => return Err(MetaError::Bad("has no version")),
        };
        let damaged = || MetaError::Bad("is damaged: its checksum is wrong");
        let (body, _) = text.rsplit_once("crc32").ok_or_else(damaged)?;
        if field("crc32", 16) != Some(u64::from(crc32fast::hash(body.as_bytes()))) {
            return Err(damaged());
        }
        let read = || {
            Some(Meta {
                version,
                cluster_id: field("cluster", 16)?,
                node: NodeId(field("node", 10)?),
                incarnation: field("incarnation", 16).filter(|incarnation| *incarnation != 0)?,
                replaces: field("replaces", 16),
                birth: field("birth", 16).map_or(Birth::NONE, Birth),
                was_voter: field("voter", 10) == Some(1),
                promised_ms: field("promised", 10).unwrap_or(0),
                overrides: lines("address").map(read_override).collect::<Option<_>>()?,
            })
        };
        read().ok_or(MetaError::Bad("lacks a field"))
    }
}

fn read_override(line: &str) -> Option<AddressOverride> {
    let words: Vec<&str> = line.split(' ').collect();
    let [id, peer, client, old_peer, old_client] = words[..] else {
        return None;
    };
    let pair = |peer: &str, client: &str| (peer.to_owned(), client.to_owned());
    Some(AddressOverride {
        id: NodeId(id.parse().ok()?),
        addresses: pair(peer, client),
        replaced: pair(old_peer, old_client),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_read_as_it_was_written_in_both_versions() {
        let mut meta = Meta::new(NodeId(3), 0xabc, 7);
        assert_eq!(Meta::read(&meta.encode()), Some(meta.clone()));
        meta.birth = Birth(0x99);
        meta.was_voter = true;
        meta.promised_ms = 150;
        meta.replaces = Some(0);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        meta.overrides = vec![AddressOverride {
            id: NodeId(1),
            addresses: pair("10.0.0.1:1", "10.0.0.1:2"),
            replaced: pair("10.9.0.1:1", "10.9.0.1:2"),
        }];
        assert_eq!(Meta::read(&meta.encode()), Some(meta));
        let mut old = Meta::new(NodeId(3), 0xabc, 7);
        old.version = 1;
        let text = old.encode();
        assert!(
            text.starts_with("ww-raftkv data directory\nversion 1\ncluster 0000000000000abc\n")
        );
        assert_eq!(Meta::read(&text), Some(old));
    }

    #[test]
    fn a_damaged_description_is_noticed_at_every_byte() {
        let mut meta = Meta::new(NodeId(3), 0xabc, 7);
        meta.birth = Birth(0x99);
        let text = meta.encode();
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 0x04;
            assert_eq!(
                Meta::read(&String::from_utf8_lossy(&damaged)),
                None,
                "byte {at}"
            );
        }
    }
}
