// SPDX-License-Identifier: Apache-2.0
//! Owns: which blocks of a swap file are taken, how much each cluster holds, and where is written next.
//! Callers: `swaplevel`, `swapclean`. A block is free when no blob touches it; a cluster, when nothing is in it. Law 13:
//! nothing is written at or above the cap.
//!
//! Clusters are taken whole and filled from their beginning: the head is what is left of the last. Those written before
//! go first, so that the file is no larger than it must be.

use crate::page_bytes;
use crate::swapblob::Place;
use crate::swaprecord::{bit, set_bit};
use std::ops::Range;
use tmem_sys::{Errno, PAGE_SIZE, Table};

/// Blocks of a cluster. A small file has smaller ones, so that one kept for cleaning is a small part of it.
pub(crate) const CLUSTER: usize = 64;
const LEAST_CLUSTERS: usize = 16;
/// Clusters with holes that a search looks at before it is content with the longest.
const HOLES_SEEN: usize = 64;
/// Clusters looked at for the one that holds least.
const VICTIMS_SEEN: usize = 1 << 14;
/// Batches after which a file system that was full is asked again.
const PAUSE: u32 = 16;

pub(crate) struct Map {
    /// Blocks there may be.
    cap: usize,
    /// Blocks of a cluster, a power of two; the last may be shorter.
    cluster: usize,
    /// One bit a block that is touched by a blob.
    taken: Table<u64>,
    /// Blobs that touch a block.
    uses: Table<u16>,
    /// Bytes of blobs in a cluster, those in limbo too.
    held: Table<u32>,
    /// One bit a cluster that cannot be cleaned now.
    stuck: Table<u64>,
    pub taken_blocks: usize,
    pub held_bytes: usize,
    /// Clusters used at some time.
    fresh: usize,
    /// Clusters of those that hold nothing.
    empty: usize,
    /// Blocks below which all were written at some time, and so have their place on the disk.
    written: usize,
    /// Where is written next; free blocks of one cluster.
    head: Range<usize>,
    /// Clusters where the next searches start.
    hand: usize,
    hole_hand: usize,
    clean_hand: usize,
    /// Batches to pass before the file may grow again.
    pause: u32,
}

impl Map {
    pub fn new(cap: usize) -> Result<Map, Errno> {
        let cluster = (cap / LEAST_CLUSTERS).clamp(1, CLUSTER);
        let cluster = 1 << cluster.ilog2();
        let clusters = cap.div_ceil(cluster);
        Ok(Map {
            cap,
            cluster,
            taken: Table::new(cap.div_ceil(64))?,
            uses: Table::new(cap)?,
            held: Table::new(clusters)?,
            stuck: Table::new(clusters.div_ceil(64))?,
            taken_blocks: 0,
            held_bytes: 0,
            fresh: 0,
            empty: 0,
            written: 0,
            head: 0..0,
            hand: 0,
            hole_hand: 0,
            clean_hand: 0,
            pause: 0,
        })
    }

    /// Blocks of a full cluster.
    pub fn cluster_len(&self) -> usize {
        self.cluster
    }

    pub fn blocks_of(&self, cluster: usize) -> Range<usize> {
        let start = cluster * self.cluster;
        start..(start + self.cluster).min(self.cap)
    }

    fn bytes_of(&self, cluster: usize) -> usize {
        self.blocks_of(cluster).len() * PAGE_SIZE
    }

    /// Blocks that were part of a cluster in use at some time.
    pub fn fresh_blocks(&self) -> usize {
        (self.fresh * self.cluster).min(self.cap)
    }

    /// Blocks of the file.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Blocks of the clusters that hold something.
    pub fn busy_blocks(&self) -> usize {
        (self.fresh_blocks() - (self.empty * self.cluster).min(self.fresh_blocks())).min(self.written)
    }

    /// Blocks below which may be written now.
    fn ceiling(&self) -> usize {
        if self.pause > 0 { self.written } else { self.cap }
    }

    fn is_free(&self, cluster: usize) -> bool {
        let blocks = self.blocks_of(cluster);
        self.held[cluster] == 0 && blocks.end <= self.ceiling() && !self.is_head(&blocks)
    }

