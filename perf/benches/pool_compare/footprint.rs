//! What an allocator holds beside what is in use. Each runs in a process of its own,
//! so that what the process has from the system is the allocator's doing.

use std::alloc::Layout;
use std::fs;
use std::time::Duration;

use raftkv::mem;

use crate::Random;
use crate::heaps::{Choice, Heap};

const OPERATIONS: usize = 10_000_000;
/// How many blocks there is room for; half of them are in use on average.
const SLOTS: usize = 1 << 17;
/// How often the process is looked at.
const LOOK_EVERY: usize = 100_000;
/// Before that the heap has not reached its size yet.
const WARM_UP: usize = 1_000_000;

/// What the sizes are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Evenly between 16 and 1024.
    Even,
    /// Up to 16, 32, … 8,192 with equal chances: mostly small, now and then large.
    Skewed,
}

impl Mix {
    fn draw(self, random: &mut Random) -> usize {
        match self {
            Mix::Even => 16 + random.below(1009),
            Mix::Skewed => {
                let limit = 1 << (4 + random.below(10));
                1 + random.below(limit)
            }
        }
    }
}

/// A table of blocks, and how much was asked for in it.
struct Table<H> {
    blocks: Vec<Option<(*mut u8, Layout)>>,
    live_bytes: usize,
    heap: std::marker::PhantomData<H>,
}

impl<H: Heap> Table<H> {
    fn new() -> Table<H> {
        let mut blocks = vec![None; SLOTS];
        // Not only mapped but resident, so that it is in the figure from before.
        blocks.fill(Some((std::ptr::null_mut(), Layout::new::<u8>())));
        blocks.fill(None);
        Table {
            blocks,
            live_bytes: 0,
            heap: std::marker::PhantomData,
        }
    }

    fn free(&mut self, slot: usize) -> bool {
        let Some((block, layout)) = self.blocks[slot].take() else {
            return false;
        };
        self.live_bytes -= layout.size();
        // SAFETY: made with this layout.
        unsafe { H::free(block, layout) };
        true
    }

    fn make(&mut self, slot: usize, bytes: usize) {
        let layout = Layout::from_size_align(bytes, 8).expect("a small layout");
        let block = H::allocate(layout);
        // SAFETY: the block is ours, and that long.
        unsafe { block.write_bytes(0x5a, bytes) };
        self.live_bytes += bytes;
        self.blocks[slot] = Some((block, layout));
    }
}

/// 10,000,000 operations, each freeing the block of a slot drawn at random or making
/// one there; prints a row: live MiB, then held/live at the end and at most, by the process
/// and (of the pool) by its own account.
pub fn fragmentation<H: Heap>(mix: Mix) {
    let mut random = Random(0xf4a6);
    let mut table = Table::<H>::new();
    let before = anonymous_bytes();
    let mut figures = Figures::default();
    for operation in 1..=OPERATIONS {
        let slot = random.below(SLOTS);
        if !table.free(slot) {
            let bytes = mix.draw(&mut random);
            table.make(slot, bytes);
        }
        if operation % LOOK_EVERY == 0 && operation >= WARM_UP {
            figures.add(anonymous_bytes() - before, held_by::<H>(), table.live_bytes);
        }
    }
    let by_itself = match held_by::<H>() {
        Some(_) => format!("{:.3} / {:.3}", figures.own_last, figures.own_most),
        None => "–".to_owned(),
    };
    println!(
        "| {mix:?} | {} | {} | {:.3} / {:.3} | {by_itself} |",
        H::NAME,
        table.live_bytes >> 20,
        figures.last,
        figures.most,
    );
    if H::CHOICE == Choice::Pool {
        let stats = mem::stats();
        let share = |bytes: usize| format!("{:.3}", bytes as f64 / table.live_bytes as f64);
        let inside = stats.live_bytes + stats.thread_cache_bytes + stats.central_cache_bytes;
        println!(
            "| | of it: blocks as rounded up | {} | threads' caches {}, free in spans {}, ends of spans {} | free spans {}, bookkeeping {} |",
            share(stats.live_bytes),
            share(stats.thread_cache_bytes),
            share(stats.central_cache_bytes),
            share(stats.span_bytes - inside),
            share(stats.page_cache_bytes),
            share(stats.metadata_bytes),
        );
    }
}

#[derive(Default)]
struct Figures {
    last: f64,
    most: f64,
    own_last: f64,
    own_most: f64,
}

impl Figures {
    fn add(&mut self, held: usize, own: Option<usize>, live: usize) {
        self.last = held as f64 / live as f64;
        self.most = self.most.max(self.last);
        if let Some(own) = own {
            self.own_last = own as f64 / live as f64;
            self.own_most = self.own_most.max(self.own_last);
        }
    }
}

/// Fills 256 MiB with blocks of mixed sizes, frees all of them in random order, and
/// prints what the process still holds, in MiB: at once, after a second in which other blocks
/// come and go, and after the pool was told to trim.
pub fn idle<H: Heap>() {
    let mut random = Random(0x1d1e);
    let mut table = Table::<H>::new();
    table.blocks.clear();
    let mut sizes = Vec::with_capacity(1 << 20);
    while sizes.iter().sum::<usize>() < 256 << 20 {
        sizes.extend((0..10_000).map(|_| Mix::Skewed.draw(&mut random)));
    }
    table.blocks = vec![None; sizes.len()];
    table
        .blocks
        .fill(Some((std::ptr::null_mut(), Layout::new::<u8>())));
    table.blocks.fill(None);
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    for index in (1..order.len()).rev() {
        order.swap(index, random.below(index + 1));
    }
    let before = anonymous_bytes();
    let held = |before: usize| anonymous_bytes().saturating_sub(before) >> 20;
    for (slot, &bytes) in sizes.iter().enumerate() {
        table.make(slot, bytes);
    }
    let full = held(before);
    for &slot in &order {
        table.free(slot);
    }
    let at_once = held(before);
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(10));
        for (slot, &bytes) in sizes.iter().enumerate().take(100) {
            table.make(slot, bytes);
            table.free(slot);
        }
    }
    let later = held(before);
    let trimmed = if H::CHOICE == Choice::Pool {
        mem::trim();
        held(before).to_string()
    } else {
        "–".to_owned()
    };
    println!("| {} | {full} | {at_once} | {later} | {trimmed} |", H::NAME);
}

fn held_by<H: Heap>() -> Option<usize> {
    (H::CHOICE == Choice::Pool).then(|| mem::stats().system_bytes())
}

/// What the process holds that is in no file, in bytes.
fn anonymous_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<usize>().ok())
        .expect("a figure in KiB")
        * 1024
}
