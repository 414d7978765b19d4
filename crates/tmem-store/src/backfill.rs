// SPDX-License-Identifier: Apache-2.0
//! Owns: the making of candidates of pages that are stored already. Callers: `dedup` on a put, while there are pages that
//! were stored when their pool only sampled; `place` when an entry gets another id. Locks: the store's.
//! Without it, the first of two copies of the same data would not be found: it was stored before anyone knew that there
//! would be another.

use crate::config::Dedup;
use crate::entry::{Entry, EntryId, EntryPlace, Form};
use crate::pool::{PageStore, Pool};
use crate::shared::Circle;
use crate::tree::WAYS;
use tmem_sys::PAGE_SIZE;

/// Pages made candidates with each put: two, so that they come before a second copy that is put in the order of the first.
const FILLED: usize = 2;
/// Entries looked at for them.
const LOOKED_AT: usize = 2 * WAYS;

impl PageStore {
    /// Makes some pages candidates that were stored while their pool sampled. Only those in a leaf of the index: objects of
    /// one page are as likely as others to have a twin that comes later, but to look for them takes another walk.
    pub(crate) fn fill_in(&mut self) {
        let mut filled = 0;
        for _ in 0..LOOKED_AT {
            if self.dedup.fill == EntryId::NONE || filled == FILLED {
                return;
            }
            let id = self.dedup.fill;
            self.dedup.fill = self.after(id);
            if let Some(entry) = self.objects.entry(id).filter(|e| !e.is_empty())
                && let Some((pool, ..)) = self.objects.handle(id)
                && let Some(tag) = self.tag_of_stored(pool as usize, entry)
            {
                if self.dedup.candidates.find(tag).is_none() {
                    self.dedup.candidates.put(tag, id);
                }
                filled += 1;
            }
        }
    }

    /// The entry after another in the leaves of the index; none after the last.
    fn after(&self, id: EntryId) -> EntryId {
        let leaves = &self.objects.trees.leaves;
        match id.place() {
            EntryPlace::InLeaf(leaf, way) if way + 1 < WAYS && leaves.is_live(leaf) => {
                EntryId::in_leaf(leaf, way + 1)
            }
            EntryPlace::InLeaf(leaf, _) if leaf + 1 < leaves.fresh() => EntryId::in_leaf(leaf + 1, 0),
            _ => EntryId::NONE,
        }
    }

    /// The entry of a page that may be a candidate has another id now: it is hashed once more, as nobody kept its tag.
    pub(crate) fn rename_candidate(&mut self, slot: usize, entry: Entry, old: EntryId, new: EntryId) {
        if let Some(tag) = self.tag_of_stored(slot, entry) {
            self.dedup.candidates.rename(tag, old, Some(new));
        }
    }

    /// The tag of a page that is stored and not shared, if its pool looks it up.
    fn tag_of_stored(&mut self, slot: usize, entry: Entry) -> Option<u32> {
        let Pool { config, sampler, guest, kind, .. } = self.pools[slot];
        if config.dedup == Dedup::Off {
            return None;
        }
        let PageStore { slab, dedup, codec, .. } = self;
        match entry.form() {
            Form::Packed(loc, len) => {
                let packed = slab.read(loc, len)?;
                codec.decode(packed, &mut dedup.beside[0]).then_some(())?;
            }
            Form::Raw(loc) => dedup.beside[0].copy_from_slice(slab.read(loc, PAGE_SIZE)?),
            // A share is a candidate by its own name.
            _ => return None,
        }
        let page = &dedup.beside[0];
        let looked_up = sampler.is_all(config.dedup) || dedup.is_sample(page);
        looked_up.then(|| dedup.tag(page, Circle { guest, ephemeral: kind.is_ephemeral() }))
    }
}
