// SPDX-License-Identifier: Apache-2.0
//! Owns: objects, found by (pool, 192-bit id), each with its tree of entries; and the list of each pool's objects. The
//! entry of an object's only page is in the object's own record, for those who have many objects of one page.
//! Callers: `pool`. Locks: the store's. Law: ids are compared whole, so ids that differ anywhere are different
//! objects; an object with no entry does not exist.

mod byid;
mod leaving;

use crate::entry::{Entry, EntryId};
use crate::nodes::NodeTable;
use crate::ops::Reason;
use crate::page_bytes;
use crate::tree::{Root, Seen, Trees};
use std::cell::Cell;
use tmem_sys::{Errno, Table};

/// The field's 192-bit object id: wide enough for a file handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub [u64; 3]);

/// As many pools as one store can hold.
pub(crate) const MAX_POOLS: usize = if cfg!(loom) { 2 } else { 64 };
/// Buckets that exist from the start: one page of them.
const FIRST_BUCKETS: usize = 1024;
/// In `chain`, of an object that no handle finds any more, and that still has entries.
const LEFT: u32 = u32::MAX;

tmem_sys::pod! {
    struct Object {
        id: [u64; 3],
        /// How many pages; of an object that has one and no tree, the page's index.
        pages: u64,
        /// The tree in an entry's clothes, or the only page's entry.
        first: Entry,
        pool: u32,
        /// The next object of the bucket.
        chain: u32,
        /// Neighbours in the pool's list.
        next: u32,
        prev: u32,
        spare: u32,
    }
}

/// Where an entry was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inserted {
    /// Number of the object, which stays the same while it has entries.
    pub object: u32,
    pub id: EntryId,
    /// The new number of the entry that was the object's only one until now.
    pub moved: Option<EntryId>,
}

pub(crate) struct Objects {
    pub(crate) trees: Trees,
    objects: NodeTable<Object>,
    /// Linear hashing: buckets are opened one at a time, so no put pays for a whole rehash.
    buckets: Table<u32>,
    open: usize,
    pool_heads: [u32; MAX_POOLS],
    /// The first object that left, in a list as those of the pools.
    leaving: u32,
    /// The object found last: the next handle is often of the same one.
    last: Cell<u32>,
    secret: [u64; 4],
}

impl Objects {
    pub fn new(max_objects: usize, max_leaves: usize) -> Result<Objects, Errno> {
        let mut secret = [0u8; 32];
        tmem_sys::random::random_bytes(&mut secret)?;
        let word = |n: usize| u64::from_ne_bytes(std::array::from_fn(|i| secret[n * 8 + i]));
        let buckets = max_objects.next_power_of_two().max(FIRST_BUCKETS);
        Ok(Objects {
            trees: Trees::new(max_leaves)?,
            objects: NodeTable::new(max_objects.min(EntryId::OBJECTS - 2))?,
            buckets: Table::new(buckets)?,
            open: FIRST_BUCKETS,
            pool_heads: [0; MAX_POOLS],
            leaving: 0,
            last: Cell::new(0),
            secret: std::array::from_fn(word),
        })
    }

    pub fn get(&self, pool: u32, id: ObjectId, index: u64) -> Entry {
        match self.find(pool, id) {
            0 => Entry::EMPTY,
            object => self.get_in(object, index),
        }
    }

    #[inline]
    fn get_in(&self, object: u32, index: u64) -> Entry {
        let Object { first, pages, .. } = self.objects[object];
        match first.root() {
            Some(root) => self.trees.get(root, index),
            None if pages == index => first,
            None => Entry::EMPTY,
        }
    }

    /// Asks for the memory of the entry at an index.
    #[inline]
    pub fn expect(&self, pool: u32, id: ObjectId, index: u64) {
        if let Some(root) = self.objects[self.find(pool, id)].first.root() {
            self.trees.expect(root, index);
        }
    }

    /// Puts an entry where there is none.
    pub fn insert(&mut self, pool: u32, id: ObjectId, index: u64, entry: Entry) -> Result<Inserted, Reason> {
        let object = match self.find(pool, id) {
            0 => {
                let object = self.create(pool, id)?;
                (self.objects[object].first, self.objects[object].pages) = (entry, index);
                return Ok(Inserted { object, id: EntryId::lone(object), moved: None });
            }
            object => object,
        };
        let (root, moved) = match self.objects[object].first.root() {
            Some(root) => (root, None),
            None => {
                let (root, moved) = self.plant(object)?;
                (root, Some(moved))
            }
        };
        let mut root = root;
        let done = self.trees.insert(&mut root, object, index, entry);
        self.objects[object].first = Entry::tree(root);
        self.objects[object].pages += u64::from(done.is_ok());
        match done {
            Ok(id) => Ok(Inserted { object, id, moved }),
            Err(reason) => {
                if moved.is_some() {
                    self.uproot(object, root);
                }
                Err(reason)
            }
        }
    }

    /// Moves an object's only entry into a tree, since there are to be more.
    fn plant(&mut self, object: u32) -> Result<(Root, EntryId), Reason> {
        let Object { first, pages: index, .. } = self.objects[object];
        let mut root = Root::EMPTY;
        let id = self.trees.insert(&mut root, object, index, first)?;
        (self.objects[object].first, self.objects[object].pages) = (Entry::tree(root), 1);
        Ok((root, id))
    }

