// SPDX-License-Identifier: Apache-2.0
//! Owns: fixed-size nodes by number, from a table of their own, with a free list and an exact count of the memory
//! touched. Callers: `tree` (leaves and inner nodes), `object` (records). Locks: the store's.
//! Law: a free node is all zeros, so that an allocated one needs no clearing; number 0 is never given out.

use crate::page_bytes;
use std::ops::{Index, IndexMut};
use tmem_sys::page::fetch_line;
use tmem_sys::{Errno, PAGE_SIZE, Pod, Table};

/// Marks a page of nodes that takes memory, whether any of its nodes is live or not.
const TOUCHED: u32 = 1 << 31;
/// Marks a live node in its head's `next`.
const LIVE: u32 = u32::MAX;
/// Empty pages of nodes that stay touched, so that one lonely node made and freed costs no system call.
const IDLE_PAGES: usize = 8;

tmem_sys::pod! {
    struct Head {
        /// Children or entries in use; the owner's to change.
        used: u32,
        /// The next free node, or `LIVE`.
        next: u32,
    }
}

const fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

pub(crate) struct NodeTable<T: Pod> {
    nodes: Table<T>,
    heads: Table<Head>,
    /// Live nodes of each group of nodes, and `TOUCHED`.
    pages: Table<u32>,
    free: u32,
    /// Nodes from here on were never given out.
    fresh: usize,
    live: usize,
    touched_pages: usize,
    idle_pages: usize,
}

impl<T: Pod> NodeTable<T> {
    /// The fewest whole pages that are full of nodes: memory comes and goes by these.
    const GROUP: usize = PAGE_SIZE / gcd(PAGE_SIZE, size_of::<T>()) * size_of::<T>();
    const PER_GROUP: usize = Self::GROUP / size_of::<T>();

    pub fn new(cap: usize) -> Result<NodeTable<T>, Errno> {
        const { assert!(Self::GROUP <= 4 * PAGE_SIZE) };
        let cap = cap.saturating_add(1).min(LIVE as usize - 1);
        Ok(NodeTable {
            nodes: Table::new(cap)?,
            heads: Table::new(cap)?,
            pages: Table::new(cap.div_ceil(Self::PER_GROUP))?,
            free: 0,
            fresh: 1,
            live: 0,
            touched_pages: 0,
            idle_pages: 0,
        })
    }

    /// A zeroed node, or `None` when all are in use.
    pub fn alloc(&mut self) -> Option<u32> {
        let node = if self.free != 0 {
            let node = self.free;
            self.free = self.heads[node as usize].next;
            node
        } else if self.fresh < self.nodes.len() {
            self.fresh += 1;
            (self.fresh - 1) as u32
        } else {
            return None;
        };
        self.heads[node as usize] = Head { used: 0, next: LIVE };
        self.live += 1;
        let page = &mut self.pages[node as usize / Self::PER_GROUP];
        match *page {
            0 => self.touched_pages += 1,
            TOUCHED => self.idle_pages -= 1,
            _ => {}
        }
        *page = (*page | TOUCHED) + 1;
        Some(node)
    }

    /// Takes a node back. The owner has zeroed it.
    pub fn free(&mut self, node: u32) {
        let at = node as usize;
        debug_assert!(self.is_live(node), "freed twice");
        self.heads[at] = Head { used: 0, next: self.free };
        self.free = node;
        self.live -= 1;
        let page = at / Self::PER_GROUP;
        self.pages[page] -= 1;
        if self.pages[page] != TOUCHED {
            return;
        }
        if self.idle_pages < IDLE_PAGES {
            self.idle_pages += 1;
        } else {
            self.nodes.discard(page * Self::GROUP..(page + 1) * Self::GROUP);
            self.pages[page] = 0;
            self.touched_pages -= 1;
        }
    }

    /// Whether `n` allocations will succeed.
    pub fn has_room(&self, n: usize) -> bool {
        self.nodes.len() - 1 - self.live >= n
    }

    /// Gives back all memory, where no node is live.
    pub fn reset_if_empty(&mut self) {
        if self.live == 0 && self.fresh > 1 {
            let pages = self.fresh.div_ceil(Self::PER_GROUP);
            // In whole pages: what follows the last node used was never touched.
            self.nodes.discard(0..pages * Self::GROUP);
            self.heads.discard(0..page_bytes(self.fresh * size_of::<Head>()));
            self.pages.discard(0..page_bytes(pages * size_of::<u32>()));
            (self.free, self.fresh, self.touched_pages, self.idle_pages) = (0, 1, 0, 0);
        }
    }

