// SPDX-License-Identifier: Apache-2.0
//! Owns: the names and order of what is counted. The values live in a shared page (`tmem_sys::counters`), written
//! under the pager lock and read by anyone at any time. Adding a counter appends it: readers know them by place.

use std::sync::atomic::Ordering;
use tmem_store::Reason;
use tmem_sys::counters::Counters;

macro_rules! counters {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// One published number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Stat { $($variant),* }
        /// Names in the order of places, as users see them.
        pub const NAMES: &[&str] = &[$($name),*];
    };
}

counters! {
    Ram = "ram",
    Mapped = "mapped",
    Resident = "resident",
    Standby = "standby",
    FreeFrames = "free_frames",
    StoreBytes = "store_bytes",
    StorePages = "store_pages",
    StoreSame = "store_same",
    StorePacked = "store_packed",
    StoreData = "store_data",
    Metadata = "metadata",
    SwapUsed = "swap_used",
    SwapCap = "swap_cap",
    Pinned = "pinned",
    Faults = "faults",
    FaultNs = "fault_ns",
    ReadaheadPages = "readahead_pages",
    Loads = "loads",
    SuccStores = "succ_stores",
    FailedStores = "failed_stores",
    Invalidates = "invalidates",
    SwapLoads = "swap_loads",
    SwapStores = "swap_stores",
    StandbyHits = "standby_hits",
    CleanEvictions = "clean_evictions",
    Evictions = "evictions",
    Moves = "moves",
    MoveBusy = "move_busy",
    MoveRetries = "move_retries",
    Overshoot = "overshoot",
    OvershootEvents = "overshoot_events",
    Regions = "regions",
    Armed = "armed",
    Entry = "entry",
    Spurious = "spurious_faults",
    Unshared = "unshared",
    CopiesDropped = "copies_dropped",
    Forks = "forks",
    GuardCalls = "guard_calls",
    GuardHolds = "guard_holds",
    Idle = "idle",
    HandlerMoves = "handler_moves",
    HandlerUnpinned = "handler_unpinned",
    HandlerWakes = "handler_wakes",
    Copied = "copied",
    WrittenBack = "written_back",
    StoreCold = "store_cold",
    StoreSlots = "store_slots",
    StoreMapped = "store_mapped",
    Recoded = "recoded",
    Lent = "lent",
    SwapPages = "swap_pages",
    SwapFile = "swap_file",
    SwapWritten = "swap_written",
    SwapCleaned = "swap_cleaned",
    StoreShared = "store_shared",
    StoreSaved = "store_saved",
    DedupAll = "dedup_all",
    DedupHashed = "dedup_hashed",
    DedupFound = "dedup_found",
    DedupFailed = "dedup_failed",
    DedupNs = "dedup_ns",
    Leased = "leased",
    LeasedUsed = "leased_used",
    RefusedFirst = "refused_frozen",
}

/// Refusals by reason follow the named counters, one place for each reason.
pub fn refusal_place(reason: Reason) -> usize {
    Stat::RefusedFirst as usize + reason as usize
}

/// All names with their places, refusals included.
pub fn places() -> impl Iterator<Item = (String, usize)> {
    let plain = NAMES[..Stat::RefusedFirst as usize].iter().enumerate().map(|(i, n)| ((*n).to_owned(), i));
    plain.chain(Reason::ALL.iter().map(|r| (format!("refused_{}", r.name()), refusal_place(*r))))
}

/// Writes through to the shared page.
pub struct Stats(pub Counters);

impl Stats {
    #[inline]
    pub fn add(&self, stat: Stat, n: u64) {
        let cell = self.0.at(stat as usize);
        // One writer at a time, under the pager lock: no locked instruction is needed.
        cell.store(cell.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    #[inline]
    pub fn set(&self, stat: Stat, n: u64) {
        self.0.at(stat as usize).store(n, Ordering::Relaxed);
    }

    pub fn set_place(&self, place: usize, n: u64) {
        self.0.at(place).store(n, Ordering::Relaxed);
    }

    pub fn get(&self, stat: Stat) -> u64 {
        self.0.at(stat as usize).load(Ordering::Relaxed)
    }

    pub fn at(&self, place: usize) -> u64 {
        self.0.at(place).load(Ordering::Relaxed)
    }
}
