// SPDX-License-Identifier: Apache-2.0
//! Owns: a pager as the guest of a host: what it holds on lease, what it gives back, and what it tells of itself. Callers: the
//! thread of the guest's connection, by way of [`Holder`]. Locks: the pager's, for one bounded step at a time; what is told to
//! the caller is told without it.
//! Law 13: leased memory is the host's and counts in no budget; what a page takes that leaves it does. Law 5: an extent goes
//! back only when it is empty.

use crate::background::clock;
use crate::error::PagerError;
use crate::pager::{MIN_RAM, Pager};
use crate::state::State;
use crate::stats::Stat;
use std::sync::Arc;
use tmem_store::lease::Kind;
use tmem_store::{Extent, Holder, Mailbox, Reason, Report, Vacated, Vacating};
use tmem_sys::random::random_bytes;

/// Pages moved in one hold of the lock.
const STEP: usize = 32;
/// Extents told of in one hold of the lock.
const TOLD: usize = 64;
/// Stored pages looked at for a report, and when one is active: ticks of the clock, half a minute.
const SAMPLED: usize = 100;
const ACTIVE_TICKS: u32 = 120;
/// Steps in which extents that the host forgot are emptied, between two looks at what could be given.
const LOST_STEPS: usize = 64;

/// What one step of giving came to.
enum Given {
    More,
    Extent(Extent),
    /// No other can be emptied.
    None,
}

impl Pager {
    /// Has the page store ask for leased memory in this mailbox, and take from there what comes; `None` ends it. False where no
    /// backend was made for it ([`Backend::Leasing`](crate::Backend::Leasing)).
    ///
    /// # Errors
    /// `Closed`.
    pub fn set_mailbox(&self, mailbox: Option<Arc<Mailbox>>) -> Result<bool, PagerError> {
        self.with(|s| {
            let has_device = s.swap.exists();
            s.frontswap.leasing().is_some_and(|store| {
                store.set_patience(has_device);
                store.set_mailbox(mailbox)
            })
        })
    }

    /// Empties extents that the host forgot, as far as there is room elsewhere.
    fn go_on_losing(&self) {
        for _ in 0..LOST_STEPS {
            let more = self.with(|s| {
                let Some(store) = s.frontswap.leasing() else { return false };
                let Some(mut lost) = store.go_on_losing() else { return false };
                matches!(store.vacate(&mut lost, STEP), Vacated::More | Vacated::Done(_))
            });
            if !more.unwrap_or(false) {
                return;
            }
        }
    }
}

impl Holder for Pager {
    fn held(&self, each: &mut dyn FnMut(u64, i32, Kind)) {
        let mut told = 0;
        loop {
            let mut some = [(0, 0); TOLD];
            let count = self.with(|s| {
                let Some(store) = s.frontswap.leasing() else { return 0 };
                let places = some.iter_mut().zip(store.extents_from(told));
                places.map(|(place, extent)| *place = extent).count()
            });
            let count = count.unwrap_or(0);
            some[..count].iter().for_each(|(id, fd)| each(*id, *fd, Kind::Persistent));
            told += count;
            if count < TOLD {
                return;
            }
        }
    }

    fn renumber(&self, old: u64, new: u64) {
        let _ = self.with(|s| s.frontswap.leasing().is_some_and(|store| store.renumber_extent(old, new)));
    }

    fn lose(&self, id: u64) {
        let _ = self.with(|s| s.frontswap.leasing().and_then(|store| store.begin_losing(id)));
        self.go_on_losing();
    }

    fn give(&self, bytes: usize, give: &mut dyn FnMut(u64)) {
        let (mut given, mut vacating) = (0, None);
        while given < bytes {
            match self.with(|s| s.give_step(&mut vacating)) {
                Ok(Given::More) => {}
                Ok(Given::Extent(extent)) => {
                    given += extent.bytes;
                    give(extent.id);
                    drop(extent);
                    // What moved to private chunks takes its room from the frames.
                    let _ = self.make_room();
                }
                Ok(Given::None) | Err(_) => return,
            }
        }
        let _ = self.with(|s| s.end_giving(&mut vacating));
    }

