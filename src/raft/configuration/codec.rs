//! The bytes of a configuration, in the log and in snapshots.
//!
//! Version 1 is feature level 0: `version u8 = 1`, the members, each with its node id.
//! Version 2 is level 1 and above: `version u8 = 2`, `level u16`, `birth u64`,
//! `founding u16`, the members, each with node id and incarnation, and the pending first
//! members. A list is a count u16 and its elements: `id u64`, in members of version 2
//! `incarnation u64`, `standing u8`, `priority u8`, and two addresses, each a length u8
//! and its bytes. All numbers are little-endian.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits;
use crate::raft::configuration::{Configuration, LEVEL_MAX, Member, Standing};
use crate::types::{Birth, Incarnation, NodeId, Server};

/// Bytes that are not a configuration known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a configuration of a known version")]
pub struct ConfigurationError;

impl Configuration {
    /// The bytes of a configuration. See the module's docs.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64 * (1 + self.members.len() + self.pending.len()));
        let is_first = self.level == 0;
        if is_first {
            out.put_u8(1);
        } else {
            out.put_u8(2);
            out.put_u16_le(self.level);
            out.put_u64_le(self.birth.0);
            out.put_u16_le(self.founding);
        }
        put_count(&mut out, self.members.len());
        for (server, member) in &self.members {
            out.put_u64_le(server.id.0);
            if !is_first {
                out.put_u64_le(server.incarnation.0);
            }
            put_member(&mut out, member);
        }
        if !is_first {
            put_count(&mut out, self.pending.len());
            for (id, member) in &self.pending {
                out.put_u64_le(id.0);
                put_member(&mut out, member);
            }
        }
        out.freeze()
    }

    /// Reads what [`Configuration::encode`] wrote.
    ///
    /// # Errors
    /// If it did not, or if the feature level is above [`LEVEL_MAX`].
    pub fn decode(bytes: &[u8]) -> Result<Configuration, ConfigurationError> {
        Configuration::read(bytes)
            .filter(|c| (1..=limits::MEMBERS_MAX).contains(&c.len()))
            .filter(|c| c.pending.len() <= limits::MEMBERS_MAX)
            .filter(|c| c.members.values().any(|m| m.standing.votes_in_new()))
            .filter(|c| c.two_votes().is_none())
            .ok_or(ConfigurationError)
    }

    fn read(mut bytes: &[u8]) -> Option<Configuration> {
        let input = &mut bytes;
        let mut configuration = Configuration::default();
        let is_first = match input.try_get_u8().ok()? {
            1 => true,
            2 => false,
            _ => return None,
        };
        if !is_first {
            configuration.level = input.try_get_u16_le().ok()?;
            configuration.birth = Birth(input.try_get_u64_le().ok()?);
            configuration.founding = input.try_get_u16_le().ok()?;
            let is_known = (1..=LEVEL_MAX).contains(&configuration.level);
            if !is_known || configuration.birth == Birth::NONE {
                return None;
            }
        }
        for _ in 0..input.try_get_u16_le().ok()? {
            let id = NodeId(input.try_get_u64_le().ok()?);
            let incarnation = match is_first {
                true => Incarnation::NONE,
                false => Incarnation(input.try_get_u64_le().ok()?),
            };
            let server = Server { id, incarnation };
            insert(&mut configuration.members, server, read_member(input)?)?;
        }
        if !is_first {
            for _ in 0..input.try_get_u16_le().ok()? {
                let id = NodeId(input.try_get_u64_le().ok()?);
                insert(&mut configuration.pending, id, read_member(input)?)?;
            }
        }
        input.is_empty().then_some(configuration)
    }
}

/// `None` if the key is there already.
fn insert<K: Ord>(map: &mut BTreeMap<K, Member>, key: K, member: Member) -> Option<()> {
    map.insert(key, member).is_none().then_some(())
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u16_le(u16::try_from(count).expect("members are limited"));
}

fn put_member(out: &mut BytesMut, member: &Member) {
    out.put_u8(member.standing.code());
    out.put_u8(member.priority);
    for address in [&member.peer, &member.client] {
        out.put_u8(u8::try_from(address.len()).expect("addresses are limited"));
        out.put_slice(address.as_bytes());
    }
}

fn read_member(input: &mut &[u8]) -> Option<Member> {
    let code = input.try_get_u8().ok()?;
    let standing = Standing::ALL.into_iter().find(|s| s.code() == code)?;
    let priority = input.try_get_u8().ok()?;
    let mut address = || {
        let len = usize::from(input.try_get_u8().ok()?);
        let (text, rest) = input.split_at_checked(len)?;
        *input = rest;
        String::from_utf8(text.to_vec()).ok()
    };
    let (peer, client) = (address()?, address()?);
    Some(Member {
        standing,
        priority,
        peer,
        client,
    })
}
