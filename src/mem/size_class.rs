//! Size classes: every small request is rounded up to one of a few sizes.
//!
//! One size for all would waste memory, a free list for each size would scatter it.
//! The classes are 8, then multiples of 16 up to 128, then eight steps a doubling
//! up to [`SMALL_BYTES_MAX`], so that rounding up never costs more than one byte
//! in eight above 128. The objects of a class are cut from spans of whole pages.

use std::alloc::Layout;

/// How many bits of an address are the offset in a page.
pub(super) const PAGE_SHIFT: u32 = 13;
/// The unit that spans are made of, in bytes. Twice the kernel's: half the
/// bookkeeping for each span, and small spans that still hold many objects.
pub(super) const PAGE_BYTES: usize = 1 << PAGE_SHIFT;
/// The largest object that is cut from a span; what is larger has a span to
/// itself, and rounding that up to pages wastes no more than the classes do.
pub(super) const SMALL_BYTES_MAX: usize = 64 << 10;
/// The largest alignment that a class can give: that of a span.
pub(super) const SMALL_ALIGN_MAX: usize = PAGE_BYTES;
/// How many classes there are.
pub(super) const CLASS_COUNT: usize = 1 + FINE_COUNT + 8 * DOUBLINGS;

/// How long a table is that is read on every allocation: a power of two, so that a
/// masked index needs no check against its end.
pub(super) const CLASS_SLOTS: usize = 128;

/// The classes 16, 32, …, 128.
const FINE_COUNT: usize = (FINE_MAX / 16) as usize;
const FINE_MAX: u32 = 128;
const DOUBLINGS: usize = (SMALL_BYTES_MAX.ilog2() - FINE_MAX.ilog2()) as usize;

/// Up to here the lookup table has an entry for each 8 bytes, above for each 128.
const LOOKUP_FINE_MAX: usize = 1024;
const LOOKUP_COUNT: usize = LOOKUP_FINE_MAX / 8 + 1 + (SMALL_BYTES_MAX - LOOKUP_FINE_MAX) / 128;

/// How many bytes move between a thread and the central cache at a time, if
/// [`BATCH_MAX`] objects are not fewer.
const BATCH_BYTES: usize = 16 << 10;
const BATCH_MAX: usize = 64;
/// What may wait of a class for another thread, in bytes and in objects: a burst of a few
/// hundred blocks, as of a queue that fills while its reader is put off its core.
const TRANSFER_BYTES_MAX: usize = 256 << 10;
/// See [`SizeClass::transfer_max`].
pub(super) const TRANSFER_OBJECTS_MAX: usize = 1024;
/// A span holds this many objects, if that is not more than [`SPAN_BYTES_MIN_MAX`].
const SPAN_OBJECTS_MIN: usize = 4;
const SPAN_BYTES_MIN_MAX: usize = 64 << 10;
/// What one list of a thread cache may hold, in bytes and in objects.
const LIST_BYTES_MAX: usize = 128 << 10;
const LIST_OBJECTS_MAX: usize = 512;

/// How many objects all lists of a thread cache may hold together, each at its most.
pub(super) const LIST_SLOTS: usize = list_slots();

/// Names a class: its position in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SizeClass(u8);

/// What is known of a class before anything is allocated.
#[derive(Clone, Copy)]
struct ClassInfo {
    bytes: u32,
    pages: u32,
    objects: u32,
    batch: u32,
    list_max: u32,
    transfer_max: u32,
}

static CLASSES: [ClassInfo; CLASS_SLOTS] = make_classes();
static LOOKUP: [u8; LOOKUP_COUNT] = make_lookup();

impl SizeClass {
    /// The class of nearly every request: up to [`LOOKUP_FINE_MAX`] bytes, and not
    /// aligned to more than every class is. Few instructions, so it is inlined.
    #[inline]
    pub(super) fn of_common(layout: Layout) -> Option<SizeClass> {
        // One comparison for "not empty" too.
        let is_common = layout.size().wrapping_sub(1) < LOOKUP_FINE_MAX && layout.align() <= 8;
        is_common.then(|| SizeClass::of(layout.size()))
    }

