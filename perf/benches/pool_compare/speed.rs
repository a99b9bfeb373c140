//! What a block costs, made and freed by one thread or by two.

use std::alloc::Layout;
use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use concurrent_queue::{ConcurrentQueue, PopError};

use crate::Random;
use crate::heaps::Heap;

/// How many sizes are drawn ahead of a run.
const DRAWN: usize = 4096;
/// How many blocks cross at a time, where the queue's cost must not show.
const CHUNK: usize = 256;
/// Chunks between two threads.
const CHUNKS: usize = 8;
/// Chunks that took this many times the median were interrupted and do not count.
const INTERRUPTED: u32 = 20;

/// Which sizes a run asks for.
#[derive(Clone, Copy, Debug)]
pub enum Sizes {
    One(usize),
    /// Evenly between 16 and 1024.
    Mixed,
}

impl Sizes {
    pub fn name(self) -> String {
        match self {
            Sizes::One(bytes) => format!("{bytes} B"),
            Sizes::Mixed => "16–1024 B".to_owned(),
        }
    }

    /// A power of two of layouts, to be gone through in turn.
    fn layouts(self) -> Vec<Layout> {
        let mut random = Random(0x5eed);
        (0..DRAWN)
            .map(|_| match self {
                Sizes::One(bytes) => bytes,
                Sizes::Mixed => 16 + random.below(1009),
            })
            .map(|bytes| Layout::from_size_align(bytes, 8).expect("a small layout"))
            .collect()
    }
}

/// What is done with a block between its two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    Nothing,
    /// Every byte is written, and one of each cache line read by who frees it.
    All,
}

impl Touch {
    #[inline]
    fn write(self, block: *mut u8, layout: Layout) {
        if self == Touch::All {
            // SAFETY: the block is ours, and that long.
            unsafe { block.write_bytes(0x5a, layout.size()) };
            // Of a store into a block that is freed next the compiler knows that it is in
            // vain, if the block is malloc's.
            black_box(block);
        }
    }

    #[inline]
    fn read(self, block: *mut u8, layout: Layout) {
        if self == Touch::All {
            for offset in (0..layout.size()).step_by(64) {
                // SAFETY: the block is ours, that long, and was written.
                black_box(unsafe { block.add(offset).read() });
            }
        }
    }
}

/// Makes a block and frees it at once, `count` times; nanoseconds for the two.
pub fn pairs<H: Heap>(sizes: Sizes, touch: Touch, count: usize) -> f64 {
    let layouts = sizes.layouts();
    let begin = Instant::now();
    for turn in 0..count {
        let layout = layouts[turn % DRAWN];
        let block = black_box(H::allocate(layout));
        touch.write(block, layout);
        // SAFETY: made above with this layout.
        unsafe { H::free(block, layout) };
    }
    nanos_each(begin.elapsed(), count)
}

/// Makes `depth` blocks and frees them, last first, over and over.
pub fn stack<H: Heap>(sizes: Sizes, depth: usize, count: usize) -> f64 {
    let layouts = sizes.layouts();
    let mut blocks = Vec::with_capacity(depth);
    let begin = Instant::now();
    for round in 0..count / depth {
        for turn in 0..depth {
            let layout = layouts[(round * depth + turn) % DRAWN];
            blocks.push((H::allocate(layout), layout));
        }
        while let Some((block, layout)) = blocks.pop() {
            // SAFETY: made above with this layout.
            unsafe { H::free(block, layout) };
        }
    }
    nanos_each(begin.elapsed(), count)
}

/// Keeps `live` blocks; each step frees one of them, drawn at random, and makes another.
pub fn window<H: Heap>(sizes: Sizes, live: usize, count: usize) -> f64 {
    let layouts = sizes.layouts();
    let mut random = Random(0xf1f0);
    let places: Vec<u32> = (0..DRAWN).map(|_| random.below(live) as u32).collect();
    let mut blocks: Vec<(*mut u8, Layout)> = (0..live)
        .map(|turn| layouts[turn % DRAWN])
        .map(|layout| (H::allocate(layout), layout))
        .collect();
    let begin = Instant::now();
    for turn in 0..count {
        // Another round through the places each time, so that they do not repeat soon.
        let place = (places[turn % DRAWN] as usize + turn / DRAWN) % live;
        let (block, layout) = blocks[place];
        // SAFETY: made with this layout, here or below.
        unsafe { H::free(block, layout) };
        let layout = layouts[(turn * 7) % DRAWN];
        blocks[place] = (H::allocate(layout), layout);
    }
    let elapsed = begin.elapsed();
    for (block, layout) in blocks {
        // SAFETY: made with this layout.
        unsafe { H::free(block, layout) };
    }
    nanos_each(elapsed, count)
}

