// SPDX-License-Identifier: Apache-2.0
//! Owns: where the next write goes, and the cleaning that makes room for it: what still lives in the clusters that hold
//! least is written together, and the clusters are free. Callers: `swap`, on a write. Law 12: a blob is moved only when its
//! checksum matches, and its old place stays as it is until the new one is written. Law 15: nothing is moved that a forked
//! child may read.
//!
//! One free cluster is kept for cleaning while that can gain anything. Cleaning costs the more the less it gains: before
//! a fuller cluster is cleaned, holes are filled, a short write each.

use crate::swapblob::Place;
use crate::swaplevel::{Level, Work, within};
use crate::swapmap::CLUSTER;
use std::ops::Range;
use tmem_sys::PAGE_SIZE;

/// Clusters kept free for cleaning.
const KEPT: usize = 1;
/// What cleaning a cluster must gain, in sixteenths of it: before holes are filled, and after.
const GOOD: usize = 4;
const LITTLE: usize = 1;
/// Cleanings for one write at most.
const CLEANINGS: usize = 4;
/// Clusters one cleaning asks for at most.
const TRIES: usize = 64;
/// Blocks of a hole that are worth a cleaning into it.
const LEAST_HOLE: usize = 4;

/// The clusters of one cleaning, in the order in which their blobs lie in the buffer, and how many bytes those are.
struct Plan {
    victims: [usize; TRIES],
    count: usize,
    bytes: usize,
}

impl Level {
    /// Blocks side by side that may be written, `want` of them if that can be had.
    pub fn room(&mut self, want: usize, work: &mut Work<'_>) -> Option<Range<usize>> {
        if self.has_head(KEPT) {
            return Some(self.map.head());
        }
        for _ in 0..CLEANINGS {
            if !self.clean(GOOD, work) {
                break;
            }
            if self.has_head(KEPT) {
                return Some(self.map.head());
            }
        }
        if let Some(hole) = self.map.hole(want) {
            return Some(hole);
        }
        self.clean(LITTLE, work);
        self.has_head(0).then(|| self.map.head())
    }

    fn has_head(&mut self, spare: usize) -> bool {
        !self.map.head().is_empty() || self.map.take_cluster(spare)
    }

    /// Writes what lives in the clusters that hold least to one place. Whether anything was moved.
    fn clean(&mut self, least: usize, work: &mut Work<'_>) -> bool {
        let into = if self.map.take_cluster(0) {
            self.map.head()
        } else {
            match self.map.hole(CLUSTER) {
                Some(hole) if hole.len() >= LEAST_HOLE.min(self.map.cluster_len()) => hole,
                _ => return false,
            }
        };
        let own = self.map.cluster_of(into.start);
        self.map.stick(own, true);
        let plan = self.plan(least, into.len() * PAGE_SIZE, work);
        let written = plan.bytes > 0 && self.write_cleaned(&into, &plan, work);
        if written {
            self.settle(&into, &plan, work);
        } else {
            self.map.drop_head();
        }
        self.map.stick(own, false);
        plan.victims[..plan.count].iter().for_each(|victim| self.map.stick(*victim, false));
        written
    }

    /// Collects blobs in the buffer: those of whole clusters, but for the first, of which as many as find room.
    fn plan(&mut self, least: usize, room: usize, work: &mut Work<'_>) -> Plan {
        let mut plan = Plan { victims: [0; TRIES], count: 0, bytes: 0 };
        for _ in 0..TRIES {
            if plan.bytes.div_ceil(PAGE_SIZE) + self.map.cluster_len() > CLUSTER {
                break;
            }
            let Some(victim) = self.map.victim(least) else { break };
            if plan.count > 0 && plan.bytes + self.map.held(victim) > room {
                break;
            }
            // Not to be found again; for good, as things are, when it cannot be cleaned.
            self.map.stick(victim, true);
            if let Some(bytes) = self.collect(victim, plan.bytes, room, work) {
                plan.victims[plan.count] = victim;
                plan.count += 1;
                plan.bytes += bytes;
            }
        }
        plan
    }

    /// Reads a cluster, and puts its blobs one after another in the buffer from byte `at` on. How many bytes; `None`
    /// where a child may read one of them, or one is damaged, which whoever loads it is told.
    fn collect(&mut self, victim: usize, at: usize, room: usize, work: &mut Work<'_>) -> Option<usize> {
        let Work { desk, children, counts } = work;
        let (blocks, records) = (self.map.blocks_of(victim), &self.records);
        let blobs = || blocks.clone().flat_map(|block| records.of_block(block));
        let fixed = |n: usize| records.is_limbo(n) || children.may_read(records.born(n), children.generation);
        if blobs().any(fixed) {
            return None;
        }
        let lead = at.div_ceil(PAGE_SIZE);
        let pages = &mut desk.buffer[lead..lead + blocks.len()];
        if self.file.read_at(blocks.start as u64, pages).is_err() {
            counts.io_errors += 1;
            return None;
        }
        let source = |n: usize| {
            let own = within(records.place(n), blocks.start);
            lead * PAGE_SIZE + own.start..lead * PAGE_SIZE + own.end
        };
        if blobs().any(|n| desk.sum(&desk.buffer.as_flattened()[source(n)]) != records.sum(n)) {
            return None;
        }
        let mut end = at;
        for n in blobs() {
            let from = source(n);
            if end + from.len() > room {
                break;
            }
            let len = from.len();
            // Never beyond where they were: all before them lay there too.
            desk.buffer.as_flattened_mut().copy_within(from, end);
            end += len;
        }
        Some(end - at)
    }

    fn write_cleaned(&mut self, into: &Range<usize>, plan: &Plan, work: &mut Work<'_>) -> bool {
        let done = self.write(into.start, plan.bytes, work.desk);
        if let Err(errno) = done {
            work.counts.io_errors += u64::from(!crate::swapanswer::is_full(errno));
            self.map.stop_growing(into);
        }
        done.is_ok()
    }

    /// The collected blobs are where they were written.
    fn settle(&mut self, into: &Range<usize>, plan: &Plan, work: &mut Work<'_>) {
        let (start, mut done, mut before) = (into.start * PAGE_SIZE, 0, None);
        for victim in &plan.victims[..plan.count] {
            for block in self.map.blocks_of(*victim) {
                while done < plan.bytes
                    && let Some(number) = self.records.first_of(block)
                {
                    let old = self.records.place(number);
                    let new = Place::new(start + done, old.len());
                    self.map.add(new);
                    self.records.move_to(number, new, before, work.children.generation);
                    self.vacate(old);
                    done += old.len();
                    before = Some(number);
                    work.counts.moved += 1;
                }
            }
        }
        work.counts.cleaned += plan.count as u64;
        work.counts.device_bytes += plan.bytes.next_multiple_of(PAGE_SIZE) as u64;
    }
}
