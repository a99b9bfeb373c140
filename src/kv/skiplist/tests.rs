use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::kv::slab::SLAB_BYTES;

impl<A: Allocator + Clone> SkipList<A> {
    /// Panics if the list contradicts itself anywhere.
    pub(in crate::kv) fn check(&self) {
        let live: BTreeSet<u32> = self.arena.check().into_iter().collect();
        let mut nodes = vec![HEAD];
        let mut node = self.link(HEAD, 0).next;
        while node != NIL {
            nodes.push(node);
            node = self.link(node, 0).next;
        }
        assert_eq!(nodes.len(), self.len + 1);
        let named: BTreeSet<u32> = nodes.iter().copied().collect();
        assert_eq!(named, live, "each run is the node of one key");
        assert!(
            nodes[1..]
                .windows(2)
                .all(|pair| self.key(pair[0]) < self.key(pair[1]))
        );
        for level in 0..HEIGHT_MAX {
            self.check_level(level, &nodes);
        }
        self.check_sums(&nodes[1..]);
    }

    /// The level holds exactly the nodes that are as high, in the same order.
    fn check_level(&self, level: usize, nodes: &[u32]) {
        let mut node = HEAD;
        for &next in nodes[1..]
            .iter()
            .filter(|&&node| self.node_height(node) > level)
        {
            let key: &[u8] = if node == HEAD { &[] } else { self.key(node) };
            let next_key = self.key(next);
            let common = common_bytes(key, next_key);
            assert_eq!(self.link(node, level), link_to(next, next_key, common));
            node = next;
        }
        assert_eq!(self.link(node, level).next, NIL);
        assert_eq!(node != HEAD, level < self.height, "the height is in use");
    }

    fn check_sums(&self, nodes: &[u32]) {
        let (mut data_bytes, mut charged_bytes, mut blocks) = (0, 0, BTreeSet::new());
        for &node in nodes {
            let (key, value) = (self.key(node), self.value(node));
            data_bytes += (key.len() + value.len()) as u64;
            charged_bytes += charge_bytes(key, value);
            if self.value_len(node) == IN_BLOCK {
                assert!(value.len() > VALUE_INLINE_BYTES_MAX);
                assert!(blocks.insert(self.block_number(node, key.len())));
            }
            let bytes = node_bytes(self.node_height(node), key.len(), inline_bytes(value));
            assert_eq!(self.arena.granules(node), granules_for(bytes));
        }
        assert_eq!(data_bytes, self.data_bytes);
        assert_eq!(charged_bytes, self.charged_bytes);
        assert_eq!(blocks.len(), self.blocks.len(), "each block has one owner");
        let capacities = self.blocks.iter().map(|(_, block)| block.capacity() as u64);
        assert_eq!(capacities.sum::<u64>(), self.block_bytes);
    }
}

#[derive(Clone, Debug)]
enum Op {
    InsertNew(Vec<u8>, usize),
    Upsert(Vec<u8>, usize),
    Remove(Vec<u8>),
    RangeFrom(Vec<u8>, bool),
}

/// Few letters, so that keys share beginnings, are each other's beginnings, and meet.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let letter = prop_oneof![Just(0), Just(1), Just(b'a'), Just(0xFF)];
    prop_oneof![
        20 => prop::collection::vec(letter, 1..6),
        5 => (0u8..40).prop_map(|n| format!("a-long-common-beginning/{n:03}").into_bytes()),
        2 => (0u8..4, 1usize..2_000).prop_map(|(n, len)| vec![n; len]),
        1 => (0u8..3).prop_map(|n| {
            let mut key = vec![b'z'; limits::KEY_BYTES_MAX];
            key[limits::KEY_BYTES_MAX - 1] = n;
            key
        }),
    ]
}

fn value_len() -> impl Strategy<Value = usize> {
    prop_oneof![
        60 => 0usize..40,
        20 => 0usize..3_000,
        10 => (VALUE_INLINE_BYTES_MAX - 2)..(VALUE_INLINE_BYTES_MAX + 3),
        1 => 0usize..(2 << 20),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (key(), value_len()).prop_map(|(key, len)| Op::InsertNew(key, len)),
        4 => (key(), value_len()).prop_map(|(key, len)| Op::Upsert(key, len)),
        3 => key().prop_map(Op::Remove),
        1 => (key(), any::<bool>()).prop_map(|(key, is_excluded)| Op::RangeFrom(key, is_excluded)),
    ]
}

fn value(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (seed + at * 7) as u8).collect()
}

