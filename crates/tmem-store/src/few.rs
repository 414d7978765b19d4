// SPDX-License-Identifier: Apache-2.0
//! Owns: the index of an object's pages: a node of four entries while they are its first few, a radix tree from then on. An
//! object of one page so takes 64 bytes of index and not a leaf of 1 KiB. Callers: `object`, `compact`. Locks: the store's.
//! Law: no empty node stays; an insert that is refused changed nothing.

use crate::entry::Entry;
use crate::nodes::NodeTable;
use crate::ops::Reason;
use crate::tree::{Root, Seen, Trees};
use tmem_sys::Errno;
use tmem_sys::page::fetch_line;

/// Pages, from index 0 on, that a small node has entries for.
pub(crate) const FEW: usize = 4;
/// The height of a root whose node is a small one: no tree is that high.
const SMALL: u32 = u32::MAX;

/// The memory of all indexes of a store.
pub(crate) struct Indexes {
    pub trees: Trees,
    pub few: NodeTable<[Entry; FEW]>,
}

fn place(index: u64) -> Option<usize> {
    (index < FEW as u64).then_some(index as usize)
}

impl Indexes {
    pub fn new(max_objects: usize, max_leaves: usize) -> Result<Indexes, Errno> {
        Ok(Indexes { trees: Trees::new(max_leaves)?, few: NodeTable::new(max_objects)? })
    }

    /// The entry at an index; the empty one where there is none.
    #[inline]
    pub fn get(&self, root: Root, index: u64) -> Entry {
        if root.height != SMALL {
            return self.trees.get(root, index);
        }
        place(index).map_or(Entry::EMPTY, |at| self.few[root.node][at])
    }

    /// Asks for the memory of the entry at an index.
    #[inline]
    pub fn expect(&self, root: Root, index: u64) {
        if root.height != SMALL {
            self.trees.expect(root, index);
        } else if let Some(at) = place(index) {
            fetch_line(&self.few[root.node][at]);
        }
    }

    /// Puts an entry where there is none.
    pub fn insert(&mut self, root: &mut Root, index: u64, entry: Entry) -> Result<(), Reason> {
        if root.node == 0
            && place(index).is_some()
            && let Some(node) = self.few.alloc()
        {
            *root = Root { node, height: SMALL };
        }
        if root.height != SMALL {
            return self.trees.insert(root, index, entry);
        }
        let Some(at) = place(index) else { return self.outgrow(root, index, entry) };
        self.few[root.node][at] = entry;
        *self.few.used_mut(root.node) += 1;
        Ok(())
    }

    /// Makes a tree of a small node's entries and one more.
    fn outgrow(&mut self, root: &mut Root, index: u64, entry: Entry) -> Result<(), Reason> {
        let mut tree = Root::EMPTY;
        let known = self.few[root.node];
        let all = (0..).zip(known).filter(|(_, e)| !e.is_empty()).chain([(index, entry)]);
        for (index, entry) in all {
            if let Err(reason) = self.trees.insert(&mut tree, index, entry) {
                self.trees.drain(&mut tree, &mut |_| {});
                return Err(reason);
            }
        }
        self.few[root.node] = [Entry::EMPTY; FEW];
        self.few.free(root.node);
        *root = tree;
        Ok(())
    }

    /// Takes the entry at an index out, and with it every node that it was the last of.
    pub fn remove(&mut self, root: &mut Root, index: u64) -> Entry {
        if root.height != SMALL {
            return self.trees.remove(root, index);
        }
        let Some(at) = place(index) else { return Entry::EMPTY };
        let entry = std::mem::replace(&mut self.few[root.node][at], Entry::EMPTY);
        if !entry.is_empty() {
            *self.few.used_mut(root.node) -= 1;
            if self.few.used(root.node) == 0 {
                self.few.free(root.node);
                *root = Root::EMPTY;
            }
        }
        entry
    }

    /// Empties an index, handing every entry to `each`.
    pub fn drain(&mut self, root: &mut Root, each: &mut impl FnMut(Entry)) {
        if root.height != SMALL {
            return self.trees.drain(root, each);
        }
        let entries = std::mem::replace(&mut self.few[root.node], [Entry::EMPTY; FEW]);
        entries.into_iter().filter(|e| !e.is_empty()).for_each(each);
        self.few.free(root.node);
        *root = Root::EMPTY;
    }

