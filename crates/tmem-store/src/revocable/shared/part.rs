// SPDX-License-Identifier: Apache-2.0
//! Owns: what a member writes of a shared pool: its index, and the log of its pages' data. Callers: `pool`. Locks: the pool's.
//!
//! Other members read while this one writes, and this one may end at any moment. So an entry is written to a place that says nothing
//! that still counts, and what it replaces stays until then: half an entry is as good as none. Before a place that was used
//! is written over, the bucket's head counts a change, by which readers tell that they may have missed something; and where that
//! place did still count, the head's floor rises to it first, so that nothing older of any member comes to light instead (law 4).

use super::super::log::{Home, Log, Short, Spot, host_id};
use super::format::{
    ENTRIES, ENTRY, Entry, Head, Keys, MOST_MEMBERS, Slot, bucket_at, buckets_in, index_head,
};
use crate::lease::{Extent, Mailbox};
use crate::ops::Reason;
use std::sync::Arc;
use tmem_sys::{PAGE_SIZE, time};

/// A bucket, as it was read.
pub(super) type Bucket = [u8; PAGE_SIZE];

/// The bytes of the entry at a place.
pub(super) fn entry_at(bucket: &Bucket, place: usize) -> &[u8] {
    &bucket[(place + 1) * ENTRY..(place + 2) * ENTRY]
}

pub(super) struct Part {
    index: Option<Extent>,
    log: Log,
    data_mail: Arc<Mailbox>,
    index_mail: Arc<Mailbox>,
    max_bytes: usize,
    last_stamp: u64,
    /// The last thing that happened and is in no index: the next index begins above it.
    owed: u64,
    /// By how much this process's clock is ahead of the machine's.
    clock_ahead: i64,
    floor: u64,
}

/// Extents of data that are asked for at once.
const AHEAD: u32 = 2;

impl Part {
    pub fn new(data_mail: Arc<Mailbox>, index_mail: Arc<Mailbox>, max_bytes: usize) -> Part {
        Part {
            index: None,
            log: Log::new(),
            data_mail,
            index_mail,
            max_bytes,
            last_stamp: 0,
            owed: 0,
            clock_ahead: clock_ahead(),
            floor: 0,
        }
    }

    /// The machine's clock.
    pub fn now(&self) -> u64 {
        time::now_ns().wrapping_sub(self.clock_ahead as u64)
    }

    /// A moment that no other page of any member has.
    pub fn stamp(&mut self, member: usize) -> u64 {
        let step = MOST_MEMBERS as u64;
        self.last_stamp = (self.now() / step).max(self.last_stamp / step + 1) * step + member as u64;
        self.last_stamp
    }

    /// Something happened that could not be written down: what is older is gone by the floor of the next index.
    pub fn owe(&mut self, stamp: u64) {
        self.owed = self.owed.max(stamp);
    }

    /// Whether there is an index; takes one that came, and asks for one where there is none.
    pub fn has_index(&mut self, keys: &Keys) -> bool {
        while self.index.is_none() {
            let Some(extent) = self.index_mail.take(0) else {
                self.index_mail.want(1);
                return false;
            };
            let whole = extent.fd.size() == Ok(extent.bytes) && buckets_in(extent.bytes) > 0;
            if whole && extent.fd.write_at(0, &index_head(self.owed, keys)).is_ok() {
                (self.index, self.floor) = (Some(extent), self.owed);
                self.index_mail.want(0);
            } else {
                self.index_mail.refuse(extent);
            }
        }
        true
    }

    pub fn buckets(&self) -> usize {
        self.index.as_ref().map_or(0, |index| buckets_in(index.bytes))
    }

