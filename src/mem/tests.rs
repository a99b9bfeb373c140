//! The tiers together: each test has a heap of its own, so that it can hold the
//! figures to the byte whatever runs beside it.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::{Mutex, mpsc};
use std::thread;

use allocator_api2::alloc::Allocator;
use proptest::prelude::*;

use super::heap::Heap;
use super::size_class::{PAGE_BYTES, SMALL_BYTES_MAX, SizeClass};
use super::span::{CHECKED, POISON};
use super::thread_cache::{THREAD_CACHE_BYTES_MAX, ThreadCache};
use super::{Pool, stats, trim};

/// How much is done where it can be chosen: under a memory checker a step takes
/// fifty times as long.
const CASES: u32 = if cfg!(mem_passthrough) { 4 } else { 64 };
const ROUNDS: usize = if cfg!(mem_passthrough) { 500 } else { 10_000 };

/// A heap for one test. It is a `static`, as the process-wide one: its map alone is
/// a mebibyte, of which the system backs only what is touched.
macro_rules! heap {
    () => {{
        static HEAP: Heap = Heap::new(|| true);
        &HEAP
    }};
}

/// What a thread has: a cache, retired at the end.
struct Local {
    heap: &'static Heap,
    /// Boxed, because the heap knows its address.
    cache: Box<ThreadCache>,
}

impl Local {
    fn new(heap: &'static Heap) -> Local {
        Local {
            heap,
            cache: Box::new(ThreadCache::new()),
        }
    }

    /// A block filled with `pattern`.
    fn allocate(&self, layout: Layout, pattern: u8) -> Block {
        let block = self
            .heap
            .allocate(&self.cache, layout)
            .expect("there is memory");
        assert!(block.len() >= layout.size());
        assert_eq!(block.cast::<u8>().addr().get() % layout.align(), 0);
        // SAFETY: the block is ours.
        unsafe { block.cast::<u8>().write_bytes(pattern, layout.size()) };
        Block {
            start: block.cast(),
            layout,
            pattern,
        }
    }

    fn free(&self, block: Block) {
        block.check();
        // SAFETY: the block came from this heap with this layout.
        unsafe { self.heap.deallocate(&self.cache, block.start, block.layout) };
    }

    /// What [`super::Pool`] does on growing and shrinking.
    fn resize(&self, block: Block, bytes: usize) -> Block {
        block.check();
        let layout = Layout::from_size_align(bytes, block.layout.align()).unwrap();
        // SAFETY: the block came from this heap with this layout.
        let in_place = unsafe { self.heap.resize_in_place(block.start, block.layout, layout) };
        let kept = bytes.min(block.layout.size());
        if let Some(len) = in_place {
            assert!(len >= bytes);
            let resized = Block { layout, ..block };
            resized.check_first(kept);
            // SAFETY: the block is ours.
            unsafe { resized.start.write_bytes(resized.pattern, bytes) };
            resized
        } else {
            let moved = self.allocate(layout, block.pattern);
            self.free(block);
            moved
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.cache.retire(self.heap);
    }
}

#[derive(Debug)]
struct Block {
    start: NonNull<u8>,
    layout: Layout,
    pattern: u8,
}

// SAFETY: a block is memory that whoever has it owns.
unsafe impl Send for Block {}

impl Block {
    fn check(&self) {
        self.check_first(self.layout.size());
    }

    fn check_first(&self, bytes: usize) {
        // SAFETY: the block is ours, and was filled.
        let content = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), bytes) };
        assert!(
            content.iter().all(|&byte| byte == self.pattern),
            "the content of a block survives"
        );
    }
}

fn bytes(size: usize) -> Layout {
    Layout::from_size_align(size, 1).unwrap()
}

