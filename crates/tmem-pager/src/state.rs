// SPDX-License-Identifier: Apache-2.0
//! Owns: everything the pager lock guards for one `Memory`: frames, page states, slots, frontswap, swap device,
//! and the budget's sum. Callers: `fault`, `evict`, `verbs`, `arm`, `fork`, each with a part of the methods.
//! Law 13: `allowance` is what the budget leaves for frames after everything else that is counted.

use crate::error::PagerError;
use crate::huge::Huge;
use crate::lodgers::Lodgers;
use crate::notices::Notices;
use crate::page::{PageState, States};
use crate::readahead::{ReadAhead, Window};
use crate::recent::Recent;
use crate::several::Several;
use crate::slots::{GROUP, Slots};
use crate::stats::{Stat, Stats, refusal_place};
use crate::swapout::SwapOut;
use crate::transit::Refused;
use std::ops::Range;
use std::sync::Arc;
use tmem_store::{Dictionaries, Frontswap, Reason};
use tmem_sys::entry::Entry;
use tmem_sys::frames::{Access, Frames};
use tmem_sys::hash::PageHash;
use tmem_sys::{PAGE_SIZE, Page, Table, pod};

/// The page's contents equal what frontswap or the swap device still holds, unless its hash says otherwise.
pub const COPY: u8 = 1;
/// With COPY: it is frontswap that holds it, where dropping it makes room.
pub const PACKED: u8 = 4;
/// The hash is that of what is stored, and need not be taken again.
pub const HASHED: u8 = 8;
/// A thread works on the page without the pager's lock.
pub const BUSY: u8 = 16;
/// On standby, refused by the store, and noted for the swap device. It ends with the page's stay there.
pub const REFUSED: u8 = 32;
/// Pinned once by the program's `mlock`.
pub const LOCKED: u8 = 64;
/// Skipped once by the hand: it came back from standby, or could not be moved.
pub const SECOND_CHANCE: u8 = 2;

/// Frames and tables that every pager needs whatever its budget: stacks, streams, code, slot tables.
pub const FIXED_OVERHEAD: usize = 2 << 20;
/// Bytes of table for every page of a block of the arena that pages were in use of: its state, what is known of it,
/// its swap slot, whether it is spared or present.
pub const META_BYTES: usize = size_of::<Meta>() + 8;
/// Pages one eviction batch takes out or packs.
pub const BATCH: usize = 64;

pod! {
    /// What is known of one page beside its state.
    pub struct Meta {
        /// Keyed hash of the contents that are stored; valid with HASHED.
        pub hash: [u64; 2],
        /// Staging slot; valid in the standby state.
        pub slot: u32,
        /// Pins by the program.
        pub pins: u16,
        /// Holds by system calls under way.
        pub holds: u16,
        pub flags: u8,
        /// The program's advice, a `Pattern`.
        pub pattern: u8,
        pub spare: u16,
    }
}

/// What a pager is made with.
pub struct Setup {
    pub ram: usize,
    pub arena_pages: usize,
    pub access: Access,
    pub slots: usize,
    pub frontswap: Frontswap,
    pub swap: SwapOut,
    pub stats: Stats,
    pub dictionaries: Arc<Dictionaries>,
}

/// Windows whose pages keep their packed copies while they are in RAM: those that streams are at. A copy takes memory that
/// could keep another page in RAM, and saves one packing; that pays where the page is to leave again soon. Tried: keeping all
/// copies where a page takes a quarter of its size at most. A sort that only reads took 8 % less time, with 15 % more faults.
#[derive(Default)]
pub struct Kept {
    windows: [Window; Kept::MOST],
    next: usize,
}

impl Kept {
    const MOST: usize = 8;

    /// Notes a window; the one whose copies are to be dropped for it.
    pub fn push(&mut self, window: Window) -> Window {
        let at = self.next % Kept::MOST;
        self.next = at + 1;
        std::mem::replace(&mut self.windows[at], window)
    }
}

pub struct State {
    pub frames: Frames,
    pub states: States,
    pub meta: Table<Meta>,
    pub slots: Slots,
    pub recent: Recent,
    pub huge: Huge,
    pub ahead: ReadAhead,
    pub frontswap: Frontswap,
    pub swap: SwapOut,
    pub lodgers: Lodgers,
    pub stats: Stats,
    pub notices: Notices,
    /// Windows brought in last whose packed copies are kept.
    pub kept: Kept,
    /// Where pages are put together when no free frame is at hand: `UFFDIO_COPY` takes them from here.
    pub scratch: Table<Page>,
    /// Never written, so that it takes no memory: what fresh pages are copied from.
    pub zeros: Table<Page>,
    pub secret: Arc<PageHash>,
    /// Of the first store there is, and of the workers.
    pub dictionaries: Arc<Dictionaries>,
    /// The budget in force: the pager's own, or the one that a host has it keep.
    pub ram: usize,
    pub own_ram: usize,
    pub balloon: Option<usize>,
    /// In a forked child, as long as what its parent had on lease takes memory of its own.
    pub is_heir: bool,
    /// Every page in use is below.
    pub top: usize,
    /// The highest `top` there ever was: a huge page may have left frames up to there.
    pub reach: usize,
    /// Where the search for victims goes on.
    pub hand: usize,
    /// Where the search for droppable copies goes on.
    pub copy_hand: usize,
    /// Resident and standby pages whose packed copy is kept.
    pub packed_copies: usize,
    pub pinned: usize,
    /// Pages that the program has locked in memory.
    pub locked: usize,
    pub held: usize,
    /// Faults to let pass before reclaim is tried again after it found nothing.
    pub backoff: u32,
    pub overshot: bool,
    /// Times to let pass before old pages are offered to the swap device again after it took none.
    pub writing_rests: u32,
    /// Pages that threads work on without the lock.
    pub in_flight: usize,
    /// Of these, pages for which new frames are being made.
    pub new_frames: usize,
    pub refused: Refused,
    pub several: Several,
    pub entry: Option<Entry>,
    pub guarded: bool,
}

