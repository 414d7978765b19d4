// SPDX-License-Identifier: Apache-2.0
//! Owns: how much room the pages of a file need, counted while it is read. Callers: `restorer`, which tells it when the
//! host takes no more. Pure. Law: what is told is enough: with that much, the same pages fit.

use crate::chunks::Chunk;
use crate::class::{CHUNK, CLASSES, class_of, slot_size, slots_in};
use crate::guests::MAX_GUESTS;
use crate::object::ObjectId;
use crate::room::MARGIN;
use crate::save::error::charge_of;
use crate::save::format::Record;
use tmem_sys::PAGE_SIZE;

/// A leaf of the index with its count.
const LEAF: u64 = 1024 + 8;
/// An inner node with its count.
const INNER: u64 = 256 + 8;
/// An object's record with its count, its bucket, and its part of a page's count.
const OBJECT: u64 = 64 + 8 + 4 + 4;
/// Bits of an index that a level of a tree takes, and how many levels there can be.
const BITS: u32 = 6;
const LEVELS: usize = 11;
/// Tables grow by whole pages, each by its own.
const ROUNDING: u64 = 16 * PAGE_SIZE as u64;

/// What a host or a guest must have room for, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    pub pages: u64,
    /// What the pages and their index take, at most.
    pub room: u64,
    /// What the host had taken before.
    pub used: u64,
    /// What the guest is charged for them, at most.
    pub charge: u64,
    /// What the guest was charged before.
    pub charged: u64,
}

/// Counts pages in the order of their handles.
pub(crate) struct Needs {
    pages: u64,
    slots: [u64; CLASSES],
    charges: [u64; MAX_GUESTS],
    objects: u64,
    inner: u64,
    leaves: u64,
    last: Option<(ObjectId, u64)>,
    /// Nodes that the object of the last page has at each level, should its tree be so high.
    nodes: [u64; LEVELS],
}

impl Needs {
    pub fn new() -> Needs {
        Needs {
            pages: 0,
            slots: [0; CLASSES],
            charges: [0; MAX_GUESTS],
            objects: 0,
            inner: 0,
            leaves: 0,
            last: None,
            nodes: [0; LEVELS],
        }
    }

    pub fn add(&mut self, guest: usize, record: &Record<'_>) {
        let len = record.data();
        self.pages += 1;
        let mut slot = 0;
        if len > 0 {
            self.slots[class_of(len)] += 1;
            // In a full store a page may lie in a slot that is larger by a quarter.
            slot = slot_size(class_of(len)).max(len + len / 4);
        }
        self.charges[guest] += charge_of(slot);
        let before = self.last.filter(|(object, _)| *object == record.object);
        if before.is_none() {
            self.end_object();
            self.objects += 1;
        }
        for (level, nodes) in self.nodes.iter_mut().enumerate() {
            let shift = BITS * (level as u32 + 1);
            let prefix = |index: u64| index.checked_shr(shift).unwrap_or(0);
            *nodes += u64::from(before.is_none_or(|(_, index)| prefix(index) != prefix(record.index)));
        }
        self.last = Some((record.object, record.index));
    }

    /// The next page is of another object, or of another pool.
    pub fn end_object(&mut self) {
        let Some((_, highest)) = self.last.take() else { return };
        let height = (u64::BITS - highest.leading_zeros()).div_ceil(BITS).max(1) as usize;
        self.leaves += self.nodes[0];
        self.inner += self.nodes[1..height].iter().sum::<u64>();
        self.nodes = [0; LEVELS];
    }

    /// What is needed, for pages of one guest and the pools of all. Each of the shards may have a chunk of each class that is
    /// not full, and a record and inner nodes of each object.
    pub fn need(&mut self, guest: usize, used: u64, charged: u64, shards: usize) -> Need {
        self.end_object();
        let shards = shards as u64;
        let chunks: u64 = self.slots.iter().enumerate().map(|(class, &n)| chunks_for(class, n, shards)).sum();
        let chunk = (CHUNK + size_of::<Chunk>()) as u64;
        let objects = (self.objects * shards).min(self.objects + self.leaves);
        let index = self.leaves * LEAF + self.inner * shards * INNER + objects * OBJECT;
        let room = chunks * chunk + index + shards * (ROUNDING + MARGIN as u64);
        Need { pages: self.pages, room, used, charge: self.charges[guest], charged }
    }
}

/// Chunks for so many slots of a class, in however many of the shards they come to lie.
fn chunks_for(class: usize, slots: u64, shards: u64) -> u64 {
    slots.div_ceil(slots_in(class) as u64) + (shards - 1).min(slots.saturating_sub(1))
}
