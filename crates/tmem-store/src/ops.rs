// SPDX-License-Identifier: Apache-2.0
//! Owns: the contract between whoever evicts pages and whoever keeps them: outcomes, reasons, the backend verbs.
//! Callers: the frontswap hook. Implementers: `LocalBackend`, the test backends, `ProcessBackend`, the bindings' adapter of
//! Python objects.
//! Locks: none; the caller holds its own around each call. Laws 1 to 4 bind every implementer.

use crate::codec::Coded;
use crate::cold::ColdBatch;
use crate::pool::PageStore;
use crate::stats::StoreStats;
use std::fmt;
use tmem_sys::Page;

/// What became of a page offered for storage. A refusal is a normal answer, not a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    Stored,
    Refused(Reason),
}

impl Outcome {
    pub fn is_stored(self) -> bool {
        self == Outcome::Stored
    }

    /// As one number, for arrays of outcomes: 0 for stored, else the reason's place counted from 1.
    pub const fn code(self) -> u8 {
        match self {
            Outcome::Stored => 0,
            Outcome::Refused(reason) => reason as u8 + 1,
        }
    }

    /// What a code says; `None` for one that no outcome has.
    pub fn from_code(code: u8) -> Option<Outcome> {
        match code {
            0 => Some(Outcome::Stored),
            _ => Reason::ALL.get(code as usize - 1).map(|reason| Outcome::Refused(*reason)),
        }
    }
}

/// Why a page was refused. Each has a counter in the statistics of whoever refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The pool is frozen: it serves gets and flushes, and cannot grow.
    Frozen,
    /// The store is at its capacity.
    StoreFull,
    /// The page does not shrink below 7/8 and the pool keeps no raw pages.
    Incompressible,
    /// No room for another object or tree node.
    IndexFull,
    /// The area was never initialised, or was invalidated since.
    NoArea,
    /// The page number lies outside its area.
    OutOfRange,
    /// The swap device is at its cap, or its file system is full.
    SwapFull,
    /// The swap device failed to write.
    SwapError,
    /// Nobody was asked, or whoever was asked gives no reason.
    Unwilling,
    /// The guest is at its cap.
    OverCap,
    /// The backend raised an exception, or its process is gone.
    BackendFailed,
}

impl Reason {
    pub const COUNT: usize = 11;
    pub const ALL: [Reason; Reason::COUNT] = [
        Reason::Frozen,
        Reason::StoreFull,
        Reason::Incompressible,
        Reason::IndexFull,
        Reason::NoArea,
        Reason::OutOfRange,
        Reason::SwapFull,
        Reason::SwapError,
        Reason::Unwilling,
        Reason::OverCap,
        Reason::BackendFailed,
    ];

    /// The counter's name in statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Frozen => "frozen",
            Reason::StoreFull => "store_full",
            Reason::Incompressible => "incompressible",
            Reason::IndexFull => "index_full",
            Reason::NoArea => "no_area",
            Reason::OutOfRange => "out_of_range",
            Reason::SwapFull => "swap_full",
            Reason::SwapError => "swap_error",
            Reason::Unwilling => "unwilling",
            Reason::OverCap => "over_cap",
            Reason::BackendFailed => "backend_failed",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a page was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Loaded {
    Loaded,
    /// Not stored, refused, or invalidated since. The target is untouched.
    Absent,
}

/// The form of a stored page that was copied without unpacking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// One word, repeated.
    Same(u64),
    /// So many packed bytes, at the start of the target.
    Packed(usize),
    /// The page itself.
    Raw,
}

/// What is stored for a page that takes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blob<'a> {
    Packed(&'a [u8]),
    Page(&'a Page),
    Same(u64),
}

/// A page that could go down next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oldest<'a> {
    /// The page's place, for the question which comes after it.
    pub after: u32,
    pub area: u32,
    pub page: u64,
    pub blob: Blob<'a>,
}

