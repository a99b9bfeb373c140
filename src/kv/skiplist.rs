//! The ordered store.
use std::collections::BTreeMap;
use std::ops::Bound;

/// The ordered store.
#[derive(Debug, Default)]
pub struct SkipList {
    map: BTreeMap<Box<[u8]>, Box<[u8]>>,
    data_bytes: u64,
    charged_bytes: u64,
}

/// What an entry is charged.
#[must_use]
pub fn charge_bytes(key: &[u8], value: &[u8]) -> u64 {
    (64 + key.len() + value.len().min(1024)) as u64
}

impl SkipList {
    /// Empty.
    #[must_use]
    pub fn new() -> SkipList {
        SkipList::default()
    }
    /// Value.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.map.get(key).map(|v| &**v)
    }
    /// Insert new.
    pub fn insert_new(&mut self, key: &[u8], value: &[u8]) -> bool {
        if self.map.contains_key(key) {
            return false;
        }
        self.upsert(key, value)
    }
    /// Upsert.
    pub fn upsert(&mut self, key: &[u8], value: &[u8]) -> bool {
        let gone = self.remove(key);
        self.map.insert(key.into(), value.into());
        self.data_bytes += (key.len() + value.len()) as u64;
        self.charged_bytes += charge_bytes(key, value);
        !gone
    }
    /// Remove.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let Some(value) = self.map.remove(key) else {
            return false;
        };
        self.data_bytes -= (key.len() + value.len()) as u64;
        self.charged_bytes -= charge_bytes(key, &value);
        true
    }
    /// Len.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }
    /// Empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
    /// Bytes.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }
    /// Bytes.
    #[must_use]
    pub fn charged_bytes(&self) -> u64 {
        self.charged_bytes
    }
    /// All.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.map.iter().map(|(k, v)| (&**k, &**v))
    }
    /// Range.
    pub fn range_from(&self, bound: Bound<&[u8]>) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.map
            .range::<[u8], _>((bound, Bound::Unbounded))
            .map(|(k, v)| (&**k, &**v))
    }
}