/// Asserts that nothing is in use, that every page is accounted for, and that all
/// of it goes back.
fn check_all_returned(heap: &'static Heap) {
    let stats = heap.stats();
    assert_eq!((stats.live_blocks, stats.live_bytes), (0, 0), "{stats:?}");
    assert_eq!((stats.thread_caches, stats.thread_cache_bytes), (0, 0));
    assert_eq!(
        stats.span_bytes + stats.page_cache_bytes + stats.released_bytes,
        stats.mapped_bytes
    );
    heap.trim(&ThreadCache::new());
    let stats = heap.stats();
    assert_eq!((stats.central_cache_bytes, stats.span_bytes), (0, 0));
    assert_eq!(stats.page_cache_bytes, 0);
    assert_eq!(stats.system_bytes(), stats.metadata_bytes);
}

/// A small generator, so that runs repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Sizes as a store has them: mostly small, now and then a large one.
    fn size(&mut self) -> usize {
        let limit = 1 << (4 + self.below(10));
        1 + self.below(limit)
    }
}

#[test]
fn nothing_is_taken_for_an_empty_block() {
    let heap = heap!();
    let local = Local::new(heap);
    for align in [1, 64, 4096, 1 << 20] {
        let layout = Layout::from_size_align(0, align).unwrap();
        let block = local.allocate(layout, 0);
        local.free(block);
    }
    assert_eq!(heap.stats().mapped_bytes, 0);
}

#[test]
fn every_alignment_is_honoured() {
    let heap = heap!();
    {
        let local = Local::new(heap);
        let mut blocks = Vec::new();
        for align in (0..=22).map(|shift| 1 << shift) {
            for size in [1, 24, 100, 4096, 5000, 70_000, 300_000] {
                let layout = Layout::from_size_align(size, align).unwrap();
                blocks.push(local.allocate(layout, size as u8));
            }
        }
        blocks.into_iter().for_each(|block| local.free(block));
    }
    check_all_returned(heap);
}

#[test]
fn what_the_system_does_not_have_is_refused() {
    let heap = heap!();
    let local = Local::new(heap);
    for size in [1 << 50, 1 << 62, isize::MAX as usize] {
        assert!(heap.allocate(&local.cache, bytes(size)).is_none());
    }
    let layout = Layout::from_size_align(64, 1 << 60).unwrap();
    assert!(heap.allocate(&local.cache, layout).is_none());
    let block = local.allocate(bytes(64), 7);
    local.free(block);
}

#[test]
fn blocks_of_all_sizes_do_not_overlap() {
    let heap = heap!();
    {
        let local = Local::new(heap);
        let sizes = (1..2 * SMALL_BYTES_MAX).step_by(97);
        let blocks: Vec<Block> = sizes
            .map(|size| local.allocate(bytes(size), size as u8))
            .collect();
        blocks.into_iter().for_each(|block| local.free(block));
    }
    check_all_returned(heap);
}

#[test]
fn a_block_grows_in_place_up_to_its_class() {
    let heap = heap!();
    let local = Local::new(heap);
    let block = local.allocate(bytes(129), 1);
    let start = block.start;
    let block = local.resize(block, 144);
    assert_eq!(block.start, start);
    let block = local.resize(block, 145);
    assert_ne!(block.start, start);
    local.free(block);
}

#[test]
fn a_large_block_grows_into_free_pages_behind_it() {
    let heap = heap!();
    {
        let local = Local::new(heap);
        let block = local.allocate(bytes(100_000), 1);
        let start = block.start;
        let block = local.resize(block, 5_000_000);
        assert_eq!(block.start, start);
        let block = local.resize(block, 70_000);
        assert_eq!(block.start, start);
        assert_eq!(heap.stats().large_bytes, 9 * PAGE_BYTES);
        let wall = local.allocate(bytes(100_000), 2);
        let block = local.resize(block, 9_000_000);
        local.free(wall);
        local.free(block);
    }
    check_all_returned(heap);
}

