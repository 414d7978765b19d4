// SPDX-License-Identifier: Apache-2.0
//! Owns: the slab's geometry: which slot size a length gets. Pure arithmetic, all of it done at compile time.
//! Sizes are multiples of 32 up to 128, for what packs to next to nothing, of 64 up to the packing limit, and a page.
//! Sizes that give the same number of slots in a chunk are one class, the largest of them: the smaller ones would
//! only waste the chunk's tail.

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
    CHUNK / (step * STEP)
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
/// The most slots a chunk can have, in 64-bit words of bitmap.
pub(crate) const TAKEN_WORDS: usize = CHUNK / STEP / 64;

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
    g.slots[PAGE_CLASS] = (CHUNK / PAGE_SIZE) as u16;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_fits_its_class_and_wastes_little() {
        for len in (1..=LARGEST_PACKED).chain([PAGE_SIZE]) {
            let class = class_of(len);
            let size = slot_size(class);
            assert!(size >= len && (class == 0 || slot_size(class - 1) < len), "{len} in {size}");
            assert!(slots_in(class) * size <= CHUNK);
            assert!(slots_in(class) <= TAKEN_WORDS * 64);
            let tail = CHUNK - slots_in(class) * size;
            assert!(tail * 16 <= CHUNK, "class of {size} wastes {tail} bytes of a chunk");
        }
        assert_eq!(class_of(PAGE_SIZE), PAGE_CLASS);
        assert_eq!(slot_size(PAGE_CLASS - 1), LARGEST_PACKED);
    }
}