impl State {
    /// # Errors
    /// `ENOMEM` when the address space cannot hold the tables.
    pub fn new(setup: Setup) -> Result<State, PagerError> {
        let pages = setup.arena_pages;
        let frames = Frames::new(pages, setup.slots, setup.access)?;
        let slots = Slots::new(frames.slots())?;
        Ok(State {
            states: States::new(pages)?,
            meta: Table::new(pages)?,
            slots,
            recent: Recent::new(pages)?,
            huge: Huge::new(pages)?,
            ahead: ReadAhead::default(),
            frontswap: setup.frontswap,
            swap: setup.swap,
            lodgers: Lodgers::default(),
            stats: setup.stats,
            notices: Notices::default(),
            kept: Kept::default(),
            scratch: Table::new(GROUP)?,
            zeros: Table::new(GROUP)?,
            secret: Arc::new(PageHash::new()?),
            dictionaries: setup.dictionaries,
            ram: setup.ram,
            own_ram: setup.ram,
            balloon: None,
            is_heir: false,
            top: 0,
            reach: 0,
            hand: 0,
            copy_hand: 0,
            packed_copies: 0,
            pinned: 0,
            locked: 0,
            held: 0,
            backoff: 0,
            overshot: false,
            writing_rests: 0,
            in_flight: 0,
            new_frames: 0,
            refused: Refused::default(),
            several: Several::default(),
            entry: None,
            guarded: false,
            frames,
        })
    }

    pub fn page_of(&self, addr: usize) -> Option<usize> {
        let page = addr.checked_sub(self.frames.arena_addr())? / PAGE_SIZE;
        (page < self.frames.arena_pages()).then_some(page)
    }

    pub fn is_armed(&self) -> bool {
        self.entry.is_some()
    }

    pub fn metadata_bytes(&self) -> usize {
        self.huge.tabled() * META_BYTES
    }

    /// Bytes that the kernel may have given to pages it was let have: it does not say how many it has.
    #[inline]
    pub fn foreign_bytes(&self) -> usize {
        self.states.count(PageState::LetGo) * PAGE_SIZE
    }

    /// Bytes of the budget that are not frames.
    pub fn overhead(&self) -> usize {
        let lent = self.lodgers.bytes() + self.foreign_bytes();
        FIXED_OVERHEAD + self.metadata_bytes() + self.frontswap.footprint() + self.swap.memory_bytes() + lent
    }

    /// Frames the budget leaves room for.
    pub fn allowance(&self) -> usize {
        self.ram.saturating_sub(self.overhead()) / PAGE_SIZE
    }

    /// Shares the budget between frames and store: the store gets what tables leave of seven tenths, and never what frames
    /// need so that the pages in use at one time find room.
    pub fn share_out(&mut self) {
        self.frontswap.set_capacity(self.store_share());
    }

    /// What the store may take.
    pub fn store_share(&self) -> usize {
        let lent = self.lodgers.bytes() + self.foreign_bytes();
        let others = FIXED_OVERHEAD + self.metadata_bytes() + self.swap.memory_bytes() + lent;
        (self.ram - self.ram / 10 * 3).saturating_sub(others)
    }

    /// Whether tables for a range too leave at least a quarter of the budget.
    pub fn tables_fit(&self, range: &Range<usize>) -> bool {
        FIXED_OVERHEAD + self.huge.tabled_with(range) * META_BYTES <= self.ram / 4 * 3
    }

    /// Frames there are: in the arena, on standby, free, lent, being made.
    pub fn frame_count(&self) -> usize {
        self.states.count(PageState::Resident) + self.slots.frame_count() + self.new_frames
    }

    /// Frames that pins and holds may take at most: the rest must be able to circulate.
    pub fn pin_limit(&self) -> usize {
        self.allowance().saturating_sub((self.ram / PAGE_SIZE / 8).max(4 * BATCH))
    }

    /// Frames kept on standby: long enough for a second chance, short enough not to shrink the resident set. In a simulation of
    /// Zipf 0.99, a fiftieth to a twentieth of the frames miss within a tenth of as often as an exact order of age; more gains
    /// nothing, and costs uniform accesses.
    pub fn standby_target(&self) -> usize {
        (self.allowance() / 32).clamp(BATCH, self.slots.capacity() / 4)
    }

