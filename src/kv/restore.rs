//! Reads a snapshot back, piece by piece, and believes nothing unchecked.
//!
//! A header, a block or the footer is collected whole, its CRC compared, and only
//! then looked into. Lengths are held against the limits before anything is
//! allocated for them, so that beside the state itself memory stays below one block.

use bytes::Bytes;

use super::codec::Reader;
use super::command::ClientId;
use super::sessions::{ExplicitSession, ImplicitRecord, SessionLimits, Sessions};
use super::skiplist::{SkipList, charge_bytes};
use super::snapshot::{
    BLOCK_BODY_BYTES_MAX, BLOCK_FIXED_BYTES, CONFIGURATION_BYTES_MAX, CRC_BYTES, Counts,
    FOOTER_BYTES, HEADER_FIXED_BYTES, KIND_ENTRIES, KIND_EXPLICIT, KIND_FOOTER, KIND_IMPLICIT,
    MAGIC, VERSION,
};
use super::state_machine::{STORE_BYTES_MAX, StateMachine};
use crate::limits;
use crate::types::EntryId;

/// No log gets this far: indexes are kept in 7 bytes.
const INDEX_MAX: u64 = 1 << 56;

/// Why bytes are not a snapshot. Fetch or take another one; nothing of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Not what was written.
    #[error("corrupt snapshot at offset {offset_bytes}: {reason}")]
    Corrupt {
        /// Where the part begins that is damaged.
        offset_bytes: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// Written by a build with another format.
    #[error("snapshot of unknown version {found}, {VERSION} is known here")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// The end is missing.
    #[error("snapshot ends too early, at offset {offset_bytes}")]
    Truncated {
        /// How much there was.
        offset_bytes: u64,
    },
}

/// What a snapshot is and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The last entry of which it holds the effect.
    pub last: EntryId,
    /// The number of keys.
    pub keys: u64,
    /// The bytes of all keys and values.
    pub data_bytes: u64,
    /// The length of the file in bytes.
    pub total_bytes: u64,
    /// The CRC-32 of the whole file.
    pub checksum: u32,
}

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    /// A block of this kind or a later one, or the footer.
    Blocks(u8),
    End,
    Failed(SnapshotError),
}

/// What becomes of the keys and values of a snapshot. They come in the order of the keys.
pub trait Keep {
    /// Takes the next.
    fn keep(&mut self, key: &[u8], value: &[u8]);
}

impl Keep for SkipList {
    fn keep(&mut self, key: &[u8], value: &[u8]) {
        self.insert_new(key, value);
    }
}

/// They are looked at and let go.
impl Keep for () {
    fn keep(&mut self, _: &[u8], _: &[u8]) {}
}

/// They wait to be taken: after each [`Restore::feed`] those of the blocks that it has
/// completed.
impl Keep for Vec<(Bytes, Bytes)> {
    fn keep(&mut self, key: &[u8], value: &[u8]) {
        self.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
    }
}

/// A state that is being read from a snapshot.
#[derive(Debug)]
pub struct Restore<K = SkipList> {
    stage: Stage,
    /// The part that is being collected: header, block or footer.
    part: Vec<u8>,
    /// Where `part` begins in the file.
    part_offset: u64,
    /// Over everything before `part`.
    crc: crc32fast::Hasher,
    last: EntryId,
    configuration: Bytes,
    kept: K,
    keys: u64,
    data_bytes: u64,
    charged_bytes: u64,
    sessions: Sessions,
    store_bytes_max: u64,
    last_key: Vec<u8>,
}

impl Restore {
    /// Nothing read yet. The limits must be those of the node that took the snapshot.
    #[must_use]
    pub fn new(limits: SessionLimits) -> Restore {
        Restore::keeping(SkipList::new(), limits)
    }

    /// The state and the configuration, if all of the file was fed.
    ///
    /// # Errors
    /// If the end is missing, or whatever [`Restore::feed`] had found.
    pub fn finish(self) -> Result<(StateMachine, Bytes), SnapshotError> {
        self.info()?;
        let mut state = StateMachine::from_parts(self.kept, self.sessions, self.last);
        state.set_store_bytes_max(self.store_bytes_max);
        Ok((state, self.configuration))
    }
}

impl<K: Keep> Restore<K> {
    /// As [`Restore::new`], but keys and values go into `kept`: nothing else of the
    /// snapshot is held in memory but its sessions and one block.
    #[must_use]
    pub fn keeping(kept: K, limits: SessionLimits) -> Restore<K> {
        Restore {
            stage: Stage::Header,
            part: Vec::new(),
            part_offset: 0,
            crc: crc32fast::Hasher::new(),
            last: EntryId::ZERO,
            configuration: Bytes::new(),
            kept,
            keys: 0,
            data_bytes: 0,
            charged_bytes: 0,
            sessions: Sessions::new(limits),
            store_bytes_max: STORE_BYTES_MAX,
            last_key: Vec::new(),
        }
    }

    /// Sets how much the restored store may hold, as
    /// [`StateMachine::set_store_bytes_max`] does.
    pub fn set_store_bytes_max(&mut self, store_bytes_max: u64) {
        self.store_bytes_max = store_bytes_max;
    }

