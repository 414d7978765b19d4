// SPDX-License-Identifier: Apache-2.0
//! Owns: entries by their own numbers, which slots and orders of age know, and walks over a pool's objects in bounded steps.
//! Callers: `compact`, `oldest`, `cold`, `shared`, `save`. Locks: the store's.

use super::{Object, ObjectId, Objects};
use crate::entry::{Entry, EntryId, EntryPlace};

impl Objects {
    /// The entry of that number, if it is one.
    pub fn entry_mut(&mut self, id: EntryId) -> Option<&mut Entry> {
        match id.place() {
            EntryPlace::InLeaf(leaf, way) if self.trees.leaves.is_live(leaf) => {
                Some(&mut self.trees.leaves[leaf][way])
            }
            EntryPlace::Lone(object) if self.objects.is_live(object) => {
                Some(&mut self.objects[object].first).filter(|first| first.root().is_none())
            }
            _ => None,
        }
    }

    /// The entry of that number, if it is one.
    pub fn entry(&self, id: EntryId) -> Option<Entry> {
        match id.place() {
            EntryPlace::InLeaf(leaf, way) if self.trees.leaves.is_live(leaf) => {
                Some(self.trees.leaves[leaf][way])
            }
            EntryPlace::Lone(object) if self.objects.is_live(object) => {
                Some(self.objects[object].first).filter(|first| first.root().is_none())
            }
            _ => None,
        }
    }

    /// The number of the entry of a handle.
    pub fn id(&self, pool: u32, id: ObjectId, index: u64) -> Option<EntryId> {
        let object = self.find(pool, id);
        let Object { first, pages, .. } = self.objects[object];
        match first.root() {
            _ if object == 0 => None,
            Some(root) => {
                Some(self.trees.id(root, index)).filter(|id| !self.entry(*id).is_none_or(|e| e.is_empty()))
            }
            None => (pages == index).then(|| EntryId::lone(object)),
        }
    }

    /// The handle of the entry of that number: pool, object and index.
    pub fn handle(&self, id: EntryId) -> Option<(u32, ObjectId, u64)> {
        let (object, index) = match id.place() {
            EntryPlace::InLeaf(leaf, way) if self.trees.leaves.is_live(leaf) => {
                let place = self.trees.place(leaf);
                (place.object as u32, place.base + way as u64)
            }
            EntryPlace::Lone(object) if self.objects.is_live(object) => (object, self.objects[object].pages),
            _ => return None,
        };
        let found = &self.objects[object];
        self.objects.is_live(object).then_some((found.pool, ObjectId(found.id), index))
    }

    /// The first entry of an object from an index on.
    pub fn next(&self, pool: u32, id: ObjectId, from: u64) -> Option<(u64, Entry)> {
        let object = self.find(pool, id);
        let Object { first, pages: index, .. } = self.objects[object];
        match first.root() {
            _ if object == 0 => None,
            Some(root) => self.trees.next(root, from),
            None => (index >= from).then_some((index, first)),
        }
    }

    /// Writes the ids of a pool's objects with numbers from `at` on, as many as there is room for among so many numbers;
    /// how many. `at` moves on, and is 0 at the end. An object keeps its number, so none is passed over between two calls.
    pub fn ids(&self, pool: u32, at: &mut u32, numbers: usize, into: &mut [ObjectId]) -> usize {
        let (mut found, end) = (0, self.objects.fresh());
        let last = end.min(at.saturating_add(numbers as u32));
        let mut number = (*at).max(1);
        while number < last && found < into.len() {
            let object = &self.objects[number];
            if object.pool == pool && self.is_here(number) {
                into[found] = ObjectId(object.id);
                found += 1;
            }
            number += 1;
        }
        *at = if number < end { number } else { 0 };
        found
    }
}
