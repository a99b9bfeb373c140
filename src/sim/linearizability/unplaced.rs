//! Which operations a search has placed, and which not.

/// A set of operations, numbered by invocation: those that are not placed as a ring, those
/// that are as bits.
pub(super) struct Unplaced {
    /// The ring; its start and end is `len`.
    next: Vec<usize>,
    prev: Vec<usize>,
    len: usize,
    /// Bit set: placed.
    placed: Vec<u64>,
    /// All words of `placed` from here on are zero.
    placed_words: usize,
}

impl Unplaced {
    /// None of so many operations is placed.
    pub(super) fn new(len: usize) -> Unplaced {
        let ring = len + 1;
        Unplaced {
            next: (0..ring).map(|i| (i + 1) % ring).collect(),
            prev: (0..ring).map(|i| (i + ring - 1) % ring).collect(),
            len,
            placed: vec![0; len.div_ceil(64)],
            placed_words: 0,
        }
    }

    /// The first that is not placed, the number of all operations if there is none.
    #[inline]
    pub(super) fn first(&self) -> usize {
        self.next[self.len]
    }

    /// The one that follows it, also if `at` was placed just now.
    #[inline]
    pub(super) fn after(&self, at: usize) -> usize {
        self.next[at]
    }

    /// Whether all are placed.
    pub(super) fn is_empty(&self) -> bool {
        self.first() == self.len
    }

    #[inline]
    pub(super) fn place(&mut self, at: usize) {
        let (prev, next) = (self.prev[at], self.next[at]);
        self.next[prev] = next;
        self.prev[next] = prev;
        self.placed[at / 64] |= 1 << (at % 64);
        self.placed_words = self.placed_words.max(at / 64 + 1);
    }

    /// Takes back the latest [`Unplaced::place`] that is not taken back yet: only so does the
    /// ring come back to what it was.
    #[inline]
    pub(super) fn unplace(&mut self, at: usize) {
        let (prev, next) = (self.prev[at], self.next[at]);
        self.next[prev] = at;
        self.prev[next] = at;
        self.placed[at / 64] &= !(1 << (at % 64));
    }

    /// Appends words that no other set has: how many words at the front are full, and those
    /// behind them up to the last that is not empty.
    pub(super) fn push_words(&mut self, out: &mut Vec<u64>) {
        while self.placed_words > 0 && self.placed[self.placed_words - 1] == 0 {
            self.placed_words -= 1;
        }
        let full = (self.first() / 64).min(self.placed_words);
        let words = &self.placed[full..self.placed_words];
        out.push((full as u64) << 32 | words.len() as u64);
        out.extend_from_slice(words);
    }
}
