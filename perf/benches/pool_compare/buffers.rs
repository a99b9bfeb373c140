//! What a buffer costs on its way: made, filled in pieces, frozen, cloned, sliced, and
//! dropped by another thread.

use std::hint::black_box;
use std::marker::PhantomData;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use raftkv::mem::Buffer;

use crate::heaps::{Choice, Heap, Switch};
use crate::speed::undisturbed;

/// What collects bytes and turns into [`Bytes`].
pub trait Filled {
    fn name() -> String;
    /// The global allocator meanwhile.
    const CHOICE: Choice;
    /// `pieces` times `piece`, with room for them from the start.
    fn fill(piece: &[u8], pieces: usize) -> Bytes;
}

/// [`Buffer`], with `H` for what `Bytes` takes from the global allocator.
pub struct PoolBuffer<H>(PhantomData<H>);
/// `Vec<u8>` on `H`.
pub struct Vector<H>(PhantomData<H>);

impl<H: Heap> Filled for PoolBuffer<H> {
    fn name() -> String {
        format!("`Buffer`, else {}", H::NAME)
    }
    const CHOICE: Choice = H::CHOICE;

    #[inline]
    fn fill(piece: &[u8], pieces: usize) -> Bytes {
        let mut buffer = Buffer::with_capacity(piece.len() * pieces + 1);
        for _ in 0..pieces {
            buffer.extend_from_slice(black_box(piece));
        }
        buffer.freeze()
    }
}

impl<H: Heap> Filled for Vector<H> {
    fn name() -> String {
        format!("`Vec<u8>`, {}", H::NAME)
    }
    const CHOICE: Choice = H::CHOICE;

    #[inline]
    fn fill(piece: &[u8], pieces: usize) -> Bytes {
        // Room for one more, as when the length is not known to the byte: a vector
        // that is full is frozen more cheaply, but clones at the price of a box.
        let mut buffer = Vec::with_capacity(piece.len() * pieces + 1);
        for _ in 0..pieces {
            buffer.extend_from_slice(black_box(piece));
        }
        Bytes::from(buffer)
    }
}

const CHUNK: usize = 256;
const CHUNKS: usize = 4;

/// Nanoseconds a buffer for both threads together, of `count` buffers with `bytes` in four pieces.
pub fn passed_on<F: Filled>(bytes: usize, count: usize) -> f64 {
    let (full_tx, full_rx) = crossbeam_channel::bounded::<Vec<[Bytes; 2]>>(CHUNKS);
    let (empty_tx, empty_rx) = crossbeam_channel::bounded(CHUNKS);
    for _ in 0..CHUNKS {
        let sent = empty_tx.send(Vec::with_capacity(CHUNK));
        sent.expect("there is room for each");
    }
    let piece = vec![7; bytes / 4];
    let chunks = count / CHUNK;
    thread::scope(|scope| {
        let consumer = scope.spawn(move || {
            let mut times = Vec::with_capacity(chunks);
            for mut chunk in full_rx {
                let begin = Instant::now();
                Switch::with(F::CHOICE, || chunk.clear());
                times.push(begin.elapsed());
                // At the end nobody waits for it.
                let _ = empty_tx.send(chunk);
            }
            undisturbed(times)
        });
        let mut times = Vec::with_capacity(chunks);
        for _ in 0..chunks {
            let mut chunk = empty_rx.recv().expect("the consumer lives");
            let begin = Instant::now();
            Switch::with(F::CHOICE, || {
                for _ in 0..CHUNK {
                    let frozen = F::fill(&piece, 4);
                    let tail = frozen.slice(bytes / 2..);
                    chunk.push([frozen, tail]);
                }
            });
            times.push(begin.elapsed());
            full_tx.send(chunk).expect("the consumer lives");
        }
        drop(full_tx);
        let dropped = consumer.join().expect("the consumer ends");
        undisturbed(times) + dropped
    })
}
