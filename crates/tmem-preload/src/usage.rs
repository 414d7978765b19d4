// SPDX-License-Identifier: Apache-2.0
//! Owns: one reading of what this process's pager has done, for the ledger and the report. Callers: those two.

use crate::door::Door;
use core::sync::atomic::{AtomicU64, Ordering};
use tmem_pager::stats::Stat;

/// Sizes in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Managed memory that was written, wherever it is.
    pub managed: u64,
    pub swap_used: u64,
    /// Memory on lease, beside the budget.
    pub leased: u64,
    pub faults: u64,
    pub evictions: u64,
    pub fault_ns: u64,
    /// Pages in the store, and what they take there.
    pub packed: u64,
    pub packed_into: u64,
}

/// What a forked child's pager counted before it was one.
static BEFORE: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
const COUNTS: [Stat; 3] = [Stat::Faults, Stat::Evictions, Stat::FaultNs];

/// In a forked child: what its parent did is not its own.
pub fn forked(door: &Door) {
    let counts = door.pager.stats(|stats| COUNTS.map(|stat| stats.get(stat))).unwrap_or_default();
    BEFORE.iter().zip(counts).for_each(|(before, count)| before.store(count, Ordering::Relaxed));
}

/// `others`: anonymous memory of the process that is not the pager's.
pub fn now(door: &Door, others: usize) -> Now {
    let page = tmem_sys::PAGE_SIZE as u64;
    let own = |s: &tmem_pager::stats::Stats, i: usize| {
        s.get(COUNTS[i]).saturating_sub(BEFORE[i].load(Ordering::Relaxed))
    };
    let read = |s: &tmem_pager::stats::Stats| Now {
        managed: 0,
        swap_used: s.get(Stat::SwapUsed),
        leased: s.get(Stat::Leased),
        faults: own(s, 0),
        evictions: own(s, 1),
        fault_ns: own(s, 2),
        packed: s.get(Stat::StorePages) * page,
        packed_into: s.get(Stat::StoreBytes) + s.get(Stat::LeasedUsed),
    };
    let mut now = door.pager.stats(read).unwrap_or_default();
    // While memory is plain the kernel knows best what of it was written.
    now.managed = if door.pager.is_paging() {
        door.pager.touched() as u64
    } else {
        crate::rlimit::anonymous_bytes().saturating_sub(others).min(door.pager.committed()) as u64
    };
    now
}
