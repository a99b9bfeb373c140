//! A hash of all that a store holds, which follows each change at the cost of the entry
//! that changes.
//!
//! It is the sum, modulo 2^64, of a hash of each entry: the order in which entries came
//! does not matter, and one that goes is taken off again. So it is a function of the content
//! alone, the same on replicas that came to it by the log or by a snapshot. It finds what
//! has gone wrong, not who means harm: whoever chooses keys and values could make two
//! stores with one hash.

/// Odd and without a pattern: the fractions of the square roots of 2, 3, 5, and of the golden
/// ratio.
const KEY_SEED: u64 = 0x6A09_E667_F3BC_C909;
const VALUE_SEED: u64 = 0xBB67_AE85_84CA_A73B;
const LOW: u64 = 0x3C6E_F372_FE94_F82B;
pub(super) const MIX: u64 = 0x9E37_79B9_7F4A_7C15;

/// The hash of one entry.
#[inline]
pub(super) fn of_entry(key: &[u8], value: &[u8]) -> u64 {
    of_bytes(VALUE_SEED ^ of_bytes(KEY_SEED, key), value)
}

/// The two halves of a product, folded: each bit of it hangs on all bits of both numbers.
#[inline(always)]
pub(super) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[inline(always)]
fn of_bytes(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = seed;
    let (pairs, rest) = bytes.as_chunks::<16>();
    for pair in pairs {
        let (low, high) = halves(pair);
        hash = fold(low ^ LOW, high ^ hash);
    }
    if !rest.is_empty() {
        // The last bytes of it, though some were hashed already: quicker than a copy.
        let (low, high) = match bytes.last_chunk() {
            Some(pair) => halves(pair),
            None => short(bytes),
        };
        hash = fold(low ^ LOW, high ^ hash);
    }
    // The length too: else zeros at the end would not count.
    fold(hash ^ bytes.len() as u64, MIX)
}

/// All of 1 to 15 bytes; some of them twice.
#[inline(always)]
fn short(bytes: &[u8]) -> (u64, u64) {
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let [first, last] = [*first, *last].map(u32::from_le_bytes);
        return (first.into(), last.into());
    }
    let at = |at: usize| u64::from(bytes[at]);
    let len = bytes.len();
    (at(0) | at(len / 2) << 8, at(len - 1))
}

#[inline(always)]
fn halves(pair: &[u8; 16]) -> (u64, u64) {
    let pair = u128::from_le_bytes(*pair);
    (pair as u64, (pair >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn entries_that_differ_in_a_bit_a_length_or_where_the_key_ends_have_other_hashes() {
        let mut seen = BTreeSet::new();
        let (key, value) = ([7_u8; 21], [9_u8; 100]);
        assert!(seen.insert(of_entry(&key, &value)));
        for bit in 0..8 * key.len() {
            let mut other = key;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(
                seen.insert(of_entry(&other, &value)),
                "bit {bit} of the key"
            );
        }
        for bit in 0..8 * value.len() {
            let mut other = value;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(
                seen.insert(of_entry(&key, &other)),
                "bit {bit} of the value"
            );
        }
        let zeros = [0_u8; 64];
        for key_len in 1..zeros.len() {
            for value_len in 0..zeros.len() {
                let hash = of_entry(&zeros[..key_len], &zeros[..value_len]);
                assert!(seen.insert(hash), "{key_len} and {value_len} zeros");
            }
        }
    }

    #[test]
    fn a_hash_is_the_same_in_every_build() {
        // Replicas of different builds compare theirs.
        assert_eq!(of_entry(b"key", b"value"), 0x5180_3108_A44D_E6FA);
        assert_eq!(of_entry(&[b'k'; 20], &[b'v'; 100]), 0x0C46_587E_677E_BB17);
    }
}
