//! A growable byte buffer from the pool that turns into [`Bytes`] without a copy.

use std::alloc::{Layout, handle_alloc_error};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::slice;

use allocator_api2::alloc::Allocator;
use bytes::buf::UninitSlice;
use bytes::{BufMut, Bytes};

use super::Pool;

/// The least that is allocated, in bytes, so that small steps do not reallocate often.
const CAPACITY_BYTES_MIN: usize = 64;
/// The most room that a growing [`BufMut`] claims to have: slices cannot be longer.
const CAPACITY_BYTES_MAX: usize = isize::MAX as usize;

/// Bytes being put together: a frame, a batch of the log, what a socket received.
///
/// Grows like a `Vec<u8>`, its memory comes from the [`Pool`], and it may be made,
/// filled and dropped by different threads. As a [`BufMut`] it takes an encoded
/// message without a buffer in between.
///
/// Like a `Vec`, it ends the process if the system has no more memory: the bounds
/// of [`crate::limits`] are there to keep it from that.
pub struct Buffer {
    /// Dangling while `capacity` is 0.
    start: NonNull<u8>,
    /// How many bytes are written; at most `capacity`.
    len: usize,
    /// How long the block is.
    capacity: usize,
}

// SAFETY: a buffer owns its block alone, and the pool takes blocks back on any thread.
unsafe impl Send for Buffer {}
// SAFETY: a shared buffer can only be read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// An empty buffer that holds no memory yet.
    #[must_use]
    pub const fn new() -> Buffer {
        Buffer {
            start: NonNull::dangling(),
            len: 0,
            capacity: 0,
        }
    }

    /// An empty buffer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Buffer {
        let mut buffer = Buffer::new();
        if capacity > 0 {
            buffer.reallocate(capacity);
        }
        buffer
    }

    /// How many bytes are written.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is written.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes fit before the buffer has to grow.
    #[must_use]
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends `bytes`.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        // SAFETY: there is room for them, and a slice elsewhere cannot overlap it.
        unsafe {
            self.start
                .add(self.len)
                .copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
        }
        self.len += bytes.len();
    }

    /// Makes room for `additional` more bytes.
    #[inline]
    pub fn reserve(&mut self, additional: usize) {
        if additional > self.capacity - self.len {
            self.grow(additional);
        }
    }

    /// Forgets all but the first `len` bytes; the memory stays. No effect if there are
    /// no more.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Forgets all bytes; the memory stays.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The room behind the bytes that are written. Filled from its front, and then
    /// taken in with [`Buffer::set_len`].
    #[inline]
    pub fn spare_capacity_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: the block has `capacity` bytes, of which the first `len` are not part
        // of this slice; uninitialised memory is valid for its element type.
        unsafe {
            let spare = self.start.add(self.len).cast().as_ptr();
            slice::from_raw_parts_mut(spare, self.capacity - self.len)
        }
    }

    /// Says that `len` bytes are written.
    ///
    /// # Safety
    /// They are, and are not more than [`Buffer::capacity`].
    #[inline]
    pub unsafe fn set_len(&mut self, len: usize) {
        debug_assert!(len <= self.capacity, "what is written fits the capacity");
        self.len = len;
    }

    /// Reads once from a file or a socket into the room of at least `room` bytes
    /// behind what is written; returns how many bytes came, 0 at the end.
    ///
    /// # Errors
    /// What the system says, `WouldBlock` and `Interrupted` included; the content is then
    /// as it was.
    pub fn read_from(&mut self, source: impl AsFd, room: usize) -> io::Result<usize> {
        self.reserve(room);
        let (read, _) = rustix::io::read(source, self.spare_capacity_mut())?;
        let count = read.len();
        self.len += count;
        Ok(count)
    }

    /// Ends the writing; the memory goes back to the pool with the last clone. What
    /// the buffer has beyond its content stays with it until then.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        if self.is_empty() {
            Bytes::new()
        } else {
            Bytes::from_owner(self)
        }
    }

    /// At least doubles the capacity, so that appending costs constant time a byte.
    #[cold]
    fn grow(&mut self, additional: usize) {
        let needed = self
            .len
            .checked_add(additional)
            .filter(|&needed| needed <= CAPACITY_BYTES_MAX)
            .expect("a buffer is not longer than the address space");
        let doubled = self.capacity.saturating_mul(2).min(CAPACITY_BYTES_MAX);
        self.reallocate(needed.max(doubled).max(CAPACITY_BYTES_MIN));
    }

    fn reallocate(&mut self, capacity: usize) {
        let layout = Layout::array::<u8>(capacity).expect("a capacity fits an isize");
        let block = if self.capacity == 0 {
            Pool.allocate(layout)
        } else {
            // SAFETY: the block came from the pool with this layout, and grows.
            unsafe { Pool.grow(self.start, self.layout(), layout) }
        };
        let block = block.unwrap_or_else(|_| handle_alloc_error(layout));
        self.start = block.cast();
        // All that came: the block fits a layout of that length too.
        self.capacity = block.len();
    }

    fn layout(&self) -> Layout {
        // SAFETY: the block is that long, so it was a valid layout.
        unsafe { Layout::from_size_align_unchecked(self.capacity, 1) }
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        if self.capacity > 0 {
            // SAFETY: the block came from the pool and fits this layout.
            unsafe { Pool.deallocate(self.start, self.layout()) };
        }
    }
}

// SAFETY: `chunk_mut` is the room behind `len`, and `advance_mut` takes in no more.
unsafe impl BufMut for Buffer {
    #[inline]
    fn remaining_mut(&self) -> usize {
        CAPACITY_BYTES_MAX - self.len
    }

    #[inline]
    unsafe fn advance_mut(&mut self, count: usize) {
        assert!(
            count <= self.capacity - self.len,
            "what was written fits the room"
        );
        self.len += count;
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        if self.len == self.capacity {
            self.reserve(CAPACITY_BYTES_MIN);
        }
        UninitSlice::uninit(self.spare_capacity_mut())
    }

    #[inline]
    fn put_slice(&mut self, source: &[u8]) {
        self.extend_from_slice(source);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the first `len` bytes are written.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the first `len` bytes are written.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer::new()
    }
}

impl From<&[u8]> for Buffer {
    fn from(bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::with_capacity(bytes.len());
        buffer.extend_from_slice(bytes);
        buffer
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        Buffer::from(&self[..])
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Buffer) -> bool {
        self[..] == other[..]
    }
}

impl Eq for Buffer {}

/// Length and capacity; the bytes are somebody's data.
impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