    /// Moves the only entry of a tree back into the object's record.
    fn uproot(&mut self, object: u32, root: Root) {
        let mut only = (0, Entry::EMPTY);
        let mut root = root;
        if let Some((index, _)) = self.trees.next(root, 0) {
            only = (index, self.trees.remove(&mut root, index));
        }
        (self.objects[object].pages, self.objects[object].first) = only;
    }

    /// Takes an entry out; the empty one where there is none.
    pub fn remove(&mut self, pool: u32, id: ObjectId, index: u64) -> Entry {
        match self.find(pool, id) {
            0 => Entry::EMPTY,
            object => self.remove_at(object, index),
        }
    }

    /// Takes an entry out by its object's number, and says whose pool's it was; `None` where there is none.
    pub fn take(&mut self, object: u32, index: u64) -> Option<(u32, Entry)> {
        if !self.objects.is_live(object) {
            return None;
        }
        let pool = self.objects[object].pool;
        let entry = self.remove_at(object, index);
        (!entry.is_empty()).then_some((pool, entry))
    }

    /// The id of an object's number, if it is one that handles find.
    pub fn id_of(&self, object: u32) -> Option<ObjectId> {
        self.is_here(object).then(|| ObjectId(self.objects[object].id))
    }

    /// Whether handles find the object of that number.
    fn is_here(&self, object: u32) -> bool {
        self.objects.is_live(object) && self.objects[object].chain != LEFT
    }

    /// The first live object of a pool whose number is above `after`.
    pub fn next_of(&self, pool: u32, after: u32) -> Option<u32> {
        (after.saturating_add(1)..self.objects.fresh())
            .find(|&n| self.is_here(n) && self.objects[n].pool == pool)
    }

    fn remove_at(&mut self, object: u32, index: u64) -> Entry {
        let Some(mut root) = self.objects[object].first.root() else {
            let entry = self.get_in(object, index);
            if !entry.is_empty() {
                self.drop_object(object);
            }
            return entry;
        };
        let entry = self.trees.remove(&mut root, index);
        self.objects[object].first = Entry::tree(root);
        self.objects[object].pages -= u64::from(!entry.is_empty());
        if self.objects[object].pages == 0 {
            self.drop_object(object);
        }
        entry
    }

    /// Takes all entries of an object out.
    pub fn remove_object(&mut self, pool: u32, id: ObjectId, each: &mut impl FnMut(Entry)) {
        let object = self.find(pool, id);
        if object != 0 {
            self.drain(object, each);
        }
    }

    /// Takes all entries of a pool out.
    pub fn remove_pool(&mut self, pool: u32, each: &mut impl FnMut(Entry)) {
        while self.pool_heads[pool as usize] != 0 {
            self.drain(self.pool_heads[pool as usize], each);
        }
    }

    pub fn live(&self) -> usize {
        self.objects.live()
    }

    /// Gives back all memory, where there is no object.
    pub fn reset_if_empty(&mut self) {
        if self.objects.live() == 0 {
            self.buckets.discard(0..page_bytes(self.open * size_of::<u32>()));
            self.open = FIRST_BUCKETS;
            self.last.set(0);
            self.objects.reset_if_empty();
            self.trees.reset_if_empty();
        }
    }

    pub fn touched_bytes(&self) -> usize {
        self.trees.touched_bytes() + self.objects.touched_bytes() + page_bytes(self.open * size_of::<u32>())
    }

    fn drain(&mut self, object: u32, each: &mut impl FnMut(Entry)) {
        match self.objects[object].first.root() {
            Some(mut root) => self.trees.drain(&mut root, each),
            None => each(self.objects[object].first),
        }
        self.drop_object(object);
    }

    /// A hash no user can aim at one bucket: three multiplications keyed with the process's secret.
    fn hash(&self, pool: u32, id: ObjectId) -> u64 {
        let fold = |a: u64, b: u64| {
            let wide = u128::from(a) * u128::from(b);
            wide as u64 ^ (wide >> 64) as u64
        };
        let [a, b, c] = id.0;
        let ab = fold(a ^ self.secret[0], b ^ self.secret[1]);
        let cp = fold(c ^ self.secret[2], u64::from(pool) ^ self.secret[3]);
        fold(ab ^ self.secret[1], cp.rotate_left(32) ^ self.secret[2])
    }

    fn bucket_of(&self, hash: u64) -> usize {
        let span = self.open.next_power_of_two();
        let at = hash as usize & (span - 1);
        if at < self.open { at } else { at - span / 2 }
    }

    #[inline]
    fn find(&self, pool: u32, id: ObjectId) -> u32 {
        let last = self.last.get();
        // A freed record is all zeros, so only its being live tells it from object 0 of pool 0.
        let known = &self.objects[last];
        if known.id == id.0 && known.pool == pool && self.objects.is_live(last) {
            return last;
        }
        let found = self.search(pool, id);
        self.last.set(found);
        found
    }

