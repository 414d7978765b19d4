// SPDX-License-Identifier: Apache-2.0
//! Owns: the slab's geometry: which slot size a length gets. Pure arithmetic, all of it done at compile time.
//! Sizes are multiples of 32 up to 128, for what packs to next to nothing, of 64 up to the packing limit, and a page.
//! Sizes that give the same number of slots in a chunk are one class, the largest of them: the smaller ones would
//! only waste the chunk's tail.
//!
//! A chunk begins with a word for each slot, which says whose the slot is (`chunks`). Eight whole pages fill a chunk, so
//! their words are in its header.

use tmem_sys::PAGE_SIZE;

/// Memory moves between classes in chunks of this size.
pub(crate) const CHUNK: usize = 32 << 10;
/// What does not shrink to this is not packed: 7/8 of a page.
pub(crate) const LARGEST_PACKED: usize = PAGE_SIZE / 8 * 7;
const STEP: usize = 32;
const STEPS: usize = LARGEST_PACKED / STEP;
/// Beyond this many steps they are taken two at a time: each class has a chunk that is not full.
const FINE: usize = 4;

const fn slots_at(step: usize) -> usize {
    let step = if step > FINE { step.next_multiple_of(2) } else { step };
    let mut slots = CHUNK / (step * STEP + WORD);
    while head_of(slots) + slots * step * STEP > CHUNK {
        slots -= 1;
    }
    slots
}

/// Bytes at the beginning of a chunk that are not slots.
const fn head_of(slots: usize) -> usize {
    (slots * WORD).next_multiple_of(LINE)
}

const fn count_classes() -> usize {
    let (mut n, mut step) = (1, 1);
    while step <= STEPS {
        if step == STEPS || slots_at(step) != slots_at(step + 1) {
            n += 1;
        }
        step += 1;
    }
    n
}

pub(crate) const CLASSES: usize = count_classes();
pub(crate) const PAGE_CLASS: usize = CLASSES - 1;
/// Slots of a chunk of the smallest class.
pub(crate) const MOST_SLOTS: usize = slots_at(1);
/// Slots of a chunk of whole pages.
pub(crate) const PAGES: usize = CHUNK / PAGE_SIZE;
/// Slots begin at a line of the processor's caches.
const LINE: usize = 64;
/// What is noted of each slot.
pub(crate) const WORD: usize = size_of::<u32>();

struct Geometry {
    size: [u16; CLASSES],
    slots: [u16; CLASSES],
    class_of_step: [u8; STEPS + 1],
}

const fn geometry() -> Geometry {
    let mut g = Geometry { size: [0; CLASSES], slots: [0; CLASSES], class_of_step: [0; STEPS + 1] };
    let (mut class, mut step) = (0, 1);
    while step <= STEPS {
        g.class_of_step[step] = class as u8;
        g.size[class] = (step * STEP) as u16;
        g.slots[class] = slots_at(step) as u16;
        if step < STEPS && slots_at(step) != slots_at(step + 1) {
            class += 1;
        }
        step += 1;
    }
    g.size[PAGE_CLASS] = PAGE_SIZE as u16;
    g.slots[PAGE_CLASS] = PAGES as u16;
    g
}

static GEOMETRY: Geometry = geometry();

/// The class of a length from 1 to `LARGEST_PACKED`, or of a whole page.
#[inline]
pub(crate) fn class_of(len: usize) -> usize {
    debug_assert!(len > 0 && (len <= LARGEST_PACKED || len == PAGE_SIZE));
    if len > LARGEST_PACKED { PAGE_CLASS } else { GEOMETRY.class_of_step[len.div_ceil(STEP)] as usize }
}

/// Bytes of a slot.
#[inline]
pub(crate) fn slot_size(class: usize) -> usize {
    GEOMETRY.size[class] as usize
}

/// Bytes of the slot that a length gets; none for no data.
#[inline]
pub(crate) fn slot_for(len: usize) -> usize {
    if len == 0 { 0 } else { slot_size(class_of(len)) }
}

/// Slots of a chunk.
#[inline]
pub(crate) fn slots_in(class: usize) -> usize {
    GEOMETRY.slots[class] as usize
}

/// Where a slot begins in its chunk.
#[inline]
pub(crate) fn slot_start(class: usize, slot: usize) -> usize {
    let head = if class == PAGE_CLASS { 0 } else { head_of(slots_in(class)) };
    head + slot * slot_size(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_fits_its_class_and_wastes_little() {
        for len in (1..=LARGEST_PACKED).chain([PAGE_SIZE]) {
            let class = class_of(len);
            let size = slot_size(class);
            assert!(size >= len && (class == 0 || slot_size(class - 1) < len), "{len} in {size}");
            let end = slot_start(class, slots_in(class));
            assert!(end <= CHUNK);
            let words = if class == PAGE_CLASS { 0 } else { slots_in(class) * WORD };
            let waste = CHUNK - end + slot_start(class, 0) - words;
            assert!(waste * 16 <= CHUNK, "class of {size} wastes {waste} bytes of a chunk");
        }
        assert_eq!(class_of(PAGE_SIZE), PAGE_CLASS);
        assert_eq!(slot_size(PAGE_CLASS - 1), LARGEST_PACKED);
    }
}
