// SPDX-License-Identifier: Apache-2.0
//! Owns: where the pages of each area lie in a table with a place for every page. Callers: the backends that keep such a
//! table (plain copies, the process backend). Locks: the caller's.

use crate::ops::Reason;

/// The most areas that a table is divided among.
pub const MAX_TABLE_AREAS: usize = 64;

#[derive(Clone, Copy, Default)]
struct Extent {
    first: usize,
    /// Places kept for the area, also while it is not live: nobody else has them.
    room: usize,
    /// Pages that may be stored; 0 while the area is not live.
    pages: u64,
}

/// A table of `room` places, divided among areas as they come.
pub struct Areas {
    extents: [Extent; MAX_TABLE_AREAS],
    reserved: usize,
    room: usize,
}

impl Areas {
    pub fn new(room: usize) -> Areas {
        Areas { extents: [Extent::default(); MAX_TABLE_AREAS], reserved: 0, room }
    }

    /// Makes an area live. One that has no room is not taken; one that grew past its room keeps the size it had.
    pub fn init(&mut self, area: u32, pages: u64) {
        let Some(extent) = self.extents.get_mut(area as usize) else { return };
        let wanted = usize::try_from(pages).unwrap_or(usize::MAX);
        if extent.room == 0 && self.room - self.reserved >= wanted {
            *extent = Extent { first: self.reserved, room: wanted, pages };
            self.reserved += wanted;
        } else if wanted <= extent.room {
            extent.pages = pages;
        } else if extent.pages == 0 {
            extent.pages = extent.room as u64;
        }
    }

    /// The place to store a page at.
    ///
    /// # Errors
    /// `NoArea`, `OutOfRange`.
    pub fn slot(&self, area: u32, page: u64) -> Result<usize, Reason> {
        let extent = self.extents.get(area as usize).filter(|e| e.pages > 0).ok_or(Reason::NoArea)?;
        if page < extent.pages { Ok(extent.first + page as usize) } else { Err(Reason::OutOfRange) }
    }

    /// The place where a page may have been stored, whatever the area's size is now.
    pub fn find(&self, area: u32, page: u64) -> Option<usize> {
        let extent = self.extents.get(area as usize)?;
        (page < extent.room as u64).then(|| extent.first + page as usize)
    }

    /// Ends an area; the places that were its own.
    pub fn end(&mut self, area: u32) -> std::ops::Range<usize> {
        match self.extents.get_mut(area as usize) {
            Some(extent) => {
                extent.pages = 0;
                extent.first..extent.first + extent.room
            }
            None => 0..0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_keeps_its_places_over_its_ends() {
        let mut areas = Areas::new(20);
        areas.init(1, 8);
        areas.init(2, 13);
        assert_eq!(areas.slot(2, 0), Err(Reason::NoArea), "no room for it");
        assert_eq!(areas.slot(1, 7), Ok(7));
        assert_eq!(areas.slot(1, 8), Err(Reason::OutOfRange));
        areas.init(1, 4);
        assert_eq!((areas.slot(1, 7), areas.find(1, 7)), (Err(Reason::OutOfRange), Some(7)));
        assert_eq!(areas.end(1), 0..8);
        assert_eq!(areas.slot(1, 0), Err(Reason::NoArea));
        areas.init(1, 9);
        assert_eq!((areas.slot(1, 7), areas.slot(1, 8)), (Ok(7), Err(Reason::OutOfRange)));
        areas.init(3, 12);
        assert_eq!(areas.slot(3, 0), Ok(8));
        assert_eq!((areas.find(99, 0), areas.end(99)), (None, 0..0));
    }
}
