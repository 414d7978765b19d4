// SPDX-License-Identifier: Apache-2.0
//! Owns: radix trees from a 64-bit index to an entry, 64 ways a level, as high as the largest index needs.
//! Callers: `object`. Locks: the store's. Law: no empty node stays in a tree; an insert that is refused changed
//! nothing.

use crate::entry::{Entry, EntryId};
use crate::nodes::NodeTable;
use crate::ops::Reason;
use crate::page_bytes;
use tmem_sys::page::fetch_line;
use tmem_sys::{Errno, Table};

const BITS: u32 = 6;
pub(crate) const WAYS: usize = 1 << BITS;
/// Inner levels above a leaf when an index uses all 64 bits.
const MAX_HEIGHT: u32 = 10;

/// 64 entries: 768 bytes.
type Leaf = [Entry; WAYS];
/// 64 node numbers, 0 for none: leaves below height 1, inner nodes above.
type Inner = [u32; WAYS];

tmem_sys::pod! {
    /// A tree. `node` is a leaf at height 0; all zeros is the empty tree.
    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct Root {
        pub node: u32,
        pub height: u32,
    }
}

impl Root {
    pub const EMPTY: Root = Root { node: 0, height: 0 };

    #[inline]
    fn covers(self, index: u64) -> bool {
        let bits = BITS * (self.height + 1);
        bits >= u64::BITS || index >> bits == 0
    }
}

#[inline]
fn way(index: u64, level: u32) -> usize {
    (index >> (BITS * level)) as usize % WAYS
}

tmem_sys::pod! {
    /// Where a leaf is: the way back from an entry to its handle.
    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct LeafPlace {
        /// Index of its first entry.
        pub base: u64,
        /// Number of the object's record.
        pub object: u64,
    }
}

/// The lowest index below the same node as `from` that goes by way `w` of a level.
fn first_of(from: u64, level: u32, w: usize) -> u64 {
    let bits = BITS * (level + 1);
    let above = if bits >= u64::BITS { 0 } else { from >> bits << bits };
    above | (w as u64) << (BITS * level)
}

/// The memory of all trees of a store.
pub(crate) struct Trees {
    inner: NodeTable<Inner>,
    pub(crate) leaves: NodeTable<Leaf>,
    /// Of each leaf ever given out.
    places: Table<LeafPlace>,
}

impl Trees {
    pub fn new(max_leaves: usize) -> Result<Trees, Errno> {
        // A sparse tree may have a chain of inner nodes for each leaf; a dense one has one for 64.
        let max_leaves = max_leaves.min(EntryId::LEAVES - 1);
        let inner = NodeTable::new(max_leaves / 2 + 64)?;
        Ok(Trees { inner, leaves: NodeTable::new(max_leaves)?, places: Table::new(max_leaves + 1)? })
    }

    /// Where a leaf is.
    pub fn place(&self, leaf: u32) -> LeafPlace {
        self.places[leaf as usize]
    }

    /// The number of the entry at an index that has a leaf.
    #[inline]
    pub fn id(&self, root: Root, index: u64) -> EntryId {
        EntryId::in_leaf(self.leaf_of(root, index), way(index, 0))
    }

    /// The entry at an index; the empty one where there is none.
    #[inline]
    pub fn get(&self, root: Root, index: u64) -> Entry {
        match self.leaf_of(root, index) {
            0 => Entry::EMPTY,
            leaf => self.leaves[leaf][way(index, 0)],
        }
    }

    /// Asks for the memory of the entry at an index, and of what else changes with it.
    #[inline]
    pub fn expect(&self, root: Root, index: u64) {
        let leaf = self.leaf_of(root, index);
        if leaf != 0 {
            fetch_line(&self.leaves[leaf][way(index, 0)]);
            self.leaves.expect_used(leaf);
        }
    }