/// A block on its way to another thread.
struct Block(*mut u8, Layout);

// SAFETY: a block is owned by who has it.
unsafe impl Send for Block {}

/// One thread makes blocks, another frees them, [`CHUNK`] at a time; only the making
/// and the freeing is timed, so the queue between them and their waiting for each
/// other is not in the figure.
pub fn handed_over<H: Heap>(sizes: Sizes, touch: Touch, count: usize) -> f64 {
    let (full_tx, full_rx) = crossbeam_channel::bounded::<Vec<Block>>(CHUNKS);
    let (empty_tx, empty_rx) = crossbeam_channel::bounded::<Vec<Block>>(CHUNKS);
    for _ in 0..CHUNKS {
        let sent = empty_tx.send(Vec::with_capacity(CHUNK));
        sent.expect("there is room for each");
    }
    let layouts = sizes.layouts();
    let chunks = count / CHUNK;
    thread::scope(|scope| {
        let consumer = scope.spawn(move || {
            let mut times = Vec::with_capacity(chunks);
            for mut chunk in full_rx {
                let begin = Instant::now();
                for Block(block, layout) in chunk.drain(..) {
                    touch.read(block, layout);
                    // SAFETY: made by the producer with this layout.
                    unsafe { H::free(block, layout) };
                }
                times.push(begin.elapsed());
                // At the end nobody waits for it.
                let _ = empty_tx.send(chunk);
            }
            undisturbed(times)
        });
        let mut times = Vec::with_capacity(chunks);
        for round in 0..chunks {
            let mut chunk = empty_rx.recv().expect("the consumer lives");
            let begin = Instant::now();
            for turn in 0..CHUNK {
                let layout = layouts[(round * CHUNK + turn) % DRAWN];
                let block = H::allocate(layout);
                touch.write(block, layout);
                chunk.push(Block(block, layout));
            }
            times.push(begin.elapsed());
            full_tx.send(chunk).expect("the consumer lives");
        }
        drop(full_tx);
        let freed = consumer.join().expect("the consumer ends");
        undisturbed(times) + freed
    })
}

/// As [`handed_over`], one at a time through a bounded lock-free queue: nanoseconds
/// from the first to the last, the queue's own included.
pub fn queued<H: Heap>(sizes: Sizes, touch: Touch, count: usize) -> f64 {
    let layouts = sizes.layouts();
    through_queue(
        count,
        |turn| {
            let layout = layouts[turn % DRAWN];
            let block = H::allocate(layout);
            touch.write(block, layout);
            Block(block, layout)
        },
        |Block(block, layout)| {
            touch.read(block, layout);
            // SAFETY: made by the producer with this layout.
            unsafe { H::free(block, layout) };
        },
    )
}

/// What the queue alone costs: as many bytes as a block's name, and no block.
pub fn queue_alone(count: usize) -> f64 {
    through_queue(
        count,
        |turn| (turn, turn),
        |item| {
            black_box(item);
        },
    )
}

fn through_queue<T: Send>(
    count: usize,
    make: impl Fn(usize) -> T,
    consume: impl Fn(T) + Send,
) -> f64 {
    let queue = Arc::new(ConcurrentQueue::bounded(1024));
    let other = queue.clone();
    let begin = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            loop {
                match other.pop() {
                    Ok(item) => consume(item),
                    Err(PopError::Empty) => thread::yield_now(),
                    Err(PopError::Closed) => return,
                }
            }
        });
        for turn in 0..count {
            let mut item = make(turn);
            while let Err(refused) = queue.push(item) {
                item = refused.into_inner();
                thread::yield_now();
            }
        }
        queue.close();
    });
    nanos_each(begin.elapsed(), count)
}

/// Nanoseconds a block, without the chunks during which the thread was off its core.
pub fn undisturbed(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let median = times[times.len() / 2];
    times.retain(|&time| time <= median * INTERRUPTED);
    let sum: Duration = times.iter().sum();
    nanos_each(sum, times.len() * CHUNK)
}

fn nanos_each(elapsed: Duration, count: usize) -> f64 {
    elapsed.as_secs_f64() * 1e9 / count as f64
}
