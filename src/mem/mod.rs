//! Memory: a tiered pool in the manner of tcmalloc, and the buffers that cross threads.
//!
//! Why not just malloc? The store's memory has a few shapes: slabs and value
//! blocks of the skiplist, made and freed by one thread; buffers filled by one
//! thread and dropped by another. A pool of our own keeps the first free of any
//! lock, bounds what the second leaves behind, says what it holds ([`stats`]), and
//! gives memory back when it is told to ([`trim`]).
//!
//! A request goes down only as far as it has to:
//!
//! ```text
//!  Pool, Buffer          size and alignment → size class            pool.rs, size_class.rs
//!    │
//!  thread cache          a stack of free objects a class; no lock   thread_cache.rs
//!    │ batches of objects
//!  central cache         a class: objects between threads, and      transfer.rs
//!    │ spans             spans with objects to give; a lock a class central_cache.rs
//!  page cache            free spans, split and merged; one lock     page_cache.rs
//!    │ regions
//!  system                mmap, madvise                              system.rs
//! ```
//!
//! - A **size class** is one of 81 sizes up to 64 KiB; a small request is rounded up to one.
//! - A **span** is a run of 8 KiB pages: cut into objects of one class, or one large
//!   block, or free. `span.rs` has it, and the lists through free memory.
//! - The **page map** leads from any address to its span, without a lock (`page_map.rs`).
//!   Only what leaves a thread cache needs it: whoever frees a block knows its
//!   layout, and so its class.
//! - A block is freed into the cache of the thread that frees it, whoever made it.
//!   A cache gives back what is too much for it, so blocks that always flow from one
//!   thread to another flow back through the central cache, a batch at a time.
//!
//! Memory checkers see nothing inside one mapping. Built with
//! `RUSTFLAGS="--cfg mem_passthrough"` (`scripts/check_memory.sh`) the pool's handle leads to
//! malloc (`passthrough.rs`). With debug assertions freed blocks are filled with
//! `0xDD`, and double frees and writes after a free are found when it is cheap.
//!
//! Start reading at `heap.rs`, which puts the tiers together, or at [`Buffer`] for use.

// What leads to malloc leaves the tiers to their own tests.
#![cfg_attr(any(mem_passthrough, loom, miri), allow(dead_code))]

mod block;
mod buffer;
mod central_cache;
#[cfg(not(loom))]
mod heap;
#[cfg(not(loom))]
mod page_cache;
mod page_map;
#[cfg(any(mem_passthrough, loom, miri))]
mod passthrough;
mod pool;
mod prefetch;
#[cfg(not(any(mem_passthrough, loom, miri)))]
mod process;
#[cfg(not(loom))]
mod registry;
mod size_class;
mod span;
mod stats;
mod sync;
mod system;
#[cfg(not(loom))]
mod thread_cache;
mod transfer;

#[cfg(any(mem_passthrough, loom, miri))]
use passthrough as backend;
#[cfg(not(any(mem_passthrough, loom, miri)))]
use process as backend;

pub use block::{Block, HUGE_PAGE_BYTES};
pub use buffer::Buffer;
pub use pool::{Pool, stats, trim};
pub use prefetch::prefetch;
pub use stats::Stats;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