    /// The first entry at an index or after it.
    pub fn next(&self, root: Root, from: u64) -> Option<(u64, Entry)> {
        if root.node == 0 || !root.covers(from) { None } else { self.next_in(root.node, root.height, from) }
    }

    fn next_in(&self, node: u32, level: u32, from: u64) -> Option<(u64, Entry)> {
        for w in way(from, level)..WAYS {
            // Beyond the first way everything counts from its beginning.
            let here = if w == way(from, level) { from } else { first_of(from, level, w) };
            if level == 0 {
                let entry = self.leaves[node][w];
                if !entry.is_empty() {
                    return Some((here, entry));
                }
                continue;
            }
            let child = self.inner[node][w];
            let found = if child == 0 { None } else { self.next_in(child, level - 1, here) };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    #[inline]
    fn leaf_of(&self, root: Root, index: u64) -> u32 {
        if !root.covers(index) {
            return 0;
        }
        let mut node = root.node;
        for level in (1..=root.height).rev() {
            if node == 0 {
                return 0;
            }
            node = self.inner[node][way(index, level)];
        }
        node
    }

    /// Puts an entry where there is none, in the tree of the object of that number; the entry's own number.
    pub fn insert(
        &mut self,
        root: &mut Root,
        object: u32,
        index: u64,
        entry: Entry,
    ) -> Result<EntryId, Reason> {
        debug_assert!(!entry.is_empty() && self.get(*root, index).is_empty());
        let mut leaf = self.leaf_of(*root, index);
        if leaf == 0 {
            leaf = self.make_leaf(root, index)?;
            let base = index - way(index, 0) as u64;
            self.places[leaf as usize] = LeafPlace { base, object: object.into() };
        }
        self.leaves[leaf][way(index, 0)] = entry;
        *self.leaves.used_mut(leaf) += 1;
        Ok(EntryId::in_leaf(leaf, way(index, 0)))
    }

    /// Grows the tree until it covers the index, and makes the way down to its leaf.
    fn make_leaf(&mut self, root: &mut Root, index: u64) -> Result<u32, Reason> {
        // Asked first, so that nothing has to be undone: the most levels a tree can gain, and a way down.
        if !self.leaves.has_room(1) || !self.inner.has_room(2 * MAX_HEIGHT as usize) {
            return Err(Reason::IndexFull);
        }
        if root.node == 0 {
            while !root.covers(index) {
                root.height += 1;
            }
            root.node = self.make_node(root.height)?;
        }
        while !root.covers(index) {
            let top = self.inner.alloc().ok_or(Reason::IndexFull)?;
            self.inner[top][0] = root.node;
            *self.inner.used_mut(top) = 1;
            *root = Root { node: top, height: root.height + 1 };
        }
        let mut node = root.node;
        for level in (1..=root.height).rev() {
            let child = self.inner[node][way(index, level)];
            if child == 0 {
                let made = self.make_node(level - 1)?;
                self.inner[node][way(index, level)] = made;
                *self.inner.used_mut(node) += 1;
                node = made;
            } else {
                node = child;
            }
        }
        Ok(node)
    }

    fn make_node(&mut self, level: u32) -> Result<u32, Reason> {
        if level == 0 { self.leaves.alloc() } else { self.inner.alloc() }.ok_or(Reason::IndexFull)
    }

    /// Takes the entry at an index out, and with it every node that it was the last of.
    pub fn remove(&mut self, root: &mut Root, index: u64) -> Entry {
        let leaf = self.leaf_of(*root, index);
        if leaf == 0 {
            return Entry::EMPTY;
        }
        let entry = std::mem::replace(&mut self.leaves[leaf][way(index, 0)], Entry::EMPTY);
        if !entry.is_empty() {
            *self.leaves.used_mut(leaf) -= 1;
            if self.leaves.used(leaf) == 0 {
                self.leaves.free(leaf);
                self.prune(root, index);
            }
        }
        entry
    }

    /// Unlinks the freed leaf of an index and frees each node above that it leaves empty.
    fn prune(&mut self, root: &mut Root, index: u64) {
        let mut path = [0u32; MAX_HEIGHT as usize + 1];
        let mut node = root.node;
        for level in (1..=root.height).rev() {
            path[level as usize] = node;
            node = self.inner[node][way(index, level)];
        }
        for level in 1..=root.height {
            let node = path[level as usize];
            self.inner[node][way(index, level)] = 0;
            *self.inner.used_mut(node) -= 1;
            if self.inner.used(node) > 0 {
                return;
            }
            self.inner.free(node);
        }
        *root = Root::EMPTY;
    }

    /// Empties a tree, handing every entry to `each`.
    pub fn drain(&mut self, root: &mut Root, each: &mut impl FnMut(Entry)) {
        if root.node != 0 {
            self.drain_node(root.node, root.height, each);
        }
        *root = Root::EMPTY;
    }

    /// As `drain`, the first leaf only.
    pub fn drain_first(&mut self, root: &mut Root, each: &mut impl FnMut(Entry)) {
        let (mut node, mut index) = (root.node, 0);
        for level in (1..=root.height).rev() {
            let way = self.inner[node].iter().position(|child| *child != 0).unwrap_or(0);
            index |= (way as u64) << (BITS * level);
            node = self.inner[node][way];
        }
        if node != 0 {
            self.drain_node(node, 0, each);
            self.prune(root, index);
        }
    }

    fn drain_node(&mut self, node: u32, level: u32, each: &mut impl FnMut(Entry)) {
        if level == 0 {
            for entry in std::mem::replace(&mut self.leaves[node], [Entry::EMPTY; WAYS]) {
                if !entry.is_empty() {
                    each(entry);
                }
            }
            self.leaves.free(node);
            return;
        }
        for way in 0..WAYS {
            let child = std::mem::take(&mut self.inner[node][way]);
            if child != 0 {
                self.drain_node(child, level - 1, each);
            }
        }
        self.inner.free(node);
    }

    /// Gives back all memory, where there is no tree.
    pub fn reset_if_empty(&mut self) {
        if self.leaves.live() == 0 {
            self.places.discard(0..page_bytes(self.leaves.fresh() as usize * size_of::<LeafPlace>()));
        }
        self.inner.reset_if_empty();
        self.leaves.reset_if_empty();
    }

    pub fn touched_bytes(&self) -> usize {
        let places = page_bytes(self.leaves.fresh() as usize * size_of::<LeafPlace>());
        self.inner.touched_bytes() + self.leaves.touched_bytes() + places
    }

    /// Numbers of live inner nodes and leaves.
    pub fn live(&self) -> (usize, usize) {
        (self.inner.live(), self.leaves.live())
    }

    pub fn check(&self, broken: &mut Vec<String>) {
        self.inner.check("inner nodes", broken);
        self.leaves.check("leaves", broken);
    }

    /// Walks one tree for `check`: shows every entry, compares every node's count. Adds to the (inner, leaf) totals.
    pub fn walk(
        &self,
        root: Root,
        object: u32,
        seen: &mut Seen,
        broken: &mut Vec<String>,
        each: &mut impl FnMut(u64, Entry),
    ) {
        seen.object = object.into();
        if root.height > MAX_HEIGHT {
            broken.push(format!("a tree says it is {} levels high", root.height));
        } else if root.node != 0 {
            self.walk_node(root.node, root.height, 0, seen, broken, each);
        }
    }

    fn walk_node(
        &self,
        node: u32,
        level: u32,
        base: u64,
        seen: &mut Seen,
        broken: &mut Vec<String>,
        each: &mut impl FnMut(u64, Entry),
    ) {
        let live = if level == 0 { self.leaves.is_live(node) } else { self.inner.is_live(node) };
        if !live || !seen.enter(level == 0, node) {
            broken.push(format!("node {node} at level {level} is free, or linked twice"));
            return;
        }
        let (used, says);
        if level == 0 {
            let leaf = &self.leaves[node];
            if self.place(node) != (LeafPlace { base, object: seen.object }) {
                broken.push(format!("leaf {node}: {:?} is not where it is", self.place(node)));
            }
            (0..WAYS).filter(|&w| !leaf[w].is_empty()).for_each(|w| each(base + w as u64, leaf[w]));
            used = leaf.iter().filter(|e| !e.is_empty()).count();
            says = self.leaves.used(node);
        } else {
            let children = self.inner[node];
            for (w, &child) in children.iter().enumerate().filter(|(_, c)| **c != 0) {
                let base = base | ((w as u64) << (BITS * level));
                self.walk_node(child, level - 1, base, seen, broken, each);
            }
            used = children.iter().filter(|c| **c != 0).count();
            says = self.inner.used(node);
        }
        if used != says as usize || used == 0 {
            broken.push(format!("node {node} at level {level} has {used} used, its count says {says}"));
        }
    }
}

/// The nodes `check` has met.
#[derive(Default)]
pub(crate) struct Seen {
    /// The object that is walked.
    object: u64,
    pub inner: std::collections::HashSet<u32>,
    pub leaves: std::collections::HashSet<u32>,
}

impl Seen {
    fn enter(&mut self, leaf: bool, node: u32) -> bool {
        if leaf { self.leaves.insert(node) } else { self.inner.insert(node) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn all(trees: &Trees, root: Root) -> BTreeMap<u64, Entry> {
        let (mut seen, mut broken, mut got) = (Seen::default(), Vec::new(), BTreeMap::new());
        trees.walk(root, 7, &mut seen, &mut broken, &mut |i, e| assert!(got.insert(i, e).is_none()));
        trees.check(&mut broken);
        assert!(broken.is_empty(), "{broken:?}");
        assert_eq!((seen.inner.len(), seen.leaves.len()), trees.live());
        got
    }

    #[test]
    fn every_index_of_64_bits_is_its_own() {
        let mut trees = Trees::new(4096).unwrap();
        let mut root = Root::EMPTY;
        let mut model = BTreeMap::new();
        let mut indexes: Vec<u64> = (0..64).map(|b| 1 << b).collect();
        indexes.extend((0..64).map(|b| !(1 << b)));
        indexes.extend([0, u64::MAX, 63, 65]);
        for (n, &i) in indexes.iter().enumerate() {
            trees.insert(&mut root, 7, i, Entry::same(n as u64)).unwrap();
            model.insert(i, Entry::same(n as u64));
        }
        assert_eq!(all(&trees, root), model);
        for &i in &indexes {
            for from in [i, i.saturating_sub(1), i.saturating_add(1)] {
                let first = model.range(from..).next().map(|(i, e)| (*i, *e));
                assert_eq!(trees.next(root, from), first, "from {from:#x}");
            }
        }
        for i in indexes {
            assert_eq!(trees.get(root, i), model[&i]);
            assert_eq!(trees.remove(&mut root, i), model[&i]);
            assert!(trees.remove(&mut root, i).is_empty());
        }
        assert_eq!((root, trees.next(root, 0)), (Root::EMPTY, None));
        assert_eq!(trees.live(), (0, 0));
    }

    #[test]
    fn a_full_index_refuses_and_changes_nothing() {
        let mut trees = Trees::new(3).unwrap();
        let mut root = Root::EMPTY;
        for i in 0..3 {
            trees.insert(&mut root, 7, i * 64, Entry::same(i)).unwrap();
        }
        let before = (root, trees.live());
        assert_eq!(trees.insert(&mut root, 7, 1 << 40, Entry::same(0)), Err(Reason::IndexFull));
        assert_eq!((root, trees.live()), before);
        let mut count = 0;
        trees.drain(&mut root, &mut |_| count += 1);
        assert_eq!((count, trees.live()), (3, (0, 0)));
    }
}