#[test]
fn zeroed_blocks_are_zeros_fresh_and_used() {
    let heap = heap!();
    let local = Local::new(heap);
    for size in [8, 100, 4096, 100_000, 3_000_000] {
        for _ in 0..3 {
            let block = heap.allocate_zeroed(&local.cache, bytes(size)).unwrap();
            // SAFETY: the block is ours, and initialised.
            let content = unsafe { block.as_ref() };
            assert!(content.iter().all(|&byte| byte == 0));
            let start = block.cast();
            // SAFETY: as above.
            unsafe { start.write_bytes(0x77, size) };
            let block = Block {
                start,
                layout: bytes(size),
                pattern: 0x77,
            };
            local.free(block);
        }
    }
}

#[test]
fn blocks_made_by_one_thread_and_freed_by_another_come_back() {
    let heap = heap!();
    let (sender, receiver) = mpsc::sync_channel::<Block>(256);
    let consumer = thread::spawn(move || {
        let local = Local::new(heap);
        receiver.into_iter().for_each(|block| local.free(block));
        local.cache.check();
    });
    {
        let local = Local::new(heap);
        let mut random = Random(1);
        for round in 0..4 * ROUNDS {
            let block = local.allocate(bytes(random.size()), round as u8);
            sender.send(block).unwrap();
        }
        local.cache.check();
    }
    drop(sender);
    consumer.join().unwrap();
    assert!(heap.stats().mapped_bytes <= 32 << 20, "{:?}", heap.stats());
    check_all_returned(heap);
}

#[test]
fn threads_that_pass_blocks_around_do_not_disturb_each_other() {
    let heap = heap!();
    let shelf = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for seed in 1..=3 {
            let shelf = &shelf;
            scope.spawn(move || {
                let local = Local::new(heap);
                let mut random = Random(seed * 7919);
                let mut own = Vec::new();
                for round in 0..ROUNDS {
                    own.push(local.allocate(bytes(random.size()), round as u8));
                    match random.below(4) {
                        0 => {
                            let at = random.below(own.len());
                            local.free(own.swap_remove(at));
                        }
                        1 => shelf.lock().unwrap().push(own.pop().unwrap()),
                        2 => {
                            let taken = shelf.lock().unwrap().pop();
                            taken.into_iter().for_each(|block| local.free(block));
                        }
                        _ => {
                            let at = random.below(own.len());
                            let block = own.swap_remove(at);
                            own.push(local.resize(block, random.size()));
                        }
                    }
                }
                local.cache.check();
                own.into_iter().for_each(|block| local.free(block));
            });
        }
    });
    let local = Local::new(heap);
    let rest = shelf.into_inner().unwrap();
    rest.into_iter().for_each(|block| local.free(block));
    drop(local);
    check_all_returned(heap);
}

#[test]
fn what_a_thread_frees_after_its_cache_is_gone_comes_back() {
    let heap = heap!();
    let local = Local::new(heap);
    let before: Vec<Block> = (0..100).map(|n| local.allocate(bytes(n), 1)).collect();
    local.cache.retire(heap);
    let after: Vec<Block> = (0..100).map(|n| local.allocate(bytes(n), 2)).collect();
    before.into_iter().for_each(|block| local.free(block));
    after.into_iter().for_each(|block| local.free(block));
    check_all_returned(heap);
}

#[test]
fn a_thread_cache_keeps_to_its_bound() {
    let heap = heap!();
    {
        let local = Local::new(heap);
        // Every class comes and goes in numbers, so every list wants its full room.
        for _ in 0..2 {
            for class in SizeClass::all() {
                let count = 2 * class.list_max() + 1;
                let blocks: Vec<Block> = (0..count)
                    .map(|_| local.allocate(bytes(class.bytes()), 3))
                    .collect();
                blocks.into_iter().for_each(|block| local.free(block));
                local.cache.check();
            }
        }
        let cached = heap.stats().thread_cache_bytes;
        assert!(cached <= THREAD_CACHE_BYTES_MAX, "{cached}");
    }
    check_all_returned(heap);
}

