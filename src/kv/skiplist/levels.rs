//! How links rise, and how rows are split and merged.
//!
//! A row begins with the link that has risen to the level above, and holds all up to the
//! next that has. Nothing here knows of values; what changes of a link's mark beyond the
//! lowest level is made anew from the keys, since it is rare.

use allocator_api2::alloc::Allocator;

use super::{LEVELS_MAX, Place, SkipList, Trail};
use crate::kv::node::common_bytes;
use crate::kv::row::{self, Link, Mark, ROW_LINKS_MAX};

/// A row of fewer links is merged with one beside it, if both have no more than
/// [`MERGED_LINKS_MAX`] then: a full row would be split again soon.
const ROW_LINKS_MIN: usize = 8;
const MERGED_LINKS_MAX: usize = 24;

impl<A: Allocator + Clone> SkipList<A> {
    /// Inserts a link behind the one that the trail has on `level`, and says where it is.
    pub(super) fn insert_link(&mut self, trail: &mut Trail, level: usize, link: Link) -> Place {
        let mut place = trail.places[level];
        if row::len(self.row(place.row)) == ROW_LINKS_MAX {
            place = self.split(trail, level);
        }
        place.at += 1;
        row::insert(self.row_mut(place.row), place.at, link);
        place
    }

    /// Splits the full row that the trail has on `level`, and says where its link is then.
    ///
    /// Who appends leaves full rows behind, so that ascending keys fill them.
    fn split(&mut self, trail: &mut Trail, level: usize) -> Place {
        let Place { row, at } = trail.places[level];
        let kept = if at + 1 == ROW_LINKS_MAX {
            at
        } else {
            ROW_LINKS_MAX.div_ceil(2)
        };
        let right = self.allocate_row();
        let links = *self.row(row);
        row::append(self.row_mut(right), &links, kept);
        row::set_len(self.row_mut(row), kept);
        if level + 1 == self.levels {
            self.add_level(row);
            trail.places[level + 1] = Place {
                row: self.top,
                at: 0,
            };
        }
        let mark = Mark::default();
        let above = self.insert_link(trail, level + 1, Link { to: right, mark });
        self.renew_mark(level + 1, above.row, above.at);
        self.renew_mark(level + 1, above.row, above.at + 1);
        if at < kept {
            Place { row, at }
        } else {
            Place {
                row: right,
                at: at - kept,
            }
        }
    }

    /// Adds a level above all, with one link, to `first`.
    pub(super) fn add_level(&mut self, first: u32) {
        assert!(self.levels < LEVELS_MAX, "rows hold enough links");
        let mark = Mark::default();
        self.top = self.allocate_row();
        self.levels += 1;
        row::insert(self.row_mut(self.top), 0, Link { to: first, mark });
    }

    /// Takes out the link that the trail has on `level`.
    pub(super) fn unlink(&mut self, trail: &mut Trail, level: usize) {
        let Place { row, at } = trail.places[level];
        let links = self.row_mut(row);
        if row::len(links) == 1 {
            // Never the only one of the level: that one begins with the head.
            self.arena.release(row);
            self.unlink(trail, level + 1);
            return;
        }
        let gone = row::link(links, at).mark;
        row::remove(links, at);
        let len = row::len(links);
        if at == 0 {
            self.renew_marks_above(trail, level);
        } else if at < len && row::link(links, at).mark.common() > gone.common() {
            // Else the next key leaves the one before where it left the one that is gone.
            self.renew_mark(level, row, at);
        }
        if len < ROW_LINKS_MIN {
            self.merge(trail, level);
        }
    }

    /// After the first link of the trail's row on `level` has become another.
    fn renew_marks_above(&mut self, trail: &Trail, level: usize) {
        for above in level + 1..self.levels {
            let Place { row, at } = trail.places[above];
            self.renew_mark(above, row, at);
            self.renew_mark(above, row, at + 1);
            if at > 0 {
                return;
            }
        }
    }

    /// Merges the trail's row on `level` with one beside it, if there is one and few
    /// links are in both; drops levels of one link.
    fn merge(&mut self, trail: &mut Trail, level: usize) {
        if level + 1 == self.levels {
            while self.levels > 1 && row::len(self.row(self.top)) == 1 {
                let below = row::link(self.row(self.top), 0).to;
                self.arena.release(self.top);
                self.top = below;
                self.levels -= 1;
            }
            return;
        }
        let Place { row: above, at } = trail.places[level + 1];
        let last = row::len(self.row(above)) - 1;
        let links_at = |at| row::len(self.row(row::link(self.row(above), at).to));
        // With the row behind, else with the one before: the left one of the two.
        let mut pairs = [Some(at), at.checked_sub(1)].into_iter().flatten();
        let pair =
            pairs.find(|&at| at < last && links_at(at) + links_at(at + 1) <= MERGED_LINKS_MAX);
        let Some(at) = pair else { return };
        let left = row::link(self.row(above), at).to;
        let right = row::link(self.row(above), at + 1).to;
        let (links, kept) = (*self.row(right), row::len(self.row(left)));
        row::append(self.row_mut(left), &links, 0);
        self.renew_mark(level, left, kept);
        self.arena.release(right);
        trail.places[level + 1].at = at + 1;
        self.unlink(trail, level + 1);
    }

    /// Makes the mark of a link anew, from the keys at its ends; nothing if it is the
    /// first of its row or there is none.
    pub(super) fn renew_mark(&mut self, level: usize, row: u32, at: usize) {
        let links = self.row(row);
        if at == 0 || at >= row::len(links) {
            return;
        }
        let (before, to) = (row::link(links, at - 1).to, row::link(links, at).to);
        let key = self.key_of(level, to);
        let common = common_bytes(self.key_of(level, before), key);
        let mark = Mark::of(key, common);
        row::set_link(self.row_mut(row), at, Link { to, mark });
    }
}