    /// The index's floor.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    pub fn read_bucket(&mut self, bucket: usize, into: &mut Bucket) -> bool {
        let read = self.index.as_ref().map(|index| index.fd.read_at(bucket_at(bucket), into));
        let whole = read == Some(Ok(PAGE_SIZE));
        if !whole {
            self.lose_index();
        }
        whole
    }

    fn lose_index(&mut self) {
        if self.index.take().is_some() {
            // Whatever it said is unknown from now on.
            let now = self.stamp(0);
            self.owe(now);
        }
    }

    /// Writes an entry, newer than all of its page. What is not younger than `floor` is gone anyway. Whether its page had one
    /// here; `None` where there is no index to write to.
    pub fn write(&mut self, entry: &Entry, floor: u64, keys: &Keys) -> Option<bool> {
        let buckets = self.buckets();
        let (bucket, mut bytes) = (keys.bucket(&entry.name, buckets.max(1)), [0; PAGE_SIZE]);
        if buckets == 0 || !self.read_bucket(bucket, &mut bytes) {
            return None;
        }
        let mut head = Head::decode(&bytes[..ENTRY], bucket, keys).unwrap_or_default();
        let floor = floor.max(head.floor);
        let chosen = choose(&bytes, entry, floor, keys);
        if chosen.was_used {
            head.changes += 1;
            head.floor = head.floor.max(chosen.raise);
            self.write_index(bucket_at(bucket), &head.encode(bucket, keys))?;
        }
        self.write_index(bucket_at(bucket) + (chosen.place + 1) * ENTRY, &entry.encode(keys))?;
        Some(chosen.had)
    }

    fn write_index(&mut self, at: usize, bytes: &[u8]) -> Option<()> {
        let done = self.index.as_ref().is_some_and(|index| index.fd.write_at(at, bytes).is_ok());
        if !done {
            self.lose_index();
        }
        done.then_some(())
    }

    /// Writes a record; where it is. `None` where a new extent may come soon, and `wait` says that a wait is worth it.
    pub fn append(&mut self, record: &[u8], wait: bool) -> Result<Option<(u64, u32)>, Reason> {
        loop {
            match self.log.append(record, 0) {
                Ok(Spot { home, at }) => {
                    self.log.count(home, record.len());
                    if self.log.is_low() {
                        self.ask_ahead();
                    }
                    let id = self.log.extent(home).map_or(0, |extent| host_id(extent.id));
                    return Ok(Some((id, at)));
                }
                Err(Short::Gone(home)) => self.cut_off(home),
                Err(Short::Full) if self.begin_next(wait)? => {}
                Err(Short::Full) => return Ok(None),
            }
        }
    }

    fn begin_next(&mut self, wait: bool) -> Result<bool, Reason> {
        if let Some(home) = self.log.spare() {
            self.log.begin(home);
            return Ok(true);
        }
        if self.may_grow() {
            if let Some(extent) = self.data_mail.take(0) {
                self.adopt(extent);
                return Ok(true);
            }
            self.data_mail.want(AHEAD);
            if wait {
                return Ok(false);
            }
        }
        // Entries that point there find other records, which are not their pages'.
        let oldest = self.log.oldest().ok_or(Reason::StoreFull)?;
        self.log.forget(oldest);
        self.log.begin(oldest);
        Ok(true)
    }

    /// Asks for extents before they are needed, unless some are there.
    fn ask_ahead(&self) {
        if self.data_mail.waiting() == 0 {
            self.data_mail.want(if self.may_grow() { AHEAD } else { 0 });
        }
    }

    fn may_grow(&self) -> bool {
        self.log.leased() < self.max_bytes
    }

    pub fn adopt(&mut self, extent: Extent) {
        if extent.fd.size() != Ok(extent.bytes) {
            return self.data_mail.refuse(extent);
        }
        if let Err(extent) = self.log.adopt(extent) {
            self.data_mail.refuse(extent);
        }
    }

    fn cut_off(&mut self, home: Home) {
        self.log.forget(home);
        drop(self.log.remove(home));
    }

    pub fn read(&self, id: u64, at: u32, into: &mut [u8]) -> bool {
        self.log.find_host(id).is_some_and(|home| self.log.read(Spot { home, at }, into))
    }

    /// The host cut extents off.
    pub fn revoked(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(home) = self.log.find_host(host_id(*id)) {
                self.cut_off(home);
            }
            if self.index.as_ref().is_some_and(|index| host_id(index.id) == host_id(*id)) {
                self.lose_index();
            }
        }
    }

    /// Lets go of extents that were never written.
    pub fn give(&mut self, bytes: usize, give: &mut dyn FnMut(u64)) {
        let mut given = 0;
        while given < bytes
            && let Some(extent) = self.log.spare().and_then(|home| self.log.remove(home))
        {
            given += extent.bytes;
            let id = extent.id;
            drop(extent);
            give(id);
        }
    }

    pub fn spare_bytes(&self) -> usize {
        self.log.spare_bytes()
    }

    pub fn each_data(&self, each: &mut dyn FnMut(&Extent)) {
        self.log.each(each);
    }

    pub fn index(&self) -> Option<&Extent> {
        self.index.as_ref()
    }

    pub fn renumber(&mut self, old: u64, new: u64) {
        self.log.renumber(old, new);
        if let Some(index) = self.index.as_mut().filter(|index| index.id == old) {
            index.id = new;
        }
    }

    /// Lets go of everything: the pool is another from now on.
    pub fn clear(&mut self) {
        self.log.clear();
        (self.index, self.owed, self.floor) = (None, 0, 0);
    }

    pub fn leased(&self) -> usize {
        self.log.leased() + self.index.as_ref().map_or(0, |index| index.bytes)
    }

    pub fn extents(&self) -> usize {
        self.log.held() + usize::from(self.index.is_some())
    }

    pub fn data_bytes(&self) -> usize {
        self.log.bytes()
    }

    pub fn footprint(&self) -> usize {
        self.log.footprint()
    }
}

