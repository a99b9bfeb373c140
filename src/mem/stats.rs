//! What the pool tells about itself.

/// What the pool holds, at about one moment: the tiers are looked at one after
/// the other while threads go on.
///
/// `span_bytes` is `live_bytes`, `central_cache_bytes` and `thread_cache_bytes`
/// together, and what is lost at the ends of spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of blocks in use, each rounded up to its size class or to pages.
    pub live_bytes: usize,
    /// Blocks in use.
    pub live_blocks: usize,
    /// Of `live_bytes`, those of blocks that are spans of their own.
    pub large_bytes: usize,
    /// Bytes of free blocks in the caches of threads.
    pub thread_cache_bytes: usize,
    /// Bytes of free blocks in spans that also have blocks in use.
    pub central_cache_bytes: usize,
    /// Bytes of free spans that are backed by memory.
    pub page_cache_bytes: usize,
    /// Bytes of spans in use.
    pub span_bytes: usize,
    /// Bytes of address space; it is never given back.
    pub mapped_bytes: usize,
    /// Of `mapped_bytes`, those that no memory is behind.
    pub released_bytes: usize,
    /// Bytes of descriptions of spans, not part of `mapped_bytes`.
    pub metadata_bytes: usize,
    /// Threads that have a cache.
    pub thread_caches: usize,
}

impl Stats {
    /// What the pool has from the system, at most: fresh memory in a span counts
    /// before it is touched.
    #[must_use]
    pub fn system_bytes(&self) -> usize {
        self.mapped_bytes - self.released_bytes + self.metadata_bytes
    }
}