    /// The smallest class for `bytes`, which must be 1 to [`SMALL_BYTES_MAX`].
    ///
    /// If `bytes` is a multiple of an alignment up to [`SMALL_ALIGN_MAX`], the
    /// size of the class is one too: the steps between classes are powers of two,
    /// so either the alignment divides the step, or `bytes` itself is a class.
    #[inline]
    pub(super) fn of(bytes: usize) -> SizeClass {
        debug_assert!(bytes > 0 && bytes <= SMALL_BYTES_MAX);
        let slot = lookup_slot(bytes);
        debug_assert!(slot < LOOKUP_COUNT);
        // SAFETY: a slot for at most `SMALL_BYTES_MAX` is inside the table; the last
        // one is, and slots grow with `bytes` (asserted at compile time below).
        SizeClass(unsafe { *LOOKUP.get_unchecked(slot) })
    }

    /// All classes, smallest first.
    pub(super) fn all() -> impl Iterator<Item = SizeClass> {
        (0..CLASS_COUNT as u8).map(SizeClass)
    }

    /// The position in tables with an entry for each class, or [`CLASS_SLOTS`] entries.
    #[inline]
    pub(super) fn index(self) -> usize {
        self.0 as usize % CLASS_SLOTS
    }

    /// The size of one object.
    #[inline]
    pub(super) fn bytes(self) -> usize {
        CLASSES[self.index()].bytes as usize
    }

    /// The length of a span of this class, in pages.
    #[inline]
    pub(super) fn pages(self) -> usize {
        CLASSES[self.index()].pages as usize
    }

    /// How many objects a span holds.
    #[inline]
    pub(super) fn objects(self) -> u32 {
        CLASSES[self.index()].objects
    }

    /// How many objects move between a thread and the central cache at a time.
    #[inline]
    pub(super) fn batch(self) -> u32 {
        CLASSES[self.index()].batch
    }

    /// How many objects a thread may keep.
    #[inline]
    pub(super) fn list_max(self) -> u32 {
        CLASSES[self.index()].list_max
    }

    /// How many objects may wait in the transfer cache, at least a batch.
    #[inline]
    pub(super) fn transfer_max(self) -> u32 {
        CLASSES[self.index()].transfer_max
    }
}

// `div_ceil` costs more instructions, and nothing overflows here.
#[allow(clippy::manual_div_ceil)]
const fn lookup_slot(bytes: usize) -> usize {
    if bytes <= LOOKUP_FINE_MAX {
        (bytes + 7) / 8
    } else {
        LOOKUP_FINE_MAX / 8 + (bytes - LOOKUP_FINE_MAX + 127) / 128
    }
}

const fn class_bytes(index: usize) -> usize {
    match index {
        0 => 8,
        1..=FINE_COUNT => 16 * index,
        _ => {
            let above = index - FINE_COUNT - 1;
            let base = (FINE_MAX as usize) << (above / 8);
            base + base / 8 * (above % 8 + 1)
        }
    }
}

/// The shortest span with enough objects and at most 1/32 lost at its end.
const fn span_pages(bytes: usize) -> usize {
    let mut least = bytes * SPAN_OBJECTS_MIN;
    if least > SPAN_BYTES_MIN_MAX {
        least = SPAN_BYTES_MIN_MAX;
    }
    if least < 2 * bytes {
        least = 2 * bytes;
    }
    let mut pages = least.div_ceil(PAGE_BYTES);
    while (pages * PAGE_BYTES) % bytes > pages * PAGE_BYTES / 32 {
        pages += 1;
    }
    pages
}

const fn clamp(value: usize, low: usize, high: usize) -> usize {
    if value < low {
        low
    } else if value > high {
        high
    } else {
        value
    }
}

