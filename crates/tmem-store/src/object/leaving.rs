// SPDX-License-Identifier: Apache-2.0
//! Owns: objects that no handle finds any more and that still have entries: they are in a list of their own, and emptied leaf
//! by leaf. Callers: `leave`. Locks: the store's. Law: an entry keeps its number until it is taken out, so that slots and
//! shares find it.

use super::{LEFT, Object, ObjectId, Objects};
use crate::entry::Entry;

impl Objects {
    /// Has no handle find an object any more; how many entries it has. They are taken out by [`Objects::drain_leaving`].
    pub fn detach_object(&mut self, pool: u32, id: ObjectId) -> u64 {
        match self.find(pool, id) {
            0 => 0,
            object => self.detach(object),
        }
    }

    /// As `detach_object`, all objects of a pool.
    pub fn detach_pool(&mut self, pool: u32) -> u64 {
        let mut pages = 0;
        while self.pool_heads[pool as usize] != 0 {
            pages += self.detach(self.pool_heads[pool as usize]);
        }
        pages
    }

    pub fn has_leaving(&self) -> bool {
        self.leaving != 0
    }

    /// Takes a leaf of entries out of an object that left, and shows each with its pool.
    pub fn drain_leaving(&mut self, each: &mut impl FnMut(u32, Entry)) {
        let object = self.leaving;
        if object == 0 {
            return;
        }
        let Object { first, pool, mut pages, .. } = self.objects[object];
        let Some(mut root) = first.root() else {
            each(pool, first);
            self.drop_object(object);
            return;
        };
        self.trees.drain_first(&mut root, &mut |entry| {
            pages = pages.saturating_sub(1);
            each(pool, entry);
        });
        (self.objects[object].first, self.objects[object].pages) = (Entry::tree(root), pages);
        // Where stray writes broke the count, the object goes when its tree is gone: the emptying must end.
        if root.node == 0 {
            self.drop_object(object);
        }
    }

    fn detach(&mut self, object: u32) -> u64 {
        self.unlink(object);
        self.last.set(0);
        let next = std::mem::replace(&mut self.leaving, object);
        if next != 0 {
            self.objects[next].prev = object;
        }
        let left = &mut self.objects[object];
        (left.chain, left.next, left.prev) = (LEFT, next, 0);
        if left.first.root().is_some() { left.pages } else { 1 }
    }
}
