use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::kv::node::common_bytes;
use crate::kv::slab::SLAB_BYTES;

impl<A: Allocator + Clone> SkipList<A> {
    /// Panics if the list contradicts itself anywhere.
    pub(in crate::kv) fn check(&self) {
        let live: BTreeSet<u32> = self.arena.check().into_iter().collect();
        let (mut named, mut links) = (BTreeSet::from([self.top]), vec![self.top]);
        for level in (0..self.levels).rev() {
            links = links
                .iter()
                .flat_map(|&row| self.check_row(level, row))
                .collect();
            assert!(
                links.iter().all(|&to| named.insert(to)),
                "each has one link"
            );
        }
        assert_eq!(links[0], HEAD);
        let nodes = &links[1..];
        assert_eq!(nodes.len(), self.len);
        assert_eq!(named, live, "each run is a row or the node of one key");
        assert!(nodes.is_sorted_by(|&a, &b| self.key_of(0, a) < self.key_of(0, b)));
        assert!(self.levels == 1 || row::len(self.row(self.top)) > 1);
        self.check_sums(nodes);
    }

    /// What the links of a row lead to.
    fn check_row(&self, level: usize, row: u32) -> Vec<u32> {
        let links = self.row(row);
        let to: Vec<u32> = (0..row::len(links))
            .map(|at| row::link(links, at).to)
            .collect();
        assert!(!to.is_empty(), "no row is empty");
        for (at, pair) in to.windows(2).enumerate() {
            let [before, key] = [pair[0], pair[1]].map(|to| self.key_of(level, to));
            let mark = Mark::of(key, common_bytes(before, key));
            assert_eq!(row::link(links, at + 1).mark, mark);
        }
        to
    }

    fn check_sums(&self, nodes: &[u32]) {
        let (mut data_bytes, mut charged_bytes, mut blocks) = (0, 0, BTreeSet::new());
        let mut hash = 0_u64;
        for &node in nodes {
            let (key, value) = (self.key_of(0, node), self.value(node));
            data_bytes += (key.len() + value.len()) as u64;
            charged_bytes += charge_bytes(key, value);
            hash = hash.wrapping_add(digest::of_entry(key, value));
            let bytes = self.arena.bytes(node);
            if node::value_len(bytes) == IN_BLOCK {
                assert!(value.len() > VALUE_INLINE_BYTES_MAX);
                assert!(blocks.insert(node::block_number(bytes)));
            }
            assert_eq!(self.arena.granules(node), granules_for(key, value));
        }
        assert_eq!(data_bytes, self.data_bytes);
        assert_eq!(charged_bytes, self.charged_bytes);
        assert_eq!(hash, self.digest);
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

/// In which order keys come and go.
fn orders(count: u64) -> [Vec<u64>; 3] {
    let mut shuffled: Vec<u64> = (0..count).collect();
    shuffled.sort_unstable_by_key(|&n| scrambled(n));
    [(0..count).collect(), (0..count).rev().collect(), shuffled]
}

#[test]
fn many_entries_come_and_go_in_any_order() {
    const COUNT: u64 = 6_000;
    let key = |n: u64| {
        format!(
            "{}/{:05}",
            ["a", "a/b", "c"][n as usize % 3],
            n / 7 * 7 + n % 7
        )
    };
    for coming in orders(COUNT) {
        for going in orders(COUNT) {
            let mut list = SkipList::new();
            for &n in &coming {
                assert!(list.insert_new(key(n).as_bytes(), &n.to_le_bytes()));
            }
            list.check();
            assert!(list.levels >= 3, "there are levels to go down");
            let keys: BTreeSet<String> = (0..COUNT).map(key).collect();
            assert!(
                list.iter()
                    .map(|(k, _)| k)
                    .eq(keys.iter().map(String::as_bytes))
            );
            for (done, &n) in going.iter().enumerate() {
                assert_eq!(list.get(key(n).as_bytes()), Some(&n.to_le_bytes()[..]));
                assert!(list.remove(key(n).as_bytes()));
                assert!(!list.remove(key(n).as_bytes()));
                if done % 997 == 0 {
                    list.check();
                }
            }
            list.check();
            assert_eq!(list.levels, 1);
        }
    }
}

#[test]
fn ascending_keys_fill_their_rows() {
    let mut list = SkipList::new();
    for n in 0..10_000_u32 {
        list.insert_new(&n.to_be_bytes(), b"");
    }
    list.check();
    let node_bytes = 10_000 * 16;
    let row_bytes = list.live_bytes() - node_bytes;
    assert!(
        row_bytes <= 10_000 * 9,
        "{row_bytes} bytes of links of 8 each"
    );
}

#[test]
fn an_entry_that_is_searched_for_from_anywhere_is_behind_or_at_the_key() {
    let mut list = SkipList::new();
    for n in (0..3_000_u32).step_by(3) {
        list.insert_new(&n.to_be_bytes(), b"");
    }
    for n in 0..3_000_u32 {
        let key = n.to_be_bytes();
        let first = |from| list.range_from(from).next().map(|(k, _)| k.to_vec());
        let multiple = |n: u32| (n < 3_000).then(|| n.to_be_bytes().to_vec());
        assert_eq!(
            first(Bound::Included(&key)),
            multiple(n.next_multiple_of(3))
        );
        assert_eq!(
            first(Bound::Excluded(&key)),
            multiple((n + 1).next_multiple_of(3))
        );
    }
}

#[test]
fn a_small_entry_costs_less_than_48_bytes_more_than_its_data() {
    let mut list = SkipList::new();
    for n in 0..50_000 {
        assert!(list.insert_new(&key_of(n), &n.to_le_bytes()));
    }
    list.check();
    let overhead_bytes = (list.live_bytes() - list.data_bytes()) / 50_000;
    assert!(overhead_bytes <= 28, "{overhead_bytes} bytes a key");
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

#[test]
fn keys_that_are_thinned_out_in_order_cost_no_more_than_they_are_charged() {
    let mut list = SkipList::new();
    for n in 0..30_000_u32 {
        list.insert_new(&n.to_be_bytes(), b"");
    }
    for n in (0..30_000_u32).filter(|n| n % 30 != 0) {
        assert!(list.remove(&n.to_be_bytes()));
    }
    list.check();
    assert!(
        list.live_bytes() <= list.charged_bytes(),
        "{} bytes",
        list.live_bytes()
    );
}