#[test]
#[cfg_attr(mem_passthrough, ignore = "it takes minutes under a memory checker")]
fn mixed_sizes_take_little_more_than_what_is_live() {
    let heap = heap!();
    {
        let local = Local::new(heap);
        let mut random = Random(42);
        let mut blocks = Vec::new();
        let mut live_bytes = 0;
        while live_bytes < 48 << 20 {
            let size = random.size();
            blocks.push(local.allocate(bytes(size), 5));
            live_bytes += size;
        }
        for _ in 0..4 * blocks.len() {
            let at = random.below(blocks.len());
            let size = random.size();
            let old = std::mem::replace(&mut blocks[at], local.allocate(bytes(size), 5));
            live_bytes = live_bytes + size - old.layout.size();
            local.free(old);
        }
        let stats = heap.stats();
        let ratio = stats.system_bytes() as f64 / live_bytes as f64;
        assert!(ratio <= 1.15, "{ratio} {live_bytes} {stats:?}");
        blocks.into_iter().for_each(|block| local.free(block));
    }
    check_all_returned(heap);
}

#[test]
fn idle_memory_beyond_a_bound_goes_back_by_itself() {
    let heap = heap!();
    {
        let local = Local::new(heap);
        let blocks: Vec<Block> = (0..20).map(|n| local.allocate(bytes(8 << 20), n)).collect();
        assert!(heap.stats().system_bytes() >= 160 << 20);
        blocks.into_iter().for_each(|block| local.free(block));
        assert!(heap.stats().page_cache_bytes <= 32 << 20);
    }
    check_all_returned(heap);
}

#[test]
fn trimming_gives_back_what_is_free_and_keeps_what_is_not() {
    let heap = heap!();
    {
        let local = Local::new(heap);
        let mut blocks: Vec<Block> = (0..2_000)
            .map(|n| local.allocate(bytes(10_000), n as u8))
            .collect();
        let kept: Vec<Block> = blocks.drain(..10).collect();
        blocks.into_iter().for_each(|block| local.free(block));
        let before = heap.stats();
        let returned = heap.trim(&local.cache);
        let after = heap.stats();
        assert!(returned > 19_000_000 - (1 << 20), "{returned}");
        assert_eq!(after.live_blocks, 10);
        assert!(
            after.system_bytes() < before.system_bytes() / 10,
            "{after:?}"
        );
        kept.into_iter().for_each(|block| local.free(block));
    }
    check_all_returned(heap);
}

#[test]
fn pieces_of_both_kinds_are_merged_before_the_system_is_asked_for_more() {
    let heap = heap!();
    {
        let local = Local::new(heap);
        // One region, used up by sixteen blocks, half of it released in between.
        let mut blocks: Vec<Block> = (0..16).map(|n| local.allocate(bytes(1 << 20), n)).collect();
        let rest = blocks.split_off(8);
        rest.into_iter().for_each(|block| local.free(block));
        heap.trim(&local.cache);
        blocks.into_iter().for_each(|block| local.free(block));
        let mapped = heap.stats().mapped_bytes;
        let whole = local.allocate(bytes(16 << 20), 1);
        assert_eq!(heap.stats().mapped_bytes, mapped);
        local.free(whole);
    }
    check_all_returned(heap);
}

#[test]
fn a_double_free_is_found() {
    for size in [16, 100, 1000, 60_000, 1 << 20] {
        let heap = heap!();
        let local = Local::new(heap);
        if size <= SMALL_BYTES_MAX && !CHECKED {
            continue;
        }
        let block = local.allocate(bytes(size), 1);
        let again = Block { ..block };
        local.free(block);
        // SAFETY: none, that is the point; the heap has to notice before it acts.
        let found = catch_unwind(AssertUnwindSafe(|| unsafe {
            heap.deallocate(&local.cache, again.start, again.layout);
        }));
        assert!(found.is_err(), "{size}");
    }
}

