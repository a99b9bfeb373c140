//! The memory of the skiplist's nodes: runs of 16-byte granules in large slabs.
//!
//! A run is named by a `u32`: the slab's number in the upper bits, the granule in the
//! lower 17. That is half of a pointer, survives no move and needs no `unsafe`.
//!
//! Runs lie back to back and fill their slab. Each begins with a word that says how
//! long it is, whether it is live and whether the run before it is free; a free run
//! ends with its length, so that a run that becomes free merges with free
//! neighbours on both sides (boundary tags, Knuth, *TAOCP* vol. 1 §2.5). Free runs
//! are chained by size, and the best fit is taken. A slab of one free run goes back
//! to its allocator, but for one that is kept.
//!
//! A slab is as large as a huge page, and from the third of a region on it is one, if the
//! system can: there is data for all of it then. The memory of the first two is touched
//! as it is used, so a small store is small.
//!
//! ```text
//! live   size:24 flags:8 | content …
//! free   size:24 flags:8 | next u32 | prev u32 | … | size u32
//! ```

use allocator_api2::alloc::Allocator;

use crate::mem::{Block, HUGE_PAGE_BYTES};

/// A granule, in bytes: what a handle counts in.
pub(super) const GRANULE_BYTES: usize = 16;
/// A slab, in bytes.
pub(super) const SLAB_BYTES: usize = HUGE_PAGE_BYTES;
/// How many slabs of a region come without huge pages.
const SMALL_PAGE_SLABS: usize = 2;
/// To what those are aligned, in bytes: a cache line divides it, and so does a page.
const SMALL_PAGE_BYTES: usize = 4 << 10;
/// What of the beginning of a live run is not its owner's, in bytes.
pub(super) const RUN_HEADER_BYTES: usize = 4;
/// The longest run that can be had, in granules: the largest node.
pub(super) const RUN_GRANULES_MAX: u32 = 4_200;

const GRANULE_BITS: u32 = 17;
const SLAB_GRANULES: u32 = 1 << GRANULE_BITS;
/// The last granule of a slab is live for ever, so that nothing merges beyond it.
const WHOLE_SLAB: u32 = SLAB_GRANULES - 1;
const SLABS_MAX: usize = 1 << (u32::BITS - GRANULE_BITS);

const LIVE: u32 = 1 << 24;
const PREV_FREE: u32 = 1 << 25;
const SIZE_MASK: u32 = 0xFF_FFFF;

const _: () = assert!(
    SLAB_GRANULES as usize * GRANULE_BYTES == SLAB_BYTES,
    "handles reach all of a slab"
);

/// The run at the very beginning, which is the first to be handed out and never
/// given back, so that its owner can use its name for "none".
pub(super) const FIRST_RUN: u32 = 0;

const SLAB_IS_THERE: &str = "a run that is in use is in a slab that is there";

/// One chain for each size, and one for all that is longer.
const BINS: usize = RUN_GRANULES_MAX as usize + 2;
const BIN_WORDS: usize = BINS.div_ceil(64);
const _: () = assert!(BIN_WORDS <= 128, "a bit for each word fits a u128");

/// What is free in the slabs of one region.
#[derive(Clone)]
struct Region {
    /// The first free run of each size.
    bins: Box<[u32]>,
    /// A bit for each bin that is not empty.
    occupied: Box<[u64]>,
    /// A bit for each word of `occupied` that is not zero.
    occupied_words: u128,
    slabs: usize,
    /// How many slabs are one free run; kept at most at one.
    empty_slabs: usize,
}

/// Slabs, and what is free in them.
///
/// A slab belongs to one of a few regions, which the owner chooses for each run: what
/// is looked at often lies together then, in few pages and cache lines.
pub(super) struct Arena<A: Allocator + Clone> {
    /// None where a slab was given back.
    slabs: Vec<Option<Block<SLAB_BYTES, A>>>,
    /// The region of each slab.
    slab_regions: Vec<u8>,
    /// The numbers of those that were given back.
    vacant: Vec<u16>,
    regions: Box<[Region]>,
    live_granules: u64,
    alloc: A,
}

impl Region {
    /// The shortest free run of at least `granules`.
    fn best_fit(&self, granules: u32) -> Option<u32> {
        let first = granules as usize;
        let mut word = first / 64;
        let mut bits = self.occupied[word] & (u64::MAX << (first % 64));
        if bits == 0 {
            let behind = self.occupied_words >> word & !1;
            if behind == 0 {
                return None;
            }
            word += behind.trailing_zeros() as usize;
            bits = self.occupied[word];
        }
        Some(self.bins[word * 64 + bits.trailing_zeros() as usize])
    }

