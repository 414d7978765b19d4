// SPDX-License-Identifier: Apache-2.0
//! Owns: the counters' shapes. Pure data; filled by the pool, the slab, the index and the swap device.

use crate::ops::{Outcome, Reason};

/// One counter for each reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals([u64; Reason::COUNT]);

impl Refusals {
    pub fn count(&mut self, reason: Reason) {
        self.0[reason as usize] += 1;
    }

    pub fn add(&mut self, reason: Reason, n: u64) {
        self.0[reason as usize] += n;
    }

    pub fn get(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every reason with its count, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.into_iter().zip(self.0)
    }
}

/// What the entries hold now. Kept exact after every operation; `check` counts it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    pub same_pages: u64,
    pub packed_pages: u64,
    /// Of these, pages in a form for pages that stay cold.
    pub cold_pages: u64,
    pub raw_pages: u64,
    /// Pages that have their data in common with another.
    pub shared_pages: u64,
    /// Bytes of packed and raw data, before rounding to slots; what is shared counts once.
    pub data_bytes: u64,
}

impl Holdings {
    pub fn pages(&self) -> u64 {
        self.same_pages + self.packed_pages + self.raw_pages + self.shared_pages
    }
}

/// What happened since the store was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub puts: u64,
    pub stored: u64,
    /// Puts on a handle that held a page; the old page is gone whatever the answer was.
    pub duplicates: u64,
    pub gets: u64,
    pub hits: u64,
    /// Pages forgotten by `flush_page`, `flush_object` and `destroy`.
    pub flushed: u64,
    /// Ephemeral pages forgotten to make room.
    pub evicted: u64,
    pub refused: Refusals,
}

impl Traffic {
    pub(crate) const NONE: Traffic = Traffic {
        puts: 0,
        stored: 0,
        duplicates: 0,
        gets: 0,
        hits: 0,
        flushed: 0,
        evicted: 0,
        refused: Refusals([0; Reason::COUNT]),
    };

    pub(crate) fn count_put(&mut self, outcome: Outcome) {
        self.puts += 1;
        match outcome {
            Outcome::Stored => self.stored += 1,
            Outcome::Refused(reason) => self.refused.count(reason),
        }
    }
}

impl Traffic {
    /// Adds what happened in another shard.
    pub(crate) fn join(&mut self, other: &Traffic) {
        self.puts += other.puts;
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        self.gets += other.gets;
        self.hits += other.hits;
        self.flushed += other.flushed;
        self.evicted += other.evicted;
        other.refused.iter().for_each(|(reason, n)| self.refused.add(reason, n));
    }
}

impl StoreStats {
    /// Adds another shard.
    pub(crate) fn join(&mut self, other: &StoreStats) {
        self.held.join(&other.held);
        self.traffic.join(&other.traffic);
        self.slot_bytes += other.slot_bytes;
        self.mapped_bytes += other.mapped_bytes;
        self.leased_bytes += other.leased_bytes;
        self.leased_used += other.leased_used;
        self.index_bytes += other.index_bytes;
        self.footprint_bytes += other.footprint_bytes;
        self.capacity_bytes += other.capacity_bytes;
        self.objects += other.objects;
        self.moved += other.moved;
        self.dedup.join(&other.dedup);
    }
}

impl Holdings {
    fn join(&mut self, other: &Holdings) {
        self.same_pages += other.same_pages;
        self.packed_pages += other.packed_pages;
        self.cold_pages += other.cold_pages;
        self.raw_pages += other.raw_pages;
        self.shared_pages += other.shared_pages;
        self.data_bytes += other.data_bytes;
    }
}

impl DedupStats {
    /// Adds another shard, which has the same pools. `pools_all` is the host's to count: shards may differ.
    fn join(&mut self, other: &DedupStats) {
        self.pools = other.pools;
        self.hashed += other.hashed;
        self.found += other.found;
        self.failed += other.failed;
        self.ns += other.ns;
        self.shares += other.shares;
        self.saved_bytes += other.saved_bytes;
        self.table_bytes += other.table_bytes;
    }
}

/// A page store, whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    pub held: Holdings,
    pub traffic: Traffic,
    /// Bytes of the slots in use: data rounded up to size classes.
    pub slot_bytes: u64,
    /// Bytes of private slab chunks in use or kept ready.
    pub mapped_bytes: u64,
    /// Bytes of leased memory that is mapped; in no other number but `slot_bytes`.
    pub leased_bytes: u64,
    /// Bytes of the slots in use in it.
    pub leased_used: u64,
    /// Bytes of tree nodes, object records and buckets, as touched.
    pub index_bytes: u64,
    /// Everything: chunks, chunk headers, index, tables of deduplication, codec state.
    pub footprint_bytes: u64,
    pub capacity_bytes: u64,
    /// Objects with pages; of a host with several shards, once for each that has pages of one.
    pub objects: u64,
    /// Pages moved by compaction.
    pub moved: u64,
    pub dedup: DedupStats,
}

/// What deduplication costs and gains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DedupStats {
    /// Pools that deduplicate now.
    pub pools: u64,
    /// Of these, pools all of whose pages are looked up; the others sample.
    pub pools_all: u64,
    /// Pages hashed and looked up.
    pub hashed: u64,
    /// Of these, pages that had a twin, and share its data.
    pub found: u64,
    /// Comparisons with a page that was another.
    pub failed: u64,
    /// Nanoseconds that hashes, searches and comparisons took.
    pub ns: u64,
    /// Data that several pages have in common now.
    pub shares: u64,
    /// Bytes of slots that those pages would take in addition if each had its own.
    pub saved_bytes: u64,
    /// Bytes of the table of candidates and the records of shares, as touched.
    pub table_bytes: u64,
}

/// One pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    pub pages: u64,
    pub frozen: bool,
    /// All pages are looked up, because it was wanted or because samples had twins.
    pub dedup_all: bool,
    pub traffic: Traffic,
}

impl PoolStats {
    /// Adds another shard's part of the pool.
    pub(crate) fn join(&mut self, other: &PoolStats) {
        self.pages += other.pages;
        self.frozen = other.frozen;
        self.dedup_all |= other.dedup_all;
        self.traffic.join(&other.traffic);
    }

    pub(crate) const NONE: PoolStats =
        PoolStats { pages: 0, frozen: false, dedup_all: false, traffic: Traffic::NONE };
}

/// A swap device. Numbers of pages unless the name says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwapStats {
    pub cap: u64,
    /// Pages of this process on it, inherited ones included.
    pub used: u64,
    /// Bytes of what was made of them, in the file this process writes and in inherited ones.
    pub used_bytes: u64,
    /// Bytes of the file this process writes.
    pub file_bytes: u64,
    /// Slots of freed pages that a living child may still read.
    pub limbo: u64,
    /// Files in use: one, and one more for each generation of forks inherited.
    pub levels: u32,
    pub written: u64,
    /// Bytes of what was made of the pages written.
    pub written_bytes: u64,
    /// Bytes that went to the device: with blocks filled up, and what cleaning moved.
    pub device_bytes: u64,
    /// Clusters cleaned, and the pages that were moved.
    pub cleaned: u64,
    pub moved: u64,
    pub read: u64,
    /// System calls that read them.
    pub reads: u64,
    /// Pages that came back changed. Each stopped a program, so more than one is a test.
    pub corrupt: u64,
    pub io_errors: u64,
    pub refused: Refusals,
    /// Metadata and buffers; the pages themselves are on the device.
    pub footprint_bytes: u64,
}