    fn is_head(&self, blocks: &Range<usize>) -> bool {
        !self.head.is_empty() && blocks.contains(&self.head.start)
    }

    pub fn head(&self) -> Range<usize> {
        self.head.clone()
    }

    /// Nothing more is written where the head is: what is left there is a hole.
    pub fn drop_head(&mut self) {
        self.head = 0..0;
    }

    /// Makes a free cluster the head, where `spare` others stay free. The head before was used up.
    pub fn take_cluster(&mut self, spare: usize) -> bool {
        debug_assert!(self.head.is_empty());
        if self.free_clusters(spare + 1) <= spare {
            return false;
        }
        let used = (self.hand..self.fresh).chain(0..self.hand.min(self.fresh));
        let found = if self.empty > 0 { used.into_iter().find(|c| self.is_free(*c)) } else { None };
        let cluster = found.unwrap_or(self.fresh);
        if cluster == self.fresh {
            self.fresh += 1;
            self.empty += 1;
        }
        self.head = self.blocks_of(cluster);
        self.hand = cluster + 1;
        true
    }

    /// Free clusters, counted up to `most`.
    fn free_clusters(&self, most: usize) -> usize {
        let grow = (self.fresh..self.held.len()).take(most).filter(|c| self.is_free(*c)).count();
        if grow >= most || self.empty == 0 {
            return grow;
        }
        grow + (0..self.fresh).filter(|c| self.is_free(*c)).take(most - grow).count()
    }

    /// The longest run of free blocks in a cluster that holds something, or the first that is `want` long or longer.
    pub fn hole(&mut self, want: usize) -> Option<Range<usize>> {
        if self.taken_blocks >= self.fresh_blocks() {
            return None;
        }
        let (mut best, mut seen) = (0..0, 0);
        for cluster in (self.hole_hand..self.fresh).chain(0..self.hole_hand.min(self.fresh)) {
            let blocks = self.blocks_of(cluster);
            if self.held[cluster] == 0 || self.is_head(&blocks) {
                continue;
            }
            let end = blocks.end.min(self.ceiling()).max(blocks.start);
            let run = self.longest_run(blocks.start..end, want);
            seen += usize::from(!run.is_empty());
            if run.len() > best.len() {
                (best, self.hole_hand) = (run, cluster);
            }
            if best.len() >= want || seen == HOLES_SEEN {
                break;
            }
        }
        (!best.is_empty()).then_some(best)
    }

    /// The longest run of free ones among blocks of one cluster, or the first that is `want` long or longer.
    fn longest_run(&self, blocks: Range<usize>, want: usize) -> Range<usize> {
        // A cluster lies within one word.
        let mask = u64::MAX.checked_shr(64 - blocks.len() as u32).unwrap_or(0);
        let mut free = !(self.taken[blocks.start / 64] >> (blocks.start % 64)) & mask;
        let mut best = 0..0;
        while free != 0 && best.len() < want {
            let start = free.trailing_zeros();
            let len = (free >> start).trailing_ones();
            if len as usize > best.len() {
                best = blocks.start + start as usize..blocks.start + (start + len) as usize;
            }
            free &= !(u64::MAX >> (64 - len) << start);
        }
        best
    }

    /// The cluster that holds least, where cleaning it gains at least `least` of sixteen parts of it.
    pub fn victim(&mut self, least: usize) -> Option<usize> {
        let seen = self.fresh.min(VICTIMS_SEEN);
        let (from, mut best) = (self.clean_hand, None);
        for at in from..from + seen {
            let cluster = at % self.fresh;
            let gain = self.bytes_of(cluster) - self.held[cluster] as usize;
            let enough = gain * 16 >= self.bytes_of(cluster) * least && self.held[cluster] > 0;
            if enough
                && best.is_none_or(|(_, most)| gain > most)
                && !bit(&self.stuck, cluster)
                && !self.is_head(&self.blocks_of(cluster))
            {
                best = Some((cluster, gain));
            }
        }
        if self.fresh > VICTIMS_SEEN {
            self.clean_hand = (from + seen) % self.fresh;
        }
        best.map(|(cluster, _)| cluster)
    }

