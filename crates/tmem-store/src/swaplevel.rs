// SPDX-License-Identifier: Apache-2.0
//! Owns: one file of the swap device, with the records of its blobs and the map of its blocks, kept in step.
//! Callers: `swap` and `swapclean` only. A fork makes every level read-only in the child, which then opens one of its own.
//! Law 12: no blob is read whose checksum does not match. Law 15: what a child may read is not written again (`swapfork`).

use crate::codec::{self, Decoder, Dictionaries};
use crate::stats::SwapStats;
use crate::swapblob::{self, Place};
use crate::swapfork::Children;
use crate::swapmap::{CLUSTER, Map};
use crate::swaprecord::Records;
use std::ops::Range;
use std::sync::Arc;
use tmem_sys::file::{SwapDir, SwapFile};
use tmem_sys::{Errno, PAGE_SIZE, Page, Table};
use xxhash_rust::xxh3::xxh3_64_with_secret;

const SECRET_LEN: usize = 192;

/// What the work on any level needs: a buffer, in which bytes lie still while they are checked and written, and the key of the
/// checksums.
pub(crate) struct Desk {
    pub buffer: Table<Page>,
    /// One page, put together.
    pub page: Table<Page>,
    decoder: Decoder,
    secret: [u8; SECRET_LEN],
}

impl Desk {
    /// Memory taken.
    pub const FOOTPRINT: usize = (CLUSTER + 1) * PAGE_SIZE + Decoder::FOOTPRINT;

    pub fn new(dictionaries: Arc<Dictionaries>) -> Result<Desk, Errno> {
        let mut secret = [0; SECRET_LEN];
        tmem_sys::random::random_bytes(&mut secret)?;
        let (buffer, page) = (Table::new(CLUSTER)?, Table::new(1)?);
        Ok(Desk { buffer, page, decoder: Decoder::new(dictionaries)?, secret })
    }

    pub fn sum(&self, bytes: &[u8]) -> u64 {
        xxh3_64_with_secret(bytes, &self.secret)
    }

    /// Pages of the buffer with its first `len` bytes, zeros after them.
    pub fn padded(&mut self, len: usize) -> &[Page] {
        let blocks = len.div_ceil(PAGE_SIZE);
        self.buffer.as_flattened_mut()[len..blocks * PAGE_SIZE].fill(0);
        &self.buffer[..blocks]
    }
}

/// What a level's work needs beside the level.
pub(crate) struct Work<'a> {
    pub desk: &'a mut Desk,
    pub children: &'a Children,
    pub counts: &'a mut SwapStats,
}

/// A blob's bytes, counted from block `start` on.
pub(crate) fn within(place: Place, start: usize) -> Range<usize> {
    let first = place.start() - start * PAGE_SIZE;
    first..first + place.len()
}

pub(crate) struct Level {
    pub file: SwapFile,
    pub read_only: bool,
    pub records: Records,
    pub map: Map,
}

impl Level {
    pub fn create(dir: &SwapDir, cap: usize, most: usize) -> Result<Level, Errno> {
        let (records, map) = (Records::new(cap, most)?, Map::new(cap)?);
        Ok(Level { file: SwapFile::create(dir)?, read_only: false, records, map })
    }

    /// Writes the first `len` bytes of the buffer to blocks from `start` on.
    pub fn write(&mut self, start: usize, len: usize, desk: &mut Desk) -> Result<(), Errno> {
        let pages = desk.padded(len);
        self.file.write_at(start as u64, pages)?;
        self.map.note_written(&(start..start + pages.len()));
        Ok(())
    }

    /// Notes a blob that was written; its number. `before` is the one written just before it.
    pub fn fill(&mut self, place: Place, sum: u64, generation: u32, before: Option<usize>) -> usize {
        let number = self.records.take(sum, generation);
        if place.is_same() {
            self.records.put_same(number);
        } else {
            self.records.put(number, place, before);
            self.map.add(place);
        }
        number
    }