    fn surplus(&self) -> usize {
        self.go_on_losing();
        self.with(|s| s.frontswap.leasing().map_or(0, |store| store.surplus_bytes())).unwrap_or(0)
    }

    fn revoked(&self, ids: &[u64]) {
        for id in ids {
            let _ = self.with(|s| s.frontswap.leasing().map(|store| store.cut_off(*id)));
        }
    }

    fn set(&self, frozen: bool, compress: bool) {
        let _ = self.with(|s| s.frontswap.leasing().map(|store| store.set_manner(frozen, compress)));
    }

    fn balloon(&self, ram: usize) -> usize {
        let target = if ram == 0 { None } else { Some(ram.max(MIN_RAM)) };
        let Ok(now) = self.with(|s| s.set_balloon(target)) else { return 0 };
        self.slot().set_ram(now);
        // Plain memory does not shrink: it is paged from here on, where that can be.
        let shrunk = if self.outgrown() { self.arm_now() } else { self.make_room() };
        match shrunk.and_then(|()| self.usage()) {
            Ok(used) => now.max(used),
            Err(_) => self.usage().map_or(now, |used| now.max(used)),
        }
    }

    fn report(&self) -> Report {
        self.with(State::report).unwrap_or_default()
    }
}

impl State {
    /// One step of emptying extents. What finds no other place has its turn on the swap device, oldest first.
    fn give_step(&mut self, vacating: &mut Option<Vacating>) -> Given {
        if vacating.is_none() {
            self.writing_rests = 0;
            self.share_out();
        }
        let Some(store) = self.frontswap.leasing() else { return Given::None };
        let Some(now) = vacating.as_mut() else {
            *vacating = store.begin_vacating();
            return if vacating.is_some() { Given::More } else { Given::None };
        };
        match store.vacate(now, STEP) {
            Vacated::More => Given::More,
            Vacated::Done(extent) => {
                *vacating = None;
                Given::Extent(extent)
            }
            Vacated::Stuck if self.frontswap.tidy(true) || self.write_back() > 0 => Given::More,
            Vacated::Stuck | Vacated::Kept => {
                self.end_giving(vacating);
                Given::None
            }
        }
    }

    /// What was not emptied is filled again.
    fn end_giving(&mut self, vacating: &mut Option<Vacating>) {
        if let (Some(store), Some(vacating)) = (self.frontswap.leasing(), vacating.take()) {
            store.end_vacating(vacating);
        }
    }

    fn report(&mut self) -> Report {
        self.publish();
        let now = clock();
        self.frontswap.set_clock(now);
        let (mut random, mut wanted, mut sampled, mut active) = (Random::new(), 0, 0, 0);
        if let Some(store) = self.frontswap.leasing() {
            wanted = store.mailbox().map_or(0, |m| m.wanted() as usize * store.extent_bytes());
            (sampled, active) =
                store.sample_active(SAMPLED, now.saturating_sub(ACTIVE_TICKS), &mut || random.next());
        }
        let get = |stat| self.stats.get(stat);
        let resident = if self.is_armed() { get(Stat::Resident) } else { self.usage() as u64 };
        Report {
            ram: get(Stat::Ram),
            resident,
            standby: get(Stat::Standby),
            store_bytes: get(Stat::StoreBytes),
            leased_used: get(Stat::LeasedUsed),
            stored_pages: get(Stat::StorePages),
            swap_bytes: get(Stat::SwapUsed),
            faults: get(Stat::Faults),
            fault_ns: get(Stat::FaultNs),
            loads: get(Stat::Loads),
            stores: get(Stat::SuccStores),
            refused_full: self.frontswap.refused.get(Reason::StoreFull),
            want_bytes: wanted as u64,
            sampled: sampled as u64,
            active: active as u64,
        }
    }
}

/// Numbers that need not be secret.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let mut seed = [0; 8];
        // Without the kernel's the sample is the same each time, and a sample still.
        let _ = random_bytes(&mut seed);
        Random(u64::from_ne_bytes(seed) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}