    fn search(&self, pool: u32, id: ObjectId) -> u32 {
        let mut at = self.buckets[self.bucket_of(self.hash(pool, id))];
        while at != 0 {
            let object = &self.objects[at];
            if object.id == id.0 && object.pool == pool {
                break;
            }
            at = object.chain;
        }
        at
    }

    fn create(&mut self, pool: u32, id: ObjectId) -> Result<u32, Reason> {
        let object = self.objects.alloc().ok_or(Reason::IndexFull)?;
        if self.objects.live() > self.open && self.open < self.buckets.len() {
            self.open_bucket();
        }
        let bucket = self.bucket_of(self.hash(pool, id));
        let next = std::mem::replace(&mut self.pool_heads[pool as usize], object);
        if next != 0 {
            self.objects[next].prev = object;
        }
        let chain = std::mem::replace(&mut self.buckets[bucket], object);
        self.objects[object] =
            Object { id: id.0, pages: 0, first: Entry::EMPTY, pool, chain, next, prev: 0, spare: 0 };
        Ok(object)
    }

    /// Opens one more bucket and moves to it what belongs there, all from one other bucket.
    fn open_bucket(&mut self) {
        let new = self.open;
        self.open += 1;
        let old = new - self.open.next_power_of_two() / 2;
        let mut at = std::mem::take(&mut self.buckets[old]);
        while at != 0 {
            let Object { chain: after, pool, id, .. } = self.objects[at];
            let bucket = self.bucket_of(self.hash(pool, ObjectId(id)));
            self.objects[at].chain = std::mem::replace(&mut self.buckets[bucket], at);
            at = after;
        }
    }

    /// Forgets an object whose entries are gone.
    fn drop_object(&mut self, object: u32) {
        self.unlink(object);
        self.objects[object] = ZERO;
        self.objects.free(object);
    }

    /// Takes an object off its bucket and its pool's list, or off the list of those that left.
    fn unlink(&mut self, object: u32) {
        let gone = self.objects[object];
        let head = if gone.chain == LEFT {
            &mut self.leaving
        } else {
            let bucket = self.bucket_of(self.hash(gone.pool, ObjectId(gone.id)));
            if self.buckets[bucket] == object {
                self.buckets[bucket] = gone.chain;
            } else {
                let mut at = self.buckets[bucket];
                while self.objects[at].chain != object {
                    at = self.objects[at].chain;
                }
                self.objects[at].chain = gone.chain;
            }
            &mut self.pool_heads[gone.pool as usize]
        };
        match gone.prev {
            0 => *head = gone.next,
            prev => self.objects[prev].next = gone.next,
        }
        if gone.next != 0 {
            self.objects[gone.next].prev = gone.prev;
        }
    }

    /// Walks every pool's objects and shows each entry as (pool, object's number, index, entry, its own number).
    pub fn check(&self, broken: &mut Vec<String>, each: &mut impl FnMut(u32, u32, u64, Entry, EntryId)) {
        self.objects.check("objects", broken);
        self.trees.check(broken);
        let (mut seen, mut objects) = (Seen::default(), 0);
        for (pool, head) in (0..).zip(self.pool_heads.into_iter().chain([self.leaving])) {
            let left = pool == MAX_POOLS as u32;
            let (mut at, mut prev) = (head, 0);
            while at != 0 && objects <= self.objects.live() {
                let object = self.objects[at];
                objects += 1;
                let here = if left { object.chain == LEFT } else { object.pool == pool };
                if !self.objects.is_live(at) || object.prev != prev || !here {
                    broken.push(format!("object {at}: not live, or in a wrong list (pool {pool})"));
                    break;
                }
                if !left && self.search(pool, ObjectId(object.id)) != at {
                    broken.push(format!("object {at}: its id finds another"));
                }
                let mut pages = 0;
                match object.first.root() {
                    Some(root) => {
                        self.trees.walk(root, at, &mut seen, broken, &mut |index, entry| {
                            pages += 1;
                            each(object.pool, at, index, entry, self.trees.id(root, index));
                        });
                        if pages != object.pages || pages == 0 {
                            broken
                                .push(format!("object {at}: {pages} pages, its count says {}", object.pages));
                        }
                    }
                    None if object.first.is_empty() => broken.push(format!("object {at}: it has no page")),
                    None => each(object.pool, at, object.pages, object.first, EntryId::lone(at)),
                }
                (at, prev) = (object.next, at);
            }
        }
        if objects != self.objects.live() {
            broken.push(format!("{objects} objects are listed, {} are live", self.objects.live()));
        }
        if (seen.inner.len(), seen.leaves.len()) != self.trees.live() {
            broken.push("tree nodes are live that no object reaches".into());
        }
    }

    /// Changes an object's record, as stray writes would.
    #[cfg(test)]
    pub fn break_count(&mut self, pool: u32, id: ObjectId) {
        let object = self.find(pool, id);
        self.objects[object].pages += 1;
    }
}

const ZERO: Object =
    Object { id: [0; 3], pages: 0, first: Entry::EMPTY, pool: 0, chain: 0, next: 0, prev: 0, spare: 0 };

#[cfg(test)]
mod tests;