    /// The first run of a chain.
    fn first(&self, bin: usize) -> Option<u32> {
        let is_occupied = self.occupied[bin / 64] & 1 << (bin % 64) != 0;
        is_occupied.then(|| self.bins[bin])
    }

    fn set_first(&mut self, bin: usize, run: Option<u32>) {
        let (word, bit) = (bin / 64, 1 << (bin % 64));
        match run {
            Some(run) => {
                self.bins[bin] = run;
                self.occupied[word] |= bit;
            }
            None => self.occupied[word] &= !bit,
        }
        let is_occupied = u128::from(self.occupied[word] != 0);
        self.occupied_words = self.occupied_words & !(1 << word) | is_occupied << word;
    }
}

impl<A: Allocator + Clone> Arena<A> {
    /// Without slabs yet; regions are named by numbers below `regions`.
    pub(super) fn new(alloc: A, regions: u8) -> Arena<A> {
        let region = Region {
            bins: vec![FIRST_RUN; BINS].into(),
            occupied: vec![0; BIN_WORDS].into(),
            occupied_words: 0,
            slabs: 0,
            empty_slabs: 0,
        };
        Arena {
            slabs: Vec::new(),
            slab_regions: Vec::new(),
            vacant: Vec::new(),
            regions: vec![region; usize::from(regions)].into(),
            live_granules: 0,
            alloc,
        }
    }

    /// What the slabs take, in bytes.
    pub(super) fn slab_bytes(&self) -> u64 {
        ((self.slabs.len() - self.vacant.len()) * SLAB_BYTES) as u64
    }