    pub fn is_live(&self, node: u32) -> bool {
        (1..self.fresh).contains(&(node as usize)) && self.heads[node as usize].next == LIVE
    }

    /// Asks for the memory of a node's count.
    #[inline]
    pub fn expect_used(&self, node: u32) {
        fetch_line(&self.heads[node as usize]);
    }

    #[inline]
    pub fn used(&self, node: u32) -> u32 {
        self.heads[node as usize].used
    }

    #[inline]
    pub fn used_mut(&mut self, node: u32) -> &mut u32 {
        &mut self.heads[node as usize].used
    }

    pub fn live(&self) -> usize {
        self.live
    }

    /// Numbers ever given out are below this.
    pub fn fresh(&self) -> u32 {
        self.fresh as u32
    }

    /// Bytes of memory taken, in whole pages.
    pub fn touched_bytes(&self) -> usize {
        let pages = self.fresh.div_ceil(Self::PER_GROUP);
        self.touched_pages * Self::GROUP
            + page_bytes(self.fresh * size_of::<Head>())
            + page_bytes(pages * size_of::<u32>())
    }

    /// Compares the free list, the counts of pages and the counters.
    pub fn check(&self, name: &str, broken: &mut Vec<String>) {
        let live = (1..self.fresh).filter(|&n| self.heads[n].next == LIVE).count();
        if live != self.live {
            broken.push(format!("{name}: {live} nodes are live, the counter says {}", self.live));
        }
        let (mut free, mut node) = (0, self.free);
        while node != 0 && node != LIVE && free <= self.fresh {
            free += 1;
            node = self.heads[node as usize].next;
        }
        if node != 0 || free + live + 1 != self.fresh {
            broken.push(format!(
                "{name}: {free} nodes on the free list and {live} live do not make {}",
                self.fresh - 1
            ));
        }
        self.check_pages(name, broken);
    }

    fn check_pages(&self, name: &str, broken: &mut Vec<String>) {
        let (mut touched, mut idle) = (0, 0);
        for page in 0..self.fresh.div_ceil(Self::PER_GROUP) {
            let first = (page * Self::PER_GROUP).max(1);
            let last = ((page + 1) * Self::PER_GROUP).min(self.fresh);
            let live = (first..last).filter(|&n| self.heads[n].next == LIVE).count();
            let says = self.pages[page];
            touched += usize::from(says != 0);
            idle += usize::from(says == TOUCHED);
            if (says & !TOUCHED) as usize != live {
                broken.push(format!("{name}: page {page} has {live} live nodes, its count says {says:#x}"));
            }
        }
        if (touched, idle) != (self.touched_pages, self.idle_pages) {
            broken.push(format!("{name}: {touched} pages touched, {idle} idle; the counters differ"));
        }
    }
}

impl<T: Pod> Index<u32> for NodeTable<T> {
    type Output = T;
    #[inline]
    fn index(&self, node: u32) -> &T {
        &self.nodes[node as usize]
    }
}

impl<T: Pod> IndexMut<u32> for NodeTable<T> {
    #[inline]
    fn index_mut(&mut self, node: u32) -> &mut T {
        &mut self.nodes[node as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_come_zeroed_and_memory_goes_back() {
        let mut t: NodeTable<[u64; 128]> = NodeTable::new(100).unwrap();
        let nodes: Vec<u32> = (0..100).map(|_| t.alloc().unwrap()).collect();
        assert_eq!(t.alloc(), None);
        assert!(!t.has_room(1));
        let full = t.touched_bytes();
        for &n in &nodes {
            assert_eq!(t[n], [0; 128]);
            t[n][5] = 9;
        }
        for &n in &nodes {
            t[n][5] = 0;
            t.free(n);
        }
        let mut broken = Vec::new();
        t.check("nodes", &mut broken);
        assert!(broken.is_empty(), "{broken:?}");
        assert!(t.touched_bytes() <= full - (25 - IDLE_PAGES) * PAGE_SIZE);
        assert!((0..100).all(|_| t.alloc().is_some()));
    }

    #[test]
    fn check_convicts_a_broken_free_list() {
        let mut t: NodeTable<u64> = NodeTable::new(16).unwrap();
        let a = t.alloc().unwrap();
        let b = t.alloc().unwrap();
        t.free(a);
        t.free(b);
        t.heads[a as usize].next = b;
        let mut broken = Vec::new();
        t.check("nodes", &mut broken);
        assert!(!broken.is_empty());
    }
}