#[test]
fn a_write_after_free_is_found_when_the_block_goes_out_again() {
    if !CHECKED {
        return;
    }
    let heap = heap!();
    let local = Local::new(heap);
    let block = local.allocate(bytes(100), 1);
    let start = block.start;
    local.free(block);
    // SAFETY: the memory is mapped; that it is not ours is the point.
    unsafe {
        assert_eq!(start.add(40).read(), POISON);
        start.add(40).write(1);
    }
    let found = catch_unwind(AssertUnwindSafe(|| local.allocate(bytes(100), 1)));
    assert!(found.is_err());
}

/// What happens in a case of the property test, by one of three caches.
#[derive(Clone, Debug)]
enum Op {
    Allocate { size: usize, align_shift: u32 },
    Free { which: usize },
    Resize { which: usize, size: usize },
    Trim,
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0..600usize,
        4 => 600..20_000usize,
        2 => 20_000..200_000usize,
        1 => 200_000..6_000_000usize,
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => (sizes(), prop_oneof![6 => 0..5u32, 1 => 5..15u32])
            .prop_map(|(size, align_shift)| Op::Allocate { size, align_shift }),
        7 => any::<usize>().prop_map(|which| Op::Free { which }),
        4 => (any::<usize>(), sizes()).prop_map(|(which, size)| Op::Resize { which, size }),
        1 => Just(Op::Trim),
    ]
}

/// Blocks by address, as a model of what is in use.
#[derive(Default)]
struct Model {
    blocks: BTreeMap<usize, Block>,
}

impl Model {
    fn add(&mut self, block: Block) {
        if block.layout.size() == 0 {
            return;
        }
        let start = block.start.addr().get();
        let before = self.blocks.range(..=start).next_back();
        let overlaps_before = before.is_some_and(|(at, other)| at + other.layout.size() > start);
        let after = self.blocks.range(start..).next();
        let overlaps_after = after.is_some_and(|(&at, _)| start + block.layout.size() > at);
        assert!(!overlaps_before && !overlaps_after, "blocks overlap");
        self.blocks.insert(start, block);
    }

    fn take(&mut self, which: usize) -> Option<Block> {
        let at = which.checked_rem(self.blocks.len())?;
        let start = *self.blocks.keys().nth(at)?;
        self.blocks.remove(&start)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn blocks_never_overlap_and_keep_their_content(
        steps in prop::collection::vec((0..3usize, ops()), 1..250)
    ) {
        let heap = heap!();
        let mut model = Model::default();
        let locals = [Local::new(heap), Local::new(heap), Local::new(heap)];
        for (round, (who, op)) in steps.into_iter().enumerate() {
            let local = &locals[who];
            match op {
                Op::Allocate { size, align_shift } => {
                    let layout = Layout::from_size_align(size, 1 << align_shift).unwrap();
                    model.add(local.allocate(layout, round as u8));
                }
                Op::Free { which } => {
                    model.take(which).into_iter().for_each(|block| local.free(block));
                }
                Op::Resize { which, size } => {
                    if let Some(block) = model.take(which) {
                        model.add(local.resize(block, size));
                    }
                }
                Op::Trim => {
                    heap.trim(&local.cache);
                }
            }
            local.cache.check();
        }
        let stats = heap.stats();
        prop_assert_eq!(stats.live_blocks, model.blocks.len());
        let asked: usize = model.blocks.values().map(|block| block.layout.size()).sum();
        prop_assert!(stats.live_bytes >= asked);
        for (index, block) in model.blocks.into_values().enumerate() {
            locals[index % 3].free(block);
        }
        drop(locals);
        check_all_returned(heap);
    }
}

#[test]
fn collections_live_in_the_pool() {
    let mut words = allocator_api2::vec::Vec::new_in(Pool);
    for word in 0..10_000u64 {
        words.push(word);
    }
    assert!(stats().live_bytes >= 80_000);
    words.truncate(10);
    words.shrink_to_fit();
    assert_eq!(words.iter().sum::<u64>(), 45);
    drop(words);
    trim();
}

#[test]
fn grown_zeroed_memory_is_zeros_behind_the_old_content() {
    for (old, new) in [(10, 16), (10, 1_000), (1_000, 100_000), (100_000, 900_000)] {
        let block = Pool.allocate(bytes(old)).unwrap().cast::<u8>();
        // SAFETY: the block is ours, and freed with its last layout.
        unsafe {
            block.write_bytes(9, old);
            let grown = Pool.grow_zeroed(block, bytes(old), bytes(new)).unwrap();
            let content = grown.as_ref();
            assert!(content[..old].iter().all(|&byte| byte == 9));
            assert!(content[old..new].iter().all(|&byte| byte == 0));
            Pool.deallocate(grown.cast(), bytes(new));
        }
    }
}

#[cfg(not(any(mem_passthrough, miri)))]
mod process_wide {
    use super::super::process::HEAP;
    use super::*;