    /// What live runs take, in bytes.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_granules * GRANULE_BYTES as u64
    }

    /// The number of the slab, and where in it the run begins, in bytes.
    #[inline(always)]
    fn locate(run: u32) -> (usize, usize) {
        (
            (run >> GRANULE_BITS) as usize,
            (run % SLAB_GRANULES) as usize * GRANULE_BYTES,
        )
    }

    /// Everything from the beginning of `run` to the end of its slab.
    #[inline(always)]
    pub(super) fn bytes(&self, run: u32) -> &[u8] {
        let (slab, start) = Self::locate(run);
        let slab = self.slabs[slab].as_ref().expect(SLAB_IS_THERE);
        &slab[start..]
    }

    /// As [`Arena::bytes`], to be changed behind the first word and within the run.
    #[inline(always)]
    pub(super) fn bytes_mut(&mut self, run: u32) -> &mut [u8] {
        let (slab, start) = Self::locate(run);
        let slab = self.slabs[slab].as_mut().expect(SLAB_IS_THERE);
        &mut slab[start..]
    }

    /// So many bytes of a run, behind its first word.
    #[inline(always)]
    pub(super) fn content<const BYTES: usize>(&self, run: u32) -> &[u8; BYTES] {
        let content = self.bytes(run)[RUN_HEADER_BYTES..].first_chunk();
        content.expect("a run of that length")
    }

    /// As [`Arena::content`], to be changed.
    #[inline(always)]
    pub(super) fn content_mut<const BYTES: usize>(&mut self, run: u32) -> &mut [u8; BYTES] {
        let content = self.bytes_mut(run)[RUN_HEADER_BYTES..].first_chunk_mut();
        content.expect("a run of that length")
    }

    /// The run's length in granules.
    #[inline(always)]
    pub(super) fn granules(&self, run: u32) -> u32 {
        self.word(run, 0) & SIZE_MASK
    }

    /// A run of so many granules, or none if handles are at their end. What it holds is
    /// arbitrary.
    pub(super) fn allocate(&mut self, region: u8, granules: u32) -> Option<u32> {
        assert!((1..=RUN_GRANULES_MAX).contains(&granules));
        let run = match self.regions[usize::from(region)].best_fit(granules) {
            Some(run) => run,
            None => self.add_slab(region)?,
        };
        let size = self.granules(run);
        self.unlink(run, size);
        if size == WHOLE_SLAB {
            self.region_of(run).empty_slabs -= 1;
        }
        if size > granules {
            self.make_free(run + granules, size - granules);
        } else {
            self.set_flag(run + size, PREV_FREE, false);
        }
        // Free neighbours are merged, so what is before this run is live.
        self.set_word(run, 0, granules | LIVE);
        self.live_granules += u64::from(granules);
        Some(run)
    }

    /// Takes a run back.
    pub(super) fn release(&mut self, run: u32) {
        let header = self.word(run, 0);
        assert!(header & LIVE != 0 && run != FIRST_RUN, "a live run goes");
        let mut start = run;
        let mut size = header & SIZE_MASK;
        self.live_granules -= u64::from(size);
        let next = run + size;
        let next_header = self.word(next, 0);
        if next_header & LIVE == 0 {
            self.unlink(next, next_header & SIZE_MASK);
            size += next_header & SIZE_MASK;
        }
        if header & PREV_FREE != 0 {
            // It ends in the granule before this run.
            let prev_size = self.word(run - 1, GRANULE_BYTES - 4);
            start -= prev_size;
            self.unlink(start, prev_size);
            size += prev_size;
        }
        if size == WHOLE_SLAB {
            if self.region_of(run).empty_slabs > 0 {
                self.region_of(run).slabs -= 1;
                let (slab, _) = Self::locate(run);
                self.slabs[slab] = None;
                self.vacant.push(slab as u16);
                return;
            }
            self.region_of(run).empty_slabs += 1;
        }
        self.make_free(start, size);
        self.set_flag(start + size, PREV_FREE, true);
    }

    /// Gets a slab, which is one free run then.
    fn add_slab(&mut self, region: u8) -> Option<u32> {
        if self.vacant.is_empty() && self.slabs.len() == SLABS_MAX {
            return None;
        }
        let align = if self.regions[usize::from(region)].slabs < SMALL_PAGE_SLABS {
            SMALL_PAGE_BYTES
        } else {
            HUGE_PAGE_BYTES
        };
        let bytes = Some(Block::zeroed_in(align, self.alloc.clone()));
        let slab = if let Some(slab) = self.vacant.pop() {
            self.slabs[usize::from(slab)] = bytes;
            self.slab_regions[usize::from(slab)] = region;
            u32::from(slab)
        } else {
            self.slabs.push(bytes);
            self.slab_regions.push(region);
            (self.slabs.len() - 1) as u32
        };
        let run = slab << GRANULE_BITS;
        self.regions[usize::from(region)].slabs += 1;
        self.set_word(run + WHOLE_SLAB, 0, 1 | LIVE | PREV_FREE);
        self.make_free(run, WHOLE_SLAB);
        self.region_of(run).empty_slabs += 1;
        Some(run)
    }

    /// Writes a free run that has a live one before it, and chains it.
    fn make_free(&mut self, run: u32, size: u32) {
        let bin = Self::bin(size);
        let first = self.region_of(run).first(bin);
        self.set_word(run, 0, size);
        self.set_word(run, 4, first.unwrap_or(run));
        self.set_word(run, 8, run);
        self.set_word(run, size as usize * GRANULE_BYTES - 4, size);
        if let Some(first) = first {
            self.set_word(first, 8, run);
        }
        self.region_of(run).set_first(bin, Some(run));
    }

    /// Takes a free run out of its chain, whose ends name themselves.
    fn unlink(&mut self, run: u32, size: u32) {
        let (next, prev) = (self.word(run, 4), self.word(run, 8));
        let (is_last, is_first) = (next == run, prev == run);
        if !is_last {
            self.set_word(next, 8, if is_first { next } else { prev });
        }
        if is_first {
            let first = (!is_last).then_some(next);
            self.region_of(run).set_first(Self::bin(size), first);
        } else {
            self.set_word(prev, 4, if is_last { prev } else { next });
        }
    }

    fn region_of(&mut self, run: u32) -> &mut Region {
        let (slab, _) = Self::locate(run);
        &mut self.regions[usize::from(self.slab_regions[slab])]
    }

    fn bin(size: u32) -> usize {
        (size as usize).min(BINS - 1)
    }

    #[inline(always)]
    fn word(&self, run: u32, at: usize) -> u32 {
        let bytes = self.bytes(run)[at..].first_chunk();
        u32::from_ne_bytes(*bytes.expect("a word of a run"))
    }

    fn set_word(&mut self, run: u32, at: usize, word: u32) {
        self.bytes_mut(run)[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }

    fn set_flag(&mut self, run: u32, flag: u32, on: bool) {
        let header = self.word(run, 0);
        let header = if on { header | flag } else { header & !flag };
        self.set_word(run, 0, header);
    }

    /// Panics if runs overlap, leave gaps, are chained wrongly or not at all.
    /// Returns all live runs, in order.
    #[cfg(test)]
    pub(super) fn check(&self) -> Vec<u32> {
        let (mut live, mut free) = (Vec::new(), std::collections::BTreeSet::new());
        let mut live_granules = 0;
        let (mut empty, mut slabs) = (vec![0; self.regions.len()], vec![0; self.regions.len()]);
        for (slab, bytes) in self.slabs.iter().enumerate() {
            let mut run = (slab as u32) << GRANULE_BITS;
            if bytes.is_none() {
                assert!(self.vacant.contains(&(slab as u16)));
                continue;
            }
            slabs[usize::from(self.slab_regions[slab])] += 1;
            let end = run + WHOLE_SLAB;
            let mut prev_free = false;
            while run < end {
                let header = self.word(run, 0);
                let size = header & SIZE_MASK;
                assert_eq!(header & PREV_FREE != 0, prev_free, "run {run:#x}");
                prev_free = header & LIVE == 0;
                if prev_free {
                    assert_eq!(header & PREV_FREE, 0, "free runs {run:#x} are merged");
                    let footer = self.word(run, size as usize * GRANULE_BYTES - 4);
                    assert_eq!(footer, size);
                    free.insert(run);
                } else {
                    live.push(run);
                    live_granules += u64::from(size);
                }
                empty[usize::from(self.slab_regions[slab])] += usize::from(size == WHOLE_SLAB);
                run += size;
            }
            assert_eq!(run, end, "runs fill the slab");
            let sentinel = self.word(end, 0);
            assert_eq!(sentinel & !PREV_FREE, 1 | LIVE);
            assert_eq!(sentinel & PREV_FREE != 0, prev_free);
        }
        assert_eq!(live_granules, self.live_granules);
        for (region, (empty, slabs)) in self.regions.iter().zip(empty.into_iter().zip(slabs)) {
            assert_eq!((empty, slabs), (region.empty_slabs, region.slabs));
            assert!(empty <= 1, "one is kept");
            self.check_chains(region, &mut free);
        }
        assert!(free.is_empty(), "every free run is chained");
        live
    }

    #[cfg(test)]
    fn check_chains(&self, region: &Region, free: &mut std::collections::BTreeSet<u32>) {
        for (bin, first) in (0..BINS).filter_map(|bin| region.first(bin).map(|run| (bin, run))) {
            let (mut prev, mut run) = (first, first);
            loop {
                assert!(free.remove(&run), "run {run:#x} is chained once");
                assert_eq!(Self::bin(self.granules(run)), bin);
                assert_eq!(self.word(run, 8), prev);
                prev = run;
                run = self.word(run, 4);
                if run == prev {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use allocator_api2::alloc::Global;

    use super::*;

    #[test]
    fn free_neighbours_merge_and_empty_slabs_go_back() {
        let mut arena = Arena::new(Global, 2);
        assert_eq!(arena.allocate(1, 9), Some(FIRST_RUN));
        let runs: Vec<u32> = (0..200)
            .map(|n| arena.allocate((n % 2) as u8, 1 + n * 20).expect("room"))
            .collect();
        arena.check();
        let full_bytes = arena.slab_bytes();
        assert!(full_bytes >= 4 * SLAB_BYTES as u64);
        for run in runs.iter().step_by(2).chain(runs.iter().skip(1).step_by(2)) {
            arena.release(*run);
        }
        assert_eq!(arena.check(), [FIRST_RUN]);
        assert_eq!(
            arena.slab_bytes(),
            3 * SLAB_BYTES as u64,
            "one is kept a region"
        );
        assert_eq!(arena.live_bytes(), 9 * GRANULE_BYTES as u64);
    }

    #[test]
    fn a_released_run_is_handed_out_again() {
        let mut arena = Arena::new(Global, 2);
        arena.allocate(1, 9).expect("room");
        let runs: Vec<u32> = (0..1_000)
            .map(|_| arena.allocate(0, 3).expect("room"))
            .collect();
        arena.release(runs[500]);
        assert_eq!(arena.allocate(0, 3), Some(runs[500]));
        arena.check();
    }
}
