//! Values that have numbers: what is equal is kept, and digested, once.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::raft::Digest;
use crate::types::NodeId;

/// Hashes numbers that are spread already, or come one after the other.
#[derive(Default)]
pub(super) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = spread(self.0 ^ value);
    }
}

/// A bijection that leaves no bit where it was (the finish of SplitMix64).
pub(super) fn spread(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

pub(super) type Map<V> = HashMap<u64, V, BuildHasherDefault<Spread>>;

/// Values by number, each once, with their digests: one for each way to name the nodes.
pub(super) struct Numbered<T> {
    numbers: Map<u32>,
    pub(super) values: Vec<T>,
    pub(super) digests: Vec<u64>,
}

impl<T> Numbered<T> {
    pub(super) fn new() -> Numbered<T> {
        Numbered {
            numbers: Map::default(),
            values: Vec::new(),
            digests: Vec::new(),
        }
    }

    /// The number of a value; `namings` begins with the one that leaves all names as they are.
    pub(super) fn number(
        &mut self,
        namings: &[Vec<NodeId>],
        value: T,
        put: impl Fn(&mut Digest, &T),
    ) -> u32 {
        let digest = |naming: &Vec<NodeId>| {
            let rename = |id: NodeId| naming[id.0 as usize];
            let mut digest = Digest::new(&rename);
            put(&mut digest, &value);
            digest.finish()
        };
        let own = digest(&namings[0]);
        if let Some(number) = self.numbers.get(&own) {
            return *number;
        }
        let number = self.values.len() as u32;
        self.digests.push(own);
        self.digests.extend(namings[1..].iter().map(digest));
        self.numbers.insert(own, number);
        self.values.push(value);
        number
    }
}