/// What a load or a store will read of memory that is in no cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Soon {
    /// Where the index has the page, or will have it.
    Entry,
    /// What is stored for it. To find that, the entry is read.
    Bytes,
}

/// A page that was stored cannot be given back. The target is not to be used; the program must stop (law 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corrupt {
    /// The packed bytes do not decode to a page.
    Undecodable,
    /// The index points at memory that holds no such page.
    Misplaced,
    /// The checksum taken when the page left this process's memory does not match.
    Checksum,
    /// The backend that took the page does not give it back.
    NotGiven,
    /// The process that took the page is gone, or does not answer.
    ProcessGone,
    /// The process that took the page is that of the parent.
    NotInherited,
}

impl Corrupt {
    /// The text: static, because whoever reports it may be in a fault.
    pub const fn text(self) -> &'static str {
        match self {
            Corrupt::Undecodable => {
                "a stored page does not decode: its packed bytes were overwritten (law 12)"
            }
            Corrupt::Misplaced => {
                "a stored page is not where the index says: its metadata was overwritten (law 12)"
            }
            Corrupt::Checksum => "a stored page came back changed: its checksum does not match (law 12)",
            Corrupt::NotGiven => {
                "a stored page is lost: the backend that took it does not give it back (law 12)"
            }
            Corrupt::ProcessGone => {
                "a stored page is lost: the backend process that took it is gone or does not answer (law 12)"
            }
            Corrupt::NotInherited => {
                "a stored page cannot be reached: it is in the backend process of the parent, which a forked child \
                 does not have (law 15)"
            }
        }
    }
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Corrupt {}

/// The five verbs of the frontswap hook, and two questions about the whole.
///
/// An area is a range of pages with one owner, a handle is (area, page). The caller serialises its calls.
pub trait BackendOps: Send {
    /// Announces that pages `0..pages` of `area` may be stored from now on.
    ///
    /// Caller: once for an area before its first store, again after `invalidate_area`, again to let it grow.
    /// Implementer: forgets nothing that is stored.
    fn init(&mut self, area: u32, pages: u64);

    /// Offers a page.
    ///
    /// Caller: keeps the page whenever the answer is `Refused`; may reuse its memory after either answer.
    /// Implementer: copies synchronously (law 2); may refuse at any time and counts why (law 1); whatever it
    /// answers, data stored earlier under the handle is gone (law 3).
    fn store(&mut self, area: u32, page: u64, data: &Page) -> Outcome;

    /// Copies a stored page to `into`. The stored page stays.
    ///
    /// Caller: stops the program on an error.
    /// Implementer: gives exactly the bytes of the last successful store, or `Absent` and an untouched target.
    ///
    /// # Errors
    /// [`Corrupt`] when the page was stored and its bytes are lost.
    fn load(&mut self, area: u32, page: u64, into: &mut Page) -> Result<Loaded, Corrupt>;

    /// As `store`, with the form that a codec made of the page while the caller held no lock.
    ///
    /// Implementer: one that has no use for the form takes the page.
    fn store_coded(&mut self, area: u32, page: u64, data: &Page, coded: &Coded<'_>) -> Outcome {
        let _ = coded;
        self.store(area, page, data)
    }

    /// Copies what is stored for a page as it is, for the caller to unpack while it holds no lock. `None` where that cannot be
    /// done: the caller uses `load`.
    ///
    /// # Errors
    /// As `load`.
    fn copy_packed(&mut self, area: u32, page: u64, into: &mut Page) -> Result<Option<Copied>, Corrupt> {
        let _ = (area, page, into);
        Ok(None)
    }

    /// The page will be stored or loaded soon: asks for the memory that this will read. Changes nothing.
    fn expect(&self, _area: u32, _page: u64, _soon: Soon) {}