    /// Bytes of blobs in a cluster.
    pub fn held(&self, cluster: usize) -> usize {
        self.held[cluster] as usize
    }

    /// Whether the cluster is passed over in the search for a victim.
    pub fn stick(&mut self, cluster: usize, on: bool) {
        set_bit(&mut self.stuck, cluster, on);
    }

    pub fn cluster_of(&self, block: usize) -> usize {
        block / self.cluster
    }

    pub fn unstick(&mut self) {
        let words = self.fresh.div_ceil(64);
        self.stuck[..words].iter_mut().filter(|w| **w != 0).for_each(|w| *w = 0);
    }

    /// Blocks were written.
    pub fn note_written(&mut self, blocks: &Range<usize>) {
        if self.head.start == blocks.start && !self.head.is_empty() {
            self.head.start = blocks.end;
        }
        self.written = self.written.max(blocks.end);
    }

    /// The file system is full: for a while, only what was written before is written again. Whether that changes anything.
    pub fn stop_growing(&mut self, blocks: &Range<usize>) -> bool {
        let grew = self.pause == 0 && blocks.end > self.written;
        if grew {
            self.pause = PAUSE;
        }
        grew
    }

    /// A batch begins.
    pub fn tick(&mut self) {
        self.pause = self.pause.saturating_sub(1);
    }

    /// A blob lies there now.
    pub fn add(&mut self, place: Place) {
        for block in place.blocks() {
            if self.uses[block] == 0 {
                set_bit(&mut self.taken, block, true);
                self.taken_blocks += 1;
            }
            self.uses[block] += 1;
        }
        let cluster = place.block() / self.cluster;
        self.empty -= usize::from(self.held[cluster] == 0);
        self.held[cluster] += place.len() as u32;
        self.held_bytes += place.len();
    }

    /// A blob does not lie there any more. The cluster, if nothing is left in it.
    pub fn remove(&mut self, place: Place) -> Option<usize> {
        for block in place.blocks() {
            self.uses[block] -= 1;
            if self.uses[block] == 0 {
                set_bit(&mut self.taken, block, false);
                self.taken_blocks -= 1;
            }
        }
        let cluster = place.block() / self.cluster;
        self.held[cluster] -= place.len() as u32;
        self.held_bytes -= place.len();
        let emptied = self.held[cluster] == 0;
        if emptied {
            self.empty += 1;
            set_bit(&mut self.stuck, cluster, false);
        }
        emptied.then_some(cluster)
    }

    /// Long runs of free blocks, as far as the file goes.
    pub fn free_runs(&self, mut each: impl FnMut(Range<usize>)) {
        let (mut start, words) = (0, self.written.div_ceil(64));
        for word in 0..=words {
            if word < words && self.taken[word] == 0 {
                continue;
            }
            if word > start {
                each(start * 64..word * 64);
            }
            start = word + 1;
        }
    }

    /// Tables, as touched.
    pub fn footprint(&self) -> usize {
        let blocks = self.fresh_blocks();
        page_bytes(blocks.div_ceil(8))
            + page_bytes(blocks * size_of::<u16>())
            + page_bytes(self.fresh * size_of::<u32>())
            + page_bytes(self.fresh.div_ceil(8))
    }

