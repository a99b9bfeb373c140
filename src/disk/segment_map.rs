//! A segment of the log that is stored into: mapped into memory, or written with `pwrite`
//! where the file system may need new blocks for a store (see `file_system.rs`).
//!
//! The map is the only memory that the disk shares with a file, and a slice of it goes to
//! `calls::store` alone. Its pages are cached in small folios (see `segment_maker.rs`), or each sync
//! would write a megabyte; reads never go through it, since a bad sector under a mapped read
//! is a signal and not an error.

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::{Advice, MmapMut, MmapOptions};

use super::file_system::Stores;
use super::{SegmentId, calls, file_name};

/// A segment that is open, and which part of it was stored into since the last sync.
#[derive(Debug)]
pub(super) struct SegmentMap {
    place: Place,
    len: usize,
    /// Whether its pages came in by stores or in small pieces, and most of them are there.
    is_warm: bool,
    dirty: Range<usize>,
}

#[derive(Debug)]
enum Place {
    Mapped(MmapMut),
    Written(File),
}

impl SegmentMap {
    /// Opens the whole file, all of whose blocks are allocated.
    pub(super) fn new(file: File, len: u64, stores: Stores) -> io::Result<SegmentMap> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let place = match stores {
            Stores::Mapped => Place::Mapped(map(&file, len)?),
            Stores::Written => Place::Written(file),
        };
        Ok(SegmentMap {
            place,
            len,
            is_warm: true,
            dirty: 0..0,
        })
    }

    /// As [`SegmentMap::new`], of a file that is not in the page cache.
    pub(super) fn cold(file: File, len: u64, stores: Stores) -> io::Result<SegmentMap> {
        let map = SegmentMap::new(file, len, stores)?;
        Ok(SegmentMap {
            is_warm: false,
            ..map
        })
    }

    /// Whether it can be recycled as it is.
    pub(super) fn is_warm(&self) -> bool {
        self.is_warm
    }

    /// Whether it holds a file descriptor.
    pub(super) fn is_file(&self) -> bool {
        matches!(self.place, Place::Written(_))
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Brings the pages in, so that no store has to wait for a read; for a file that
    /// is not in the page cache.
    pub(super) fn populate(&self) -> io::Result<()> {
        let Place::Mapped(map) = &self.place else {
            return Ok(());
        };
        match map.advise(Advice::PopulateRead) {
            // Linux before 5.14 cannot; stores will wait for their pages then.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            result => result,
        }
    }

    /// Copies `data` to `offset` of the segment, which is `id` by now. A failed store may have been carried out in part, and can be
    /// repeated.
    ///
    /// # Errors
    /// Where the segment is written: what the system says, lack of room above all.
    pub(super) fn store(&mut self, id: SegmentId, offset: usize, data: &[u8]) -> io::Result<()> {
        let end = offset
            .checked_add(data.len())
            .filter(|end| *end <= self.len);
        let end = end.expect("the log stores only inside of its segments");
        self.dirty = if self.dirty.is_empty() {
            offset..end
        } else {
            self.dirty.start.min(offset)..self.dirty.end.max(end)
        };
        match &mut self.place {
            Place::Mapped(map) => calls::store(map, id, offset, data),
            Place::Written(file) => {
                let name = file_name::segment(id);
                calls::write_all_at(file, name.as_ref(), data, offset as u64)?;
            }
        }
        Ok(())
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
        match &self.place {
            Place::Mapped(map) => map.flush_range(dirty.start, dirty.len()),
            Place::Written(file) => file.sync_data(),
        }
    }
}

fn map(file: &File, len: usize) -> io::Result<MmapMut> {
    // SAFETY: the file is ours alone: the directory is locked, and nothing in this
    // process shortens a segment or writes it any other way once it is mapped. Its
    // length was checked by whoever made it, its blocks are allocated, and its file
    // system overwrites them in place, so that no store can fail for lack of room.
    let map = unsafe { MmapOptions::new().len(len).map_mut(file)? };
    // Readahead would bring large folios in.
    map.advise(Advice::Random)?;
    Ok(map)
}
