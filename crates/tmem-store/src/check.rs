// SPDX-License-Identifier: Apache-2.0
//! Owns: the walk over everything a page store holds; each broken law becomes one line. Callers: tests, `doctor`,
//! `BackendOps::check`. Allocates; not for the path of a page.

use crate::board::Board;
use crate::class::LARGEST_PACKED;
use crate::entry::{Entry, EntryId, Form};
use crate::guests::{GuestHoldings, GuestId, MAX_GUESTS, slot_bytes};
use crate::held::count;
use crate::order::Place;
use crate::pool::{PageStore, Pool};
use crate::shard::Guard;
use crate::shared::{Circle, Met, Shares, data_len};
use crate::slab::{Loc, Slab};
use crate::stats::Holdings;
use std::collections::{HashMap, HashSet};
use tmem_sys::PAGE_SIZE;

impl PageStore {
    /// Describes each broken law of the store's structures; empty when all is well. Page contents are not decoded.
    pub fn check(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut walk = Walk {
            slab: &self.slab,
            slots: HashSet::new(),
            held: Holdings::default(),
            met: Met::default(),
            broken: Vec::new(),
        };
        let mut pages = vec![0u64; self.pools.len()];
        let mut charges = [GuestHoldings::default(); MAX_GUESTS];
        let (mut aged, mut ordered) = (HashMap::new(), HashMap::new());
        self.objects.check(&mut broken, &mut |pool, object, index, entry, id| {
            pages[pool as usize] += 1;
            let pool = &self.pools[pool as usize];
            let circle = Circle { guest: pool.guest, ephemeral: pool.kind.is_ephemeral() };
            let data = walk.entry(&self.dedup.shares, entry, id, circle);
            charges[pool.guest.slot()].add(slot_bytes(&self.slab, data), pool.kind.is_ephemeral());
            if pool.kind.is_ephemeral() {
                aged.insert(entry.record(), (object, index, pool.guest));
            } else if entry.record() != 0 {
                ordered.insert(Place(entry.record()), id);
            }
        });
        self.check_order(ordered, &mut broken);
        self.check_guests(&charges, aged, &mut broken);
        for (slot, pool) in self.pools.iter().enumerate() {
            let dead = !pool.live && !self.objects.has_leaving();
            if pages[slot] != pool.stats.pages || (pages[slot] > 0 && dead) {
                broken
                    .push(format!("pool {slot}: {} pages, its count says {}", pages[slot], pool.stats.pages));
            }
        }
        for (slot, pool) in self.pools.iter().enumerate().filter(|(_, pool)| pool.live) {
            if pool.stats.frozen != (pool.frozen || self.saves.is_held(slot)) {
                broken.push(format!("pool {slot}: frozen or not, for no reason"));
            }
        }
        if walk.held != self.held {
            broken.push(format!("the index holds {:?}, the counters say {:?}", walk.held, self.held));
        }
        if walk.slots.len() != self.slab.slots_taken() {
            broken.push(format!(
                "{} slots are used by entries, {} are taken: the rest leaked",
                walk.slots.len(),
                self.slab.slots_taken()
            ));
        }
        walk.met.compare(&self.dedup.shares, &self.slab, &mut broken);
        self.dedup.check(&mut broken);
        broken.append(&mut walk.broken);
        self.slab.check(&mut broken);
        broken
    }

    /// Compares the order of persistent pages with the places their entries name.
    fn check_order(&self, mut ordered: HashMap<Place, EntryId>, broken: &mut Vec<String>) {
        let mut stray = Vec::new();
        self.order.check(broken, &mut |place, id| {
            if ordered.remove(&place) != Some(id) {
                stray.push(format!("{place:?}: no entry {id:?} says it is there"));
            }
        });
        broken.append(&mut stray);
        if !ordered.is_empty() {
            broken.push(format!("{} pages are not in the order where they say", ordered.len()));
        }
    }

    /// Compares charges with what guests hold, and the order of age with the ephemeral pages there are.
    fn check_guests(
        &self,
        charges: &[GuestHoldings],
        mut aged: HashMap<u32, (u32, u64, GuestId)>,
        broken: &mut Vec<String>,
    ) {
        for (id, guest) in self.guests.iter() {
            if charges[id.slot()] != guest.held {
                broken.push(format!(
                    "{id:?} holds {:?}, its charge says {:?}",
                    charges[id.slot()],
                    guest.held
                ));
            }
            if self.guests.seat.shows(id).0 != guest.held.ephemeral_charge {
                broken.push(format!("{id:?}: the board shows another charge of ephemeral pages"));
            }
            let pools = self.pools.iter().filter(|p| p.live && p.guest == id).count();
            if pools != guest.pools as usize {
                broken.push(format!("{id:?} has {pools} pools, its count says {}", guest.pools));
            }
        }
        let mut stray = Vec::new();
        self.ages.check(broken, &mut |number, record| {
            let (object, index, guest) = (record.object, record.index, record.guest);
            if aged.remove(&number) != Some((object, index, GuestId(guest as u8))) {
                stray.push(format!("record {number}: no page of guest {guest} at object {object}, {index}"));
            }
        });
        broken.append(&mut stray);
        if !aged.is_empty() {
            broken.push(format!("{} ephemeral pages are not in the order of age", aged.len()));
        }
    }
}