const fn make_classes() -> [ClassInfo; CLASS_SLOTS] {
    let mut classes = [ClassInfo {
        bytes: 0,
        pages: 0,
        objects: 0,
        batch: 0,
        list_max: 0,
        transfer_max: 0,
    }; CLASS_SLOTS];
    let mut index = 0;
    while index < CLASS_COUNT {
        let bytes = class_bytes(index);
        let pages = span_pages(bytes);
        let batch = clamp(BATCH_BYTES / bytes, 2, BATCH_MAX);
        classes[index] = ClassInfo {
            bytes: bytes as u32,
            pages: pages as u32,
            objects: (pages * PAGE_BYTES / bytes) as u32,
            batch: batch as u32,
            list_max: clamp(LIST_BYTES_MAX / bytes, 2 * batch, LIST_OBJECTS_MAX) as u32,
            transfer_max: clamp(TRANSFER_BYTES_MAX / bytes, batch, TRANSFER_OBJECTS_MAX) as u32,
        };
        index += 1;
    }
    classes
}

const fn list_slots() -> usize {
    let classes = make_classes();
    let mut slots = 0;
    let mut index = 0;
    while index < CLASS_COUNT {
        slots += classes[index].list_max as usize;
        index += 1;
    }
    slots
}

const fn make_lookup() -> [u8; LOOKUP_COUNT] {
    let mut lookup = [0; LOOKUP_COUNT];
    let mut class = 0;
    let mut slot = 0;
    while slot < LOOKUP_COUNT {
        let largest = if slot <= LOOKUP_FINE_MAX / 8 {
            slot * 8
        } else {
            LOOKUP_FINE_MAX + (slot - LOOKUP_FINE_MAX / 8) * 128
        };
        while class_bytes(class) < largest {
            class += 1;
        }
        lookup[slot] = class as u8;
        slot += 1;
    }
    lookup
}

const _: () = assert!(
    CLASS_COUNT <= CLASS_SLOTS && CLASS_SLOTS.is_power_of_two() && CLASS_SLOTS <= 128,
    "a class fits a slot, and a bit of a u128"
);
const _: () = assert!(
    class_bytes(CLASS_COUNT - 1) == SMALL_BYTES_MAX,
    "the last class is the largest small size"
);
const _: () = assert!(
    lookup_slot(SMALL_BYTES_MAX) == LOOKUP_COUNT - 1,
    "the largest small size has the last slot of the table"
);
const _: () = assert!(
    PAGE_BYTES * 8 <= SMALL_BYTES_MAX,
    "rounding a large size up to pages wastes no more than an eighth"
);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_the_smallest_class_that_holds_it() {
        for bytes in 1..=SMALL_BYTES_MAX {
            let class = SizeClass::of(bytes);
            assert!(class.bytes() >= bytes, "{bytes}");
            if class.index() > 0 {
                let below = SizeClass(class.0 - 1);
                assert!(below.bytes() < bytes, "{bytes}");
            }
        }
    }

    #[test]
    fn rounding_up_wastes_at_most_an_eighth_above_128_bytes() {
        for bytes in 129..=SMALL_BYTES_MAX {
            let waste = SizeClass::of(bytes).bytes() - bytes;
            assert!(waste * 8 <= SizeClass::of(bytes).bytes(), "{bytes}");
        }
    }

    #[test]
    fn a_multiple_of_an_alignment_gets_a_class_that_is_one_too() {
        let mut align = 1;
        while align <= SMALL_ALIGN_MAX {
            for bytes in (align..=SMALL_BYTES_MAX).step_by(align) {
                assert_eq!(SizeClass::of(bytes).bytes() % align, 0, "{bytes} {align}");
            }
            align *= 2;
        }
    }

    #[test]
    fn spans_hold_what_their_class_says_and_lose_little() {
        for class in SizeClass::all() {
            let span = class.pages() * PAGE_BYTES;
            let used = class.objects() as usize * class.bytes();
            assert!(used <= span && (span - used) * 32 <= span, "{class:?}");
            assert!(class.objects() >= 2, "{class:?}");
            assert!(span <= 256 << 10, "{class:?} {span}");
        }
    }

    #[test]
    fn a_full_list_holds_at_least_two_batches() {
        for class in SizeClass::all() {
            assert!(class.batch() >= 2);
            assert!(class.list_max() >= 2 * class.batch(), "{class:?}");
        }
    }
}