fn bound(key: &[u8], is_excluded: bool) -> Bound<&[u8]> {
    if is_excluded {
        Bound::Excluded(key)
    } else {
        Bound::Included(key)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn it_answers_as_a_btree_map_does(ops in prop::collection::vec(op(), 1..250)) {
        let mut list = SkipList::new();
        let mut map: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (seed, op) in ops.iter().enumerate() {
            match op {
                Op::InsertNew(key, len) => {
                    let value = value(seed, *len);
                    let is_new = !map.contains_key(key);
                    prop_assert_eq!(list.insert_new(key, &value), is_new);
                    map.entry(key.clone()).or_insert(value);
                }
                Op::Upsert(key, len) => {
                    let value = value(seed, *len);
                    let is_new = list.upsert(key, &value);
                    prop_assert_eq!(map.insert(key.clone(), value).is_none(), is_new);
                }
                Op::Remove(key) => {
                    prop_assert_eq!(list.remove(key), map.remove(key).is_some());
                }
                Op::RangeFrom(key, is_excluded) => {
                    let from = bound(key, *is_excluded);
                    let expected = map.range::<[u8], _>((from, Bound::Unbounded));
                    prop_assert!(list.range_from(from).eq(expected.map(|(k, v)| (&k[..], &v[..]))));
                }
            }
            if seed % 16 == 0 {
                list.check();
            }
        }
        list.check();
        for (key, value) in &map {
            prop_assert_eq!(list.get(key), Some(&value[..]));
        }
        prop_assert!(list.iter().eq(map.iter().map(|(k, v)| (&k[..], &v[..]))));
        for key in map.keys() {
            prop_assert!(list.remove(key));
        }
        list.check();
        prop_assert!(list.is_empty());
        prop_assert_eq!(list.get(b"a"), None);
    }
}

/// Numbers without a pattern, the same in every run.
fn scrambled(n: u64) -> u64 {
    let n = (n ^ n >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ n >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ n >> 31
}

fn key_of(n: u64) -> [u8; 16] {
    let mut key = [b'k'; 16];
    key[8..].copy_from_slice(&scrambled(n).to_be_bytes());
    key
}

/// One slab in each region may be used in part.
const PARTLY_USED_BYTES: u64 = REGIONS as u64 * SLAB_BYTES as u64;

#[test]
fn a_small_entry_costs_less_than_48_bytes_more_than_its_data() {
    let mut list = SkipList::new();
    for n in 0..50_000 {
        assert!(list.insert_new(&key_of(n), &n.to_le_bytes()));
    }
    list.check();
    let overhead_bytes = (list.live_bytes() - list.data_bytes()) / 50_000;
    assert!(overhead_bytes <= 32, "{overhead_bytes} bytes a key");
    let unused_bytes = list.memory_bytes() - list.live_bytes();
    assert!(unused_bytes <= PARTLY_USED_BYTES, "{unused_bytes} unused");
}

#[test]
fn memory_of_removed_and_overwritten_entries_is_used_again() {
    let mut list = SkipList::new();
    let empty_bytes = list.memory_bytes();
    let mut peak_bytes = 0;
    for round in 0..20u64 {
        for n in 0..2_000 {
            let len = scrambled(n * 31 + round) as usize % 600;
            list.upsert(&key_of(n), &value(n as usize, len));
        }
        for n in (0..2_000).filter(|n| scrambled(n + round).is_multiple_of(3)) {
            list.remove(&key_of(n));
        }
        if round == 2 {
            peak_bytes = list.memory_bytes();
        }
    }
    list.check();
    assert!(list.memory_bytes() <= peak_bytes + SLAB_BYTES as u64);
    for n in 0..2_000 {
        list.remove(&key_of(n));
    }
    list.check();
    assert!(list.memory_bytes() <= empty_bytes + PARTLY_USED_BYTES);
}

#[test]
fn overwriting_with_a_value_of_the_same_size_class_moves_nothing() {
    let mut list = SkipList::new();
    for n in 0..100 {
        list.insert_new(&key_of(n), &[1; 40]);
    }
    list.insert_new(b"large", &[1; 1 << 20]);
    let place = |list: &SkipList, key: &[u8]| list.get(key).map(<[u8]>::as_ptr);
    let (small, large) = (place(&list, &key_of(7)), place(&list, b"large"));
    assert!(!list.upsert(&key_of(7), &[2; 40]));
    assert!(!list.upsert(b"large", &[2; (1 << 20) - 100]));
    assert_eq!(place(&list, &key_of(7)), small);
    assert_eq!(place(&list, b"large"), large);
    list.check();
}

#[test]
fn lookups_with_impossible_keys_find_nothing() {
    let mut list = SkipList::new();
    list.insert_new(&[b'z'; limits::KEY_BYTES_MAX], b"v");
    let too_long = [b'z'; limits::KEY_BYTES_MAX + 1];
    assert_eq!(list.get(&too_long), None);
    assert!(!list.remove(&too_long));
    assert_eq!(list.range_from(Bound::Included(&too_long)).count(), 0);
    assert_eq!(list.get(b""), None);
    assert!(!list.remove(b""));
    assert_eq!(list.range_from(Bound::Excluded(b"")).count(), 1);
}