    pub fn touched_bytes(&self) -> usize {
        self.trees.touched_bytes() + self.few.touched_bytes()
    }

    /// Gives back all memory, where there is no index.
    pub fn reset_if_empty(&mut self) {
        self.trees.reset_if_empty();
        self.few.reset_if_empty();
    }

    pub fn check(&self, broken: &mut Vec<String>) {
        self.trees.check(broken);
        self.few.check("small nodes", broken);
    }

    /// Walks one index for `check`: shows every entry, compares every node's count, adds to what was seen.
    pub fn walk(
        &self,
        root: Root,
        seen: &mut Seen,
        broken: &mut Vec<String>,
        each: &mut impl FnMut(u64, Entry),
    ) {
        if root.height != SMALL {
            return self.trees.walk(root, seen, broken, each);
        }
        if !self.few.is_live(root.node) || !seen.few.insert(root.node) {
            broken.push(format!("small node {} is free, or linked twice", root.node));
            return;
        }
        let entries = (0..).zip(self.few[root.node]).filter(|(_, e)| !e.is_empty());
        let used = entries.map(|(index, entry)| each(index, entry)).count();
        let says = self.few.used(root.node) as usize;
        if used != says || used == 0 {
            broken.push(format!("small node {} has {used} used, its count says {says}", root.node));
        }
    }

    /// Whether nodes are live that were not seen.
    pub fn has_more_than(&self, seen: &Seen) -> bool {
        (seen.inner.len(), seen.leaves.len()) != self.trees.live() || seen.few.len() != self.few.live()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn all(indexes: &Indexes, root: Root) -> BTreeMap<u64, Entry> {
        let (mut seen, mut broken, mut got) = (Seen::default(), Vec::new(), BTreeMap::new());
        indexes.walk(root, &mut seen, &mut broken, &mut |i, e| assert!(got.insert(i, e).is_none()));
        indexes.check(&mut broken);
        assert!(broken.is_empty() && !indexes.has_more_than(&seen), "{broken:?}");
        got
    }

    #[test]
    fn few_pages_take_one_small_node_and_more_a_tree() {
        let mut indexes = Indexes::new(8, 8).unwrap();
        let (mut root, mut model) = (Root::EMPTY, BTreeMap::new());
        for (n, index) in [2, 0, 3, 1, 64, 1 << 50].into_iter().enumerate() {
            let entry = Entry::same(n as u64);
            indexes.insert(&mut root, index, entry).unwrap();
            model.insert(index, entry);
            assert_eq!(all(&indexes, root), model);
            assert_eq!((indexes.few.live(), indexes.trees.live().1 > 0), (usize::from(n < FEW), n >= FEW));
        }
        for (index, entry) in model {
            assert_eq!((indexes.get(root, index), indexes.remove(&mut root, index)), (entry, entry));
            assert!(indexes.remove(&mut root, index).is_empty());
        }
        assert_eq!((root, indexes.trees.live(), indexes.few.live()), (Root::EMPTY, (0, 0), 0));
        indexes.insert(&mut root, 1, Entry::same(9)).unwrap();
        assert!(indexes.remove(&mut root, 1 << 40).is_empty());
        let mut count = 0;
        indexes.drain(&mut root, &mut |_| count += 1);
        assert_eq!((count, root, indexes.few.live()), (1, Root::EMPTY, 0));
    }

    #[test]
    fn a_full_index_refuses_and_changes_nothing() {
        let mut indexes = Indexes::new(1, 1).unwrap();
        let (mut first, mut other) = (Root::EMPTY, Root::EMPTY);
        indexes.insert(&mut first, 0, Entry::same(1)).unwrap();
        indexes.insert(&mut other, 0, Entry::same(2)).unwrap();
        assert_eq!(
            (indexes.few.live(), indexes.trees.live()),
            (1, (0, 1)),
            "where no small node is left, a leaf does"
        );
        assert_eq!(indexes.insert(&mut first, 70, Entry::same(3)), Err(Reason::IndexFull));
        assert_eq!(all_of(&indexes, first), [(0, Entry::same(1))]);
        assert!(indexes.get(first, 70).is_empty());
    }

    fn all_of(indexes: &Indexes, root: Root) -> Vec<(u64, Entry)> {
        let mut got = Vec::new();
        indexes.walk(root, &mut Seen::default(), &mut Vec::new(), &mut |i, e| got.push((i, e)));
        got
    }
}