/// Where to write an entry.
struct Chosen {
    place: usize,
    was_used: bool,
    /// What was there still counted: nothing up to this moment does any more.
    raise: u64,
    /// The page has an entry in the bucket already.
    had: bool,
}

/// A free place, or one whose entry is gone or has a younger one of the same page beside it, or that of the oldest.
fn choose(bytes: &Bucket, entry: &Entry, floor: u64, keys: &Keys) -> Chosen {
    let slots: [Slot; ENTRIES] = std::array::from_fn(|place| Entry::decode(entry_at(bytes, place), keys));
    let is_past = |slot: &Slot| match slot {
        Slot::Entry(one) => {
            let newer =
                |other: &Slot| matches!(other, Slot::Entry(o) if o.name == one.name && o.stamp > one.stamp);
            one.stamp <= floor || slots.iter().any(newer)
        }
        Slot::Torn => true,
        Slot::Free => false,
    };
    let had = slots
        .iter()
        .any(|slot| matches!(slot, Slot::Entry(one) if one.name == entry.name && one.stamp > floor));
    if let Some(place) = slots.iter().position(|slot| *slot == Slot::Free) {
        return Chosen { place, was_used: false, raise: 0, had };
    }
    if let Some(place) = slots.iter().position(is_past) {
        return Chosen { place, was_used: true, raise: 0, had };
    }
    // The page's own is not written over: half of the new one would leave neither.
    let age = |slot: &Slot| match slot {
        Slot::Entry(one) if one.name != entry.name => one.stamp,
        _ => u64::MAX,
    };
    let (place, raise) =
        slots.iter().map(age).enumerate().min_by_key(|(_, stamp)| *stamp).unwrap_or_default();
    Chosen { place, was_used: true, raise, had }
}

/// Nanoseconds by which the clock of this process's time namespace is ahead: stamps are the machine's.
fn clock_ahead() -> i64 {
    let text = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    let monotonic = text.lines().find_map(|line| line.strip_prefix("monotonic"));
    let mut numbers = monotonic.unwrap_or_default().split_whitespace().filter_map(|n| n.parse::<i64>().ok());
    let (seconds, ns) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(ns)
}