    /// The page that was stored longest ago, but for those up to the place `after` (0 for none), as it is stored. `None` where
    /// there is no other, or no order.
    ///
    /// Caller: stores nothing between two questions of one walk.
    fn oldest(&self, after: u32) -> Option<Oldest<'_>> {
        let _ = after;
        None
    }

    /// The page was found unchanged and is as young as one that is stored now.
    fn touch(&mut self, area: u32, page: u64) {
        let _ = (area, page);
    }

    /// Sets the clock by which stores are dated, in any unit.
    fn set_clock(&mut self, now: u32) {
        let _ = now;
    }

    /// Whether [`BackendOps::take_cold`] would find pages to look at.
    fn has_cold(&mut self, before: u32) -> bool {
        let _ = before;
        false
    }

    /// Copies out pages stored before `before` that were not looked at yet; the batch is empty for a backend that has no tighter
    /// forms. False when there are no more.
    fn take_cold(&mut self, before: u32, batch: &mut ColdBatch) -> bool {
        let _ = (before, batch);
        false
    }

    /// Copies out up to `most` stored pages of one step of a walk over all, which begins at step 0; the next step, 0 after the
    /// last.
    fn sample(&self, step: u32, most: usize, batch: &mut ColdBatch) -> u32 {
        let _ = (step, most, batch);
        0
    }

    /// Stores the `n`th page of a batch in a tighter form, if it is still the one that was copied out, or notes that it has none.
    /// True where bytes were saved.
    fn settle_cold(&mut self, batch: &ColdBatch, n: usize, tighter: Option<&[u8]>) -> bool {
        let _ = (batch, n, tighter);
        false
    }

    /// Whether a page is stored in a form for pages that stay cold.
    fn is_cold(&self, area: u32, page: u64) -> bool {
        let _ = (area, page);
        false
    }

    /// Makes whole pieces of memory of what is free in many, a bounded piece of work: where that is much, or `wholly`. Whether
    /// anything was done.
    fn tidy(&mut self, wholly: bool) -> bool {
        let _ = wholly;
        false
    }

    /// Forgets a page; nothing happens when it is not stored.
    ///
    /// Caller: whenever the stored copy is out of date. Implementer: a later `load` is `Absent` (law 4).
    fn invalidate_page(&mut self, area: u32, page: u64);

    /// Forgets every page of an area and refuses further stores until the next `init`.
    fn invalidate_area(&mut self, area: u32);

    /// Bytes of memory taken for everything, metadata included: this backend's part of the RAM budget.
    fn footprint(&self) -> usize;

    /// Sets how many bytes of memory may be taken for everything.
    ///
    /// Implementer: where that is less than is taken, refuses until invalidations have made up for it; drops nothing.
    fn set_capacity(&mut self, _bytes: usize) {}

    /// Whether pages are being refused unseen for want of room.
    fn is_full(&self) -> bool {
        false
    }

    /// Whether leased memory has room for a page in any form; where it has none, some is asked for.
    fn has_lease_room(&mut self) -> bool {
        false
    }

    /// The page store in it that may take memory on lease; `None` where there is none. Whoever asks may make room in it.
    fn leasing(&mut self) -> Option<&mut PageStore> {
        None
    }

    /// In a forked child. Whether the pages taken before can still be loaded here.
    fn after_fork_in_child(&mut self) -> bool {
        true
    }

    /// What a backend that is a page store holds; `None` for others.
    fn store_stats(&self) -> Option<StoreStats> {
        None
    }

    /// Walks everything and describes each broken law; empty when all is well. Allocates: not for the fault path.
    fn check(&self) -> Vec<String>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_listed_once_and_in_order() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            let outcome = Outcome::Refused(*reason);
            assert_eq!(Outcome::from_code(outcome.code()), Some(outcome));
        }
        let mut names = Reason::ALL.map(Reason::name);
        names.sort_unstable();
        assert!(names.windows(2).all(|w| w[0] != w[1]));
        assert_eq!(Outcome::from_code(Outcome::Stored.code()), Some(Outcome::Stored));
        assert_eq!(Outcome::from_code(Reason::COUNT as u8 + 1), None);
    }
}