    /// Notes that the page, now with a frame, equals its stored copy.
    pub fn mark_copy(&mut self, page: usize) {
        let packed = self.frontswap.is_present(page);
        self.packed_copies += usize::from(packed);
        self.meta[page].flags |= if packed { COPY | PACKED } else { COPY };
    }

    /// The page has no stored copy, or no frame, any more.
    pub fn unmark_copy(&mut self, page: usize) {
        self.packed_copies -= usize::from(self.meta[page].flags & PACKED != 0);
        self.meta[page].flags &= !(COPY | PACKED);
    }

    /// Drops the packed copies of a window's pages that are in RAM.
    pub fn forget_window(&mut self, window: Window) {
        let top = self.top;
        for page in window.runs().flatten().filter(|&page| page < top) {
            if self.meta[page].flags & PACKED != 0 && self.states.is(page, PageState::Resident) {
                self.forget_copies(page);
            }
        }
    }

    /// The page's stored copy is of no use any more.
    pub fn forget_copies(&mut self, page: usize) {
        self.unmark_copy(page);
        self.frontswap.invalidate_page(page);
        self.swap.forget(page);
    }

    /// Brings the published numbers that are not counted as they happen up to date.
    pub fn publish(&mut self) {
        let pages = |n: usize| (n * PAGE_SIZE) as u64;
        let s = &self.stats;
        s.set(Stat::Ram, self.ram as u64);
        s.set(Stat::Resident, pages(self.states.count(PageState::Resident)));
        s.set(Stat::Standby, pages(self.slots.standby_count()));
        s.set(Stat::FreeFrames, pages(self.slots.free_count()));
        s.set(Stat::Mapped, pages(self.frames.arena_pages() - self.states.count(PageState::Free)));
        s.set(Stat::Metadata, (FIXED_OVERHEAD + self.metadata_bytes() + self.swap.memory_bytes()) as u64);
        s.set(Stat::Lent, self.lodgers.bytes() as u64);
        s.set(Stat::Pinned, pages(self.pinned));
        s.set(Stat::StoreBytes, self.frontswap.footprint() as u64);
        s.set(Stat::StorePages, self.frontswap.present_count() as u64);
        if let Some(store) = self.frontswap.store_stats() {
            s.set(Stat::StoreSame, store.held.same_pages);
            s.set(Stat::StorePacked, store.held.packed_pages);
            s.set(Stat::StoreData, store.held.data_bytes);
            s.set(Stat::StoreCold, store.held.cold_pages);
            s.set(Stat::StoreSlots, store.slot_bytes);
            s.set(Stat::StoreMapped, store.mapped_bytes);
            s.set(Stat::StoreShared, store.held.shared_pages);
            s.set(Stat::StoreSaved, store.dedup.saved_bytes);
            s.set(Stat::DedupAll, store.dedup.pools_all);
            s.set(Stat::DedupHashed, store.dedup.hashed);
            s.set(Stat::DedupFound, store.dedup.found);
            s.set(Stat::DedupFailed, store.dedup.failed);
            s.set(Stat::DedupNs, store.dedup.ns);
            s.set(Stat::Leased, store.leased_bytes);
            s.set(Stat::LeasedUsed, store.leased_used);
        }
        let swap = self.swap.stats();
        s.set(Stat::SwapUsed, swap.used_bytes);
        s.set(Stat::SwapPages, swap.used);
        s.set(Stat::SwapFile, swap.file_bytes);
        s.set(Stat::SwapCap, swap.cap * PAGE_SIZE as u64);
        s.set(Stat::SwapLoads, swap.read);
        s.set(Stat::SwapWritten, swap.device_bytes);
        s.set(Stat::SwapCleaned, swap.cleaned);
        let c = self.frontswap.counters;
        s.set(Stat::Loads, c.loads);
        s.set(Stat::SuccStores, c.succ_stores);
        s.set(Stat::FailedStores, c.failed_stores);
        s.set(Stat::Invalidates, c.invalidates);
        s.set(Stat::Overshoot, pages(self.frame_count().saturating_sub(self.allowance())));
        s.set(Stat::Armed, u64::from(self.is_armed()));
        s.set(Stat::Entry, self.entry.map_or(0, |e| e as u64 + 1));
        let handler = tmem_sys::handler::counts();
        s.set(Stat::HandlerMoves, handler.moves);
        s.set(Stat::HandlerUnpinned, handler.unpinned);
        s.set(Stat::HandlerWakes, handler.wakes);
        s.set(Stat::Copied, tmem_sys::uffd::copied());
        let guard = tmem_sys::guard::counters();
        s.set(Stat::GuardCalls, guard.calls);
        s.set(Stat::GuardHolds, guard.holds);
        for reason in Reason::ALL {
            s.set_place(
                refusal_place(reason),
                self.frontswap.refused.get(reason) + self.swap.refused(reason),
            );
        }
    }
}