    /// Takes the next bytes of the file, as many as there are.
    ///
    /// # Errors
    /// At the first part that is damaged, and from then on the same again.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if let Stage::Failed(error) = self.stage {
            return Err(error);
        }
        self.feed_parts(bytes)
            .inspect_err(|&error| self.stage = Stage::Failed(error))
    }

    fn feed_parts(&mut self, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        while !bytes.is_empty() {
            let wanted = self.part_bytes()?;
            let taken = bytes.len().min(wanted - self.part.len());
            self.part.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            // Once its length field is there, a part turns out to be longer.
            if self.part.len() == wanted && self.part_bytes()? == wanted {
                self.finish_part()?;
            }
        }
        Ok(())
    }

    /// How long the part is as far as it is known: more than there is of it, or
    /// exactly as much if it is complete.
    fn part_bytes(&self) -> Result<usize, SnapshotError> {
        match self.stage {
            Stage::Header => self.header_bytes(),
            Stage::Blocks(_) => self.block_bytes(),
            Stage::End => Err(self.corrupt("bytes behind the footer")),
            Stage::Failed(error) => Err(error),
        }
    }

    fn header_bytes(&self) -> Result<usize, SnapshotError> {
        if self.part.len() < HEADER_FIXED_BYTES {
            return Ok(HEADER_FIXED_BYTES);
        }
        if self.part[..8] != MAGIC {
            return Err(self.corrupt("not a snapshot"));
        }
        let configuration_bytes = Reader::new(&self.part[HEADER_FIXED_BYTES - 4..])
            .len32()
            .unwrap_or(usize::MAX);
        if configuration_bytes > CONFIGURATION_BYTES_MAX {
            return Err(self.corrupt("configuration longer than any"));
        }
        Ok(HEADER_FIXED_BYTES + configuration_bytes + CRC_BYTES)
    }

    fn block_bytes(&self) -> Result<usize, SnapshotError> {
        match self.part.first() {
            None => return Ok(1),
            Some(&KIND_FOOTER) => return Ok(FOOTER_BYTES),
            Some(&(KIND_IMPLICIT | KIND_EXPLICIT | KIND_ENTRIES)) => {}
            Some(_) => return Err(self.corrupt("unknown kind of block")),
        }
        if self.part.len() < BLOCK_FIXED_BYTES {
            return Ok(BLOCK_FIXED_BYTES);
        }
        let body_bytes = Reader::new(&self.part[5..]).len32().unwrap_or(usize::MAX);
        if body_bytes > BLOCK_BODY_BYTES_MAX {
            return Err(self.corrupt("block longer than any"));
        }
        Ok(BLOCK_FIXED_BYTES + body_bytes + CRC_BYTES)
    }

    fn finish_part(&mut self) -> Result<(), SnapshotError> {
        let part = std::mem::take(&mut self.part);
        let (content, crc) = part.split_at(part.len() - CRC_BYTES);
        let crc = Reader::new(crc).u32();
        // A fuzzer does not find checksums; what lies behind them is to be met, too.
        let matches = |expected| cfg!(fuzzing) || crc == Some(expected);
        let stage = match self.stage {
            Stage::Blocks(_) if content[0] == KIND_FOOTER => {
                let mut whole = self.crc.clone();
                whole.update(content);
                if !matches(whole.finalize()) {
                    return Err(self.corrupt("checksum of the file does not match"));
                }
                self.check_footer(&content[1..])
            }
            _ if !matches(crc32fast::hash(content)) => Err("checksum does not match"),
            // Headers of all versions have this form, so that a newer one can be told from
            // a damaged one.
            Stage::Header if version(content) != VERSION => {
                let found = version(content);
                return Err(SnapshotError::Version { found });
            }
            Stage::Blocks(kind_min) => self.take_block(kind_min, content),
            _ => self.take_header(content),
        };
        self.stage = stage.map_err(|reason| self.corrupt(reason))?;
        self.crc.update(&part);
        self.part_offset += part.len() as u64;
        self.part = part;
        self.part.clear();
        Ok(())
    }

    fn take_header(&mut self, content: &[u8]) -> Result<Stage, &'static str> {
        let mut reader = Reader::new(&content[MAGIC.len() + 4..]);
        let (term, index) = reader.u64().zip(reader.u64()).ok_or("header too short")?;
        if index >= INDEX_MAX || term >= INDEX_MAX {
            return Err("impossible last entry");
        }
        self.last = EntryId::new(term, index);
        self.configuration = Bytes::copy_from_slice(&content[HEADER_FIXED_BYTES..]);
        Ok(Stage::Blocks(KIND_IMPLICIT))
    }

    fn take_block(&mut self, kind_min: u8, content: &[u8]) -> Result<Stage, &'static str> {
        let kind = content[0];
        if kind < kind_min {
            return Err("blocks out of order");
        }
        let records = Reader::new(&content[1..]).u32().unwrap_or(0);
        if records == 0 {
            return Err("empty block");
        }
        let mut reader = Reader::new(&content[BLOCK_FIXED_BYTES..]);
        for _ in 0..records {
            match kind {
                KIND_IMPLICIT => self.take_implicit(&mut reader)?,
                KIND_EXPLICIT => self.take_explicit(&mut reader)?,
                _ => self.take_entry(&mut reader)?,
            }
        }
        if !reader.is_at_end() {
            return Err("block longer than its records");
        }
        Ok(Stage::Blocks(kind))
    }

    fn take_implicit(&mut self, reader: &mut Reader<'_>) -> Result<(), &'static str> {
        const SHORT: &str = "implicit session cut short";
        let client = ClientId(reader.u128().ok_or(SHORT)?);
        let sequence = reader.u64().ok_or(SHORT)?;
        let index = reader.u64().ok_or(SHORT)?;
        let code = reader.u8().ok_or(SHORT)?;
        if index >= INDEX_MAX {
            return Err("implicit session at an impossible index");
        }
        let record = ImplicitRecord::new(client, sequence, index, code);
        self.sessions.restore_implicit(record, self.last.index.0)
    }

    fn take_explicit(&mut self, reader: &mut Reader<'_>) -> Result<(), &'static str> {
        const SHORT: &str = "session cut short";
        let id = reader.u64().ok_or(SHORT)?;
        let client = ClientId(reader.u128().ok_or(SHORT)?);
        let last_used = reader.u64().ok_or(SHORT)?;
        let acked_below = reader.u64().ok_or(SHORT)?;
        let answers = reader.u16().ok_or(SHORT)?;
        let answers = reader.take(usize::from(answers)).ok_or(SHORT)?;
        let session = ExplicitSession {
            client,
            last_used,
            acked_below,
            answers: answers.to_vec().into(),
        };
        self.sessions
            .restore_explicit(id, session, self.last.index.0)
    }

    fn take_entry(&mut self, reader: &mut Reader<'_>) -> Result<(), &'static str> {
        const SHORT: &str = "entry cut short";
        let key_bytes = reader.len32().ok_or(SHORT)?;
        let value_bytes = reader.len32().ok_or(SHORT)?;
        if key_bytes == 0 || key_bytes > limits::KEY_BYTES_MAX {
            return Err("key of an impossible length");
        }
        if value_bytes > limits::VALUE_BYTES_MAX {
            return Err("value of an impossible length");
        }
        let key = reader.take(key_bytes).ok_or(SHORT)?;
        let value = reader.take(value_bytes).ok_or(SHORT)?;
        // No key is empty, so the empty key at the start is before all.
        if key <= self.last_key.as_slice() {
            return Err("keys out of order");
        }
        let charged_bytes = self.charged_bytes + charge_bytes(key, value);
        if charged_bytes > self.store_bytes_max {
            return Err("more than a store holds");
        }
        self.kept.keep(key, value);
        self.keys += 1;
        self.data_bytes += (key.len() + value.len()) as u64;
        self.charged_bytes = charged_bytes;
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        Ok(())
    }

    fn check_footer(&self, fields: &[u8]) -> Result<Stage, &'static str> {
        let mut reader = Reader::new(fields);
        let mut field = || reader.u64().unwrap_or(u64::MAX);
        let said = Counts {
            keys: field(),
            data_bytes: field(),
            implicit: field(),
            explicit: field(),
        };
        if said == self.counts() {
            Ok(Stage::End)
        } else {
            Err("the footer counts otherwise")
        }
    }

    fn counts(&self) -> Counts {
        Counts {
            keys: self.keys,
            data_bytes: self.data_bytes,
            implicit: self.sessions.implicit_count() as u64,
            explicit: self.sessions.explicit_count() as u64,
        }
    }

    /// Keys and values as far as they were read.
    pub fn kept(&mut self) -> &mut K {
        &mut self.kept
    }

    /// How many keys were read so far.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// What was read, if all of the file was fed.
    ///
    /// # Errors
    /// As [`Restore::finish`].
    pub fn info(&self) -> Result<SnapshotInfo, SnapshotError> {
        match self.stage {
            Stage::End => Ok(SnapshotInfo {
                last: self.last,
                keys: self.keys,
                data_bytes: self.data_bytes,
                total_bytes: self.part_offset,
                checksum: self.crc.clone().finalize(),
            }),
            Stage::Failed(error) => Err(error),
            Stage::Header | Stage::Blocks(_) => Err(SnapshotError::Truncated {
                offset_bytes: self.part_offset + self.part.len() as u64,
            }),
        }
    }

    fn corrupt(&self, reason: &'static str) -> SnapshotError {
        SnapshotError::Corrupt {
            offset_bytes: self.part_offset,
            reason,
        }
    }
}

fn version(header: &[u8]) -> u32 {
    Reader::new(&header[MAGIC.len()..]).u32().unwrap_or(0)
}

/// Reads a whole snapshot and says what it is. Builds the state on the way, since
/// order and counts are part of what is checked.
///
/// # Errors
/// As [`Restore::finish`].
pub fn verify(bytes: &[u8], limits: SessionLimits) -> Result<SnapshotInfo, SnapshotError> {
    let mut restore = Restore::new(limits);
    restore.feed(bytes)?;
    restore.info()
}
