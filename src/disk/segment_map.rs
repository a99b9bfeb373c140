//! A segment of the log, mapped into memory: the only memory that the disk shares with a file.
//!
//! No slice of the map leaves this file. Its pages are cached in small folios (see
//! `segment_maker.rs`), or each sync would write a megabyte; reads never go through
//! it, since a bad sector under a mapped read is a signal and not an error.

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::{Advice, MmapMut, MmapOptions};

/// A mapped segment, and which part of it was stored into since the last sync.
#[derive(Debug)]
pub(super) struct SegmentMap {
    map: MmapMut,
    /// Whether its pages came in by stores or in small pieces, and most of them are there.
    is_warm: bool,
    dirty: Range<usize>,
}

impl SegmentMap {
    /// Maps the whole file, all of whose blocks are allocated.
    pub(super) fn new(file: &File, len: u64) -> io::Result<SegmentMap> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        // SAFETY: the file is ours alone: the directory is locked, and nothing in this
        // process shortens a segment or writes it any other way once it is mapped. Its
        // length was checked by whoever made it, its blocks are allocated, so that no
        // store can fail for lack of room.
        let map = unsafe { MmapOptions::new().len(len).map_mut(file)? };
        // Readahead would bring large folios in.
        map.advise(Advice::Random)?;
        Ok(SegmentMap {
            map,
            is_warm: true,
            dirty: 0..0,
        })
    }

    /// As [`SegmentMap::new`], of a file that is not in the page cache.
    pub(super) fn cold(file: &File, len: u64) -> io::Result<SegmentMap> {
        let map = SegmentMap::new(file, len)?;
        Ok(SegmentMap {
            is_warm: false,
            ..map
        })
    }

    /// Whether it can be recycled as it is.
    pub(super) fn is_warm(&self) -> bool {
        self.is_warm
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Brings the pages in, so that no store has to wait for a read; for a file that
    /// is not in the page cache.
    pub(super) fn populate(&self) -> io::Result<()> {
        match self.map.advise(Advice::PopulateRead) {
            // Linux before 5.14 cannot; stores will wait for their pages then.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            result => result,
        }
    }

    /// Copies `data` to `offset`.
    pub(super) fn store(&mut self, offset: usize, data: &[u8]) {
        let end = offset
            .checked_add(data.len())
            .filter(|end| *end <= self.map.len());
        let end = end.expect("the log stores only inside of its segments");
        self.map[offset..end].copy_from_slice(data);
        self.dirty = if self.dirty.is_empty() {
            offset..end
        } else {
            self.dirty.start.min(offset)..self.dirty.end.max(end)
        };
    }

    /// The bytes that a sync brings to the device.
    #[cfg(test)]
    pub(super) fn dirty(&self) -> Range<usize> {
        self.dirty.clone()
    }

    /// Whether there is anything to sync.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Writes what was stored to the device, and waits for it. Not to be called again
    /// after an error.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let dirty = std::mem::take(&mut self.dirty);
        self.map.flush_range(dirty.start, dirty.len())
    }
}