    /// Whether a blob in the buffer is what was written; the buffer begins with block `start`.
    pub fn is_right(&self, number: usize, start: usize, desk: &Desk) -> bool {
        let place = self.records.place(number);
        place.is_same()
            || desk.sum(&desk.buffer.as_flattened()[within(place, start)]) == self.records.sum(number)
    }

    /// The page of a blob in the buffer, put together on the desk if need be; `None` when its bytes are no packed page.
    pub fn page<'d>(&self, number: usize, start: usize, desk: &'d mut Desk) -> Option<&'d Page> {
        let Desk { buffer, page, decoder, .. } = desk;
        let place = self.records.place(number);
        if place.is_same() {
            codec::fill(self.records.sum(number), &mut page[0]);
            return Some(&page[0]);
        }
        swapblob::unpack(decoder, &buffer.as_flattened()[within(place, start)], &mut page[0])
    }

    /// Forgets a page. Where its blob lies stays as it is while a child may read it.
    pub fn free(&mut self, number: usize, children: &Children) {
        let read = !self.read_only && children.may_read(self.records.born(number), children.generation);
        if read && !self.records.place(number).is_same() {
            self.records.enter_limbo(number, children.generation);
        } else {
            self.release(number);
        }
    }

    fn release(&mut self, number: usize) {
        let place = self.records.place(number);
        self.records.release(number);
        if !place.is_same() {
            self.vacate(place);
        }
    }

    /// A blob does not lie there any more.
    pub fn vacate(&mut self, place: Place) {
        let emptied = self.map.remove(place);
        if let Some(cluster) = emptied
            && self.file.in_memory()
            && !self.read_only
        {
            // It counts in the budget for as long as it is there.
            let blocks = self.map.blocks_of(cluster);
            self.file.punch(blocks.start as u64, blocks.len() as u64);
        }
    }

    /// Frees what lies in limbo and no child can read any more.
    pub fn leave_limbo(&mut self, children: &Children) {
        let mut at = 0;
        while let Some(number) = self.records.next_limbo(at) {
            if !children.may_read(self.records.born(number), self.records.sum(number) as u32) {
                self.release(number);
            }
            at = number + 1;
        }
        self.map.unstick();
    }

    /// This process is a forked child: it reads what it inherited and writes elsewhere.
    pub fn inherit(&mut self) {
        self.read_only = true;
        self.map.drop_head();
        while let Some(number) = self.records.next_limbo(0) {
            self.release(number);
        }
    }

    /// Gives the disk space of long free runs back.
    pub fn punch_free(&mut self) {
        let file = &self.file;
        self.map.free_runs(|run| file.punch(run.start as u64, run.len() as u64));
    }

    /// Tables, as touched.
    pub fn footprint(&self, generation: u32) -> usize {
        self.records.footprint(self.map.fresh_blocks(), generation) + self.map.footprint()
    }

    pub fn check(&self, number: usize, broken: &mut Vec<String>) {
        let records = &self.records;
        let placed = || (0..records.top()).filter(|n| !records.place(*n).is_none());
        let limbo = placed().filter(|n| records.is_limbo(*n)).count();
        let used = placed().count() - limbo;
        if (used, limbo) != (records.used, records.in_limbo) {
            broken.push(format!(
                "swap level {number}: {used} blobs, {limbo} in limbo; the counters say {} and {}",
                records.used, records.in_limbo
            ));
        }
        let in_file = || placed().filter(|n| !records.place(*n).is_same());
        self.map.check(number, in_file().map(|n| records.place(n)), broken);
        let mut linked = vec![false; records.top()];
        for block in 0..self.map.fresh_blocks() {
            let mut end = 0;
            for n in records.of_block(block) {
                let place = records.place(n);
                if place.block() != block || place.start() < end || std::mem::replace(&mut linked[n], true) {
                    broken.push(format!("swap level {number}: blob {n} is not where block {block} says"));
                    return;
                }
                end = place.start() + place.len();
            }
        }
        if in_file().any(|n| !linked[n]) || linked.iter().filter(|l| **l).count() != in_file().count() {
            broken.push(format!("swap level {number}: a blob is in no block"));
        }
    }
}