/// Describes each broken law of a host's shards, which are all locked, and of what they share.
pub(crate) fn check_host(shards: &[Option<Guard<'_>>], board: &Board, coders: usize) -> Vec<String> {
    let mut broken: Vec<String> = shards.iter().flatten().flat_map(|store| store.check()).collect();
    let granted: usize = shards.iter().flatten().map(|store| store.granted()).sum();
    if granted as i64 + coders as i64 + board.ungranted() != board.limit() as i64 {
        broken.push(format!(
            "{granted} bytes are granted, {coders} taken by codecs, {} left of {}",
            board.ungranted(),
            board.limit()
        ));
    }
    let Some(first) = shards.iter().flatten().next() else { return broken };
    for (at, store) in shards.iter().flatten().enumerate() {
        if store.footprint() > store.granted() {
            broken.push(format!(
                "shard {at}: {} bytes taken, {} granted",
                store.footprint(),
                store.granted()
            ));
        }
        let same = |(a, b): (&Pool, &Pool)| {
            (a.live, a.guest, a.kind, a.stats.frozen) == (b.live, b.guest, b.kind, b.stats.frozen)
        };
        let limits = |store: &PageStore| -> Vec<_> {
            store.guests.iter().map(|(id, g)| (id, g.name().to_vec(), g.limits, g.pools)).collect()
        };
        if !store.pools.iter().zip(&first.pools).all(same) || limits(store) != limits(first) {
            broken.push(format!("shard {at}: its pools or guests are not those of the first"));
        }
    }
    for (id, _) in first.guests.iter().filter(|(_, guest)| guest.limits.cap.is_some()) {
        let charge: u64 = shards.iter().flatten().map(|store| store.guests.get(id).held.charge).sum();
        if charge != board.capped(id) {
            broken.push(format!("{id:?} is charged {charge} bytes, under its cap {}", board.capped(id)));
        }
    }
    broken
}

struct Walk<'a> {
    slab: &'a Slab,
    slots: HashSet<Loc>,
    held: Holdings,
    met: Met,
    broken: Vec<String>,
}