    /// Describes each difference from `places`, all blobs there are.
    pub fn check(&self, number: usize, places: impl Iterator<Item = Place>, broken: &mut Vec<String>) {
        let blocks = self.fresh_blocks();
        let (mut uses, mut held) = (vec![0u16; blocks], vec![0u32; self.fresh]);
        for place in places {
            let blocks = place.blocks();
            if blocks.end > self.written.min(uses.len())
                || blocks.end > self.blocks_of(place.block() / self.cluster).end
            {
                broken.push(format!("swap level {number}: {place:?} is beyond its file or its cluster"));
                continue;
            }
            blocks.for_each(|block| uses[block] += 1);
            held[place.block() / self.cluster] += place.len() as u32;
        }
        let taken = |block: usize| uses[block] > 0;
        if uses != self.uses[..blocks] || (0..blocks).any(|b| taken(b) != bit(&self.taken, b)) {
            broken.push(format!("swap level {number}: the map of blocks does not match the blobs"));
        }
        let (count, bytes) =
            ((0..blocks).filter(|b| taken(*b)).count(), held.iter().map(|h| *h as usize).sum());
        if (count, bytes) != (self.taken_blocks, self.held_bytes) || held != self.held[..self.fresh] {
            broken.push(format!("swap level {number}: {count} blocks with {bytes} bytes, counted otherwise"));
        }
        if held.iter().filter(|h| **h == 0).count() != self.empty {
            broken.push(format!("swap level {number}: {} empty clusters, counted otherwise", self.empty));
        }
        if self.head.clone().any(taken) || self.written > self.cap || self.fresh > self.held.len() {
            broken.push(format!("swap level {number}: the head is taken, or beyond its cap of {}", self.cap));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map of 256 blocks in clusters of 16, with a page in each block of the clusters below `full`.
    fn filled(full: usize) -> Map {
        let mut map = Map::new(256).unwrap();
        for cluster in 0..full {
            assert!(map.take_cluster(0));
            map.note_written(&map.head());
            map.blocks_of(cluster).for_each(|block| map.add(page_at(block)));
        }
        map
    }

    fn page_at(block: usize) -> Place {
        Place::new(block * PAGE_SIZE, PAGE_SIZE)
    }

    #[test]
    fn clusters_written_before_go_before_new_ones_and_spare_ones_stay() {
        let mut map = filled(4);
        assert_eq!((map.cluster_len(), map.free_clusters(99)), (16, 12));
        let emptied: Vec<usize> = map.blocks_of(2).filter_map(|block| map.remove(page_at(block))).collect();
        assert_eq!(emptied, [2]);
        assert!(map.take_cluster(1));
        assert_eq!(map.head(), 32..48);
        map.drop_head();
        assert!(!map.take_cluster(13) && map.take_cluster(12));
        assert_eq!((map.head(), map.fresh_blocks()), (32..48, 64));
    }

    #[test]
    fn the_cluster_that_holds_least_is_cleaned_first() {
        let mut map = filled(16);
        assert_eq!(map.victim(1), None, "nothing would be gained");
        for (cluster, gone) in [(3, 5), (7, 9), (11, 4)] {
            map.blocks_of(cluster).take(gone).for_each(|block| assert_eq!(map.remove(page_at(block)), None));
        }
        assert_eq!(map.victim(4), Some(7));
        map.stick(7, true);
        assert_eq!((map.victim(4), map.victim(6)), (Some(3), None));
        map.unstick();
        assert_eq!(map.victim(9), Some(7));
    }

    #[test]
    fn holes_are_the_longest_there_are_and_never_in_an_empty_cluster() {
        let mut map = filled(3);
        assert_eq!(map.hole(1), None);
        for block in [1, 20, 21, 30, 31] {
            map.remove(page_at(block));
        }
        assert_eq!(map.hole(16), Some(20..22));
        map.add(page_at(20));
        map.add(page_at(21));
        assert_eq!(map.hole(2), Some(30..32));
        map.blocks_of(2).for_each(|block| assert_eq!(map.remove(page_at(block)).is_some(), block == 47));
        assert_eq!(map.hole(16), Some(30..32));
    }

    #[test]
    fn a_full_file_system_is_left_alone_for_a_while() {
        let mut map = filled(2);
        assert!(map.take_cluster(0));
        let grown = map.head();
        map.drop_head();
        assert!(map.stop_growing(&grown) && !map.stop_growing(&grown), "told once");
        assert!(!map.take_cluster(0));
        map.remove(page_at(3));
        assert_eq!(map.hole(16), Some(3..4), "what was written before may be written again");
        (0..PAUSE).for_each(|_| map.tick());
        assert!(map.take_cluster(0));
        assert_eq!(map.head(), grown);
    }
}