    /// How many objects of the class of `size` are in use or cached by threads.
    fn outside(size: usize) -> usize {
        HEAP.outside_and_cached(SizeClass::of(size)).0.outside
    }

    /// A block of the process-wide pool that is freed on drop.
    struct Pooled(NonNull<u8>, Layout);

    impl Pooled {
        fn new(size: usize) -> Pooled {
            let layout = bytes(size);
            Pooled(Pool.allocate(layout).unwrap().cast(), layout)
        }
    }

    impl Drop for Pooled {
        fn drop(&mut self) {
            // SAFETY: allocated in `new` with this layout.
            unsafe { Pool.deallocate(self.0, self.1) };
        }
    }

    // Each test has a class that nothing else in the tests uses.

    #[test]
    fn a_thread_that_ends_gives_back_its_cache() {
        const SIZE: usize = 57_344;
        let thread = thread::spawn(|| {
            drop((0..10).map(|_| Pooled::new(SIZE)).collect::<Vec<_>>());
            assert!(outside(SIZE) > 0, "the thread caches what it freed");
        });
        thread.join().unwrap();
        assert_eq!(outside(SIZE), 0);
    }

    #[test]
    fn what_a_thread_frees_in_its_last_destructors_comes_back() {
        const SIZE: usize = 53_248;
        thread_local! {
            static EARLY: std::cell::RefCell<Vec<Pooled>> = const { std::cell::RefCell::new(Vec::new()) };
            static LATE: std::cell::RefCell<Vec<Pooled>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        let thread = thread::spawn(|| {
            // One destructor is registered before that of the pool and one after it,
            // so one of them runs when the thread's cache is gone.
            EARLY.with_borrow_mut(|_| ());
            let first = Pooled::new(SIZE);
            LATE.with_borrow_mut(|blocks| blocks.push(Pooled::new(SIZE)));
            EARLY.with_borrow_mut(|blocks| blocks.extend([first, Pooled::new(SIZE)]));
        });
        thread.join().unwrap();
        assert_eq!(outside(SIZE), 0);
    }
}

#[test]
fn an_aligned_block_goes_where_one_was() {
    let heap = heap!();
    {
        let local = Local::new(heap);
        let layout = Layout::from_size_align(2 << 20, 2 << 20).unwrap();
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for n in 0..64 {
            let side = if n % 2 == 0 { &mut kept } else { &mut gone };
            side.push(local.allocate(layout, n));
        }
        let mapped = heap.stats().mapped_bytes;
        gone.into_iter().for_each(|block| local.free(block));
        kept.extend((0..32).map(|n| local.allocate(layout, n)));
        assert_eq!(heap.stats().mapped_bytes, mapped);
        kept.into_iter().for_each(|block| local.free(block));
    }
    check_all_returned(heap);
}