impl Walk<'_> {
    /// Counts an entry. The data that lies in the slab for it: what is shared, for the first of its share.
    fn entry(&mut self, shares: &Shares, entry: Entry, id: EntryId, circle: Circle) -> Entry {
        count(&mut self.held, entry, u64::wrapping_add);
        let data = self.met.meet(shares, entry, id, circle, &mut self.broken);
        let mut owner = id;
        if let Form::Shared(share) = entry.form() {
            self.held.data_bytes += data_len(data);
            owner = EntryId::share(share);
        }
        match data.form() {
            Form::Packed(loc, len) if len == 0 || len > LARGEST_PACKED => {
                self.broken.push(format!("{loc:?}: a packed page of {len} bytes"));
            }
            Form::Packed(loc, len) => self.slot(loc, len, owner),
            Form::Raw(loc) => self.slot(loc, PAGE_SIZE, owner),
            Form::Broken(kind) => self.broken.push(format!("an entry of unknown kind {kind}")),
            Form::Empty | Form::Same(_) | Form::Shared(_) => {}
        }
        data
    }

    fn slot(&mut self, loc: Loc, len: usize, id: EntryId) {
        if self.slab.owner(loc) != Some(id) {
            self.broken.push(format!("{loc:?}: its slot says it is another entry's"));
        }
        if !self.slab.fits(loc, len) {
            self.broken.push(format!("{loc:?}: no slot in use, or not of the class of {len} bytes"));
        }
        if !self.slots.insert(loc) {
            self.broken.push(format!("{loc:?}: two entries use this slot"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Corrupt, Loaded};
    use crate::pool::{PoolConfig, PoolId, PoolKind, StoreConfig, StoreError};
    use crate::{ObjectId, Outcome};
    use tmem_sys::Page;

    const OBJECT: ObjectId = ObjectId([1, 2, 3]);

    fn text(n: u64) -> Page {
        std::array::from_fn(|i| ((i as u64 / 8).wrapping_mul(n + 1) >> 2) as u8)
    }

    /// A store with 100 packed pages, and two of their places.
    fn store() -> (PageStore, PoolId, Vec<Loc>) {
        let mut store = PageStore::new(StoreConfig::for_pages(1000, 1 << 20)).unwrap();
        let pool = store.new_pool(PoolConfig { raw: true, ..PoolConfig::default() }).unwrap();
        for n in 0..100 {
            assert_eq!(store.put(pool, OBJECT, n, &text(n)), Ok(Outcome::Stored));
        }
        let locs = (0..100).filter_map(|n| match store.objects.get(0, OBJECT, n).form() {
            Form::Packed(loc, _) => Some(loc),
            _ => None,
        });
        let locs: Vec<Loc> = locs.collect();
        assert!(store.check().is_empty() && locs.len() > 50);
        (store, pool, locs)
    }

    fn leaf_entry(store: &mut PageStore, n: usize) -> &mut Entry {
        &mut store.objects.trees.leaves[1][n]
    }

    /// Each deliberate damage must be named.
    #[test]
    fn check_convicts_every_kind_of_damage() {
        type Damage = fn(&mut PageStore, Loc);
        let damages: [(&str, Damage); 12] = [
            ("slot freed behind the index", |s, loc| s.slab.free(loc)),
            ("slot leaked", |s, _| assert!(s.slab.store(&[1; 100]).is_some())),
            ("entry lost", |s, _| *leaf_entry(s, 5) = Entry::EMPTY),
            ("entry doubled", |s, _| *leaf_entry(s, 5) = *leaf_entry(s, 6)),
            ("kind overwritten", |s, _| leaf_entry(s, 5).break_kind()),
            ("length overwritten", |s, loc| *leaf_entry(s, 5) = Entry::packed(loc, 4000)),
            ("object count", |s, _| s.objects.break_count(0, OBJECT)),
            ("pool count", |s, _| s.pools[0].stats.pages += 1),
            ("data bytes", |s, _| s.held.data_bytes -= 1),
            ("slot's owner", |s, loc| s.slab.set_owner(loc, EntryId::in_leaf(1, 99))),
            ("order", |s, _| {
                let place = Place(leaf_entry(s, 5).record());
                s.order.break_place(place);
            }),
            ("chunk header", |s, loc| s.slab.chunks.header_mut(loc.chunk()).used += 1),
        ];
        for (name, damage) in damages {
            let (mut store, _, locs) = store();
            damage(&mut store, locs[7]);
            assert!(!store.check().is_empty(), "{name} went unseen");
        }
    }

    #[test]
    fn check_convicts_damage_to_charges_and_to_the_order_of_age() {
        type Damage = fn(&mut PageStore, u32);
        let damages: [(&str, Damage); 5] = [
            ("order", |s, record| s.ages.break_order(record)),
            ("page out of the order", |s, record| s.ages.remove(record)),
            ("charge", |s, _| s.guests.get_mut(GuestId::FIRST).held.charge += 1),
            ("ephemeral charge", |s, _| s.guests.get_mut(GuestId::FIRST).held.ephemeral_charge -= 1),
            ("pools", |s, _| s.guests.get_mut(GuestId::FIRST).pools += 1),
        ];
        for (name, damage) in damages {
            let config = StoreConfig::for_pages(100, 1 << 20);
            let mut store = PageStore::with_ephemeral(config, 100).unwrap();
            let kind = PoolKind::Exclusive;
            let pool = store.new_pool_of(GuestId::FIRST, kind, PoolConfig::default()).unwrap();
            for n in 0..10 {
                assert_eq!(store.put(pool, OBJECT, n, &text(n)), Ok(Outcome::Stored));
            }
            assert!(store.check().is_empty());
            let record = store.objects.get(0, OBJECT, 5).record();
            damage(&mut store, record);
            assert!(!store.check().is_empty(), "{name} went unseen");
        }
    }

    #[test]
    fn a_lost_page_is_an_error_and_never_other_bytes() {
        let (mut store, pool, locs) = store();
        let mut into = [0; PAGE_SIZE];
        store.slab.slot_mut(locs[0], 64).fill(0xff);
        let lost = (0..100).filter(|&n| store.get(pool, OBJECT, n, &mut into) != Ok(Loaded::Loaded)).count();
        assert_eq!(lost, 1);
        leaf_entry(&mut store, 5).break_kind();
        assert_eq!(store.get(pool, OBJECT, 5, &mut into), Err(StoreError::Corrupt(Corrupt::Misplaced)));
        store.slab.free(locs[9]);
        let lost = (0..100).filter(|&n| store.get(pool, OBJECT, n, &mut into) != Ok(Loaded::Loaded)).count();
        assert_eq!(lost, 3);
    }
}
