// SPDX-License-Identifier: Apache-2.0
//! Owns: extents, written from their beginning to their end one after the other, and how much of each is in use. Callers: `store`,
//! and a member of a shared pool for its own part. Locks: the caller's. Law 19: whatever an extent answers but the whole bytes
//! means that it is gone.

pub(crate) use crate::lease::host_id;

use crate::lease::Extent;

/// Records begin at multiples of this.
pub(crate) const UNIT: usize = 32;
/// As many extents as one log can have: each takes a descriptor.
pub(crate) const MOST_EXTENTS: usize = 1024;

/// One extent, by its place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home(pub u16);

/// Where bytes lie: in which extent, and where there, in units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub home: Home,
    pub at: u32,
}

/// Why bytes found no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Short {
    /// Another extent must be begun.
    Full,
    /// This one was cut off.
    Gone(Home),
}

struct Piece {
    extent: Extent,
    /// When it was begun: a number that grows, 0 for one that is ready to be.
    begun: u64,
    /// The clock's milliseconds at the last write.
    written_ms: u64,
    filled: usize,
    /// Pages in it that can still be found, and their bytes.
    pages: usize,
    bytes: usize,
}

pub(crate) struct Log {
    pieces: Vec<Option<Piece>>,
    current: Option<Home>,
    /// How many were begun ever.
    begun: u64,
    held: usize,
    pages: usize,
    bytes: usize,
}

impl Log {
    pub fn new() -> Log {
        let pieces = (0..MOST_EXTENTS).map(|_| None).collect();
        Log { pieces, current: None, begun: 0, held: 0, pages: 0, bytes: 0 }
    }

    fn piece(&self, home: Home) -> Option<&Piece> {
        self.pieces.get(home.0 as usize)?.as_ref()
    }

    fn piece_mut(&mut self, home: Home) -> Option<&mut Piece> {
        self.pieces.get_mut(home.0 as usize)?.as_mut()
    }

    /// Takes an extent in, to be begun when it is needed; gives it back where there are as many as can be.
    pub fn adopt(&mut self, extent: Extent) -> Result<(), Extent> {
        let Some(place) = self.pieces.iter_mut().find(|place| place.is_none()) else { return Err(extent) };
        *place = Some(Piece { extent, begun: 0, written_ms: 0, filled: 0, pages: 0, bytes: 0 });
        self.held += 1;
        Ok(())
    }

    /// Writes bytes after the last that were written.
    pub fn append(&mut self, bytes: &[u8], now_ms: u64) -> Result<Spot, Short> {
        let home = self.current.ok_or(Short::Full)?;
        let piece = self.piece_mut(home).ok_or(Short::Full)?;
        let at = piece.filled;
        if bytes.len() > piece.extent.bytes.saturating_sub(at) {
            return Err(Short::Full);
        }
        if piece.extent.fd.write_at(at, bytes).is_err() {
            return Err(Short::Gone(home));
        }
        piece.filled = (at + bytes.len()).next_multiple_of(UNIT);
        piece.written_ms = now_ms;
        Ok(Spot { home, at: (at / UNIT) as u32 })
    }

    /// Reads bytes back; whether all were there.
    pub fn read(&self, spot: Spot, into: &mut [u8]) -> bool {
        let read = self.piece(spot.home).map(|piece| piece.extent.fd.read_at(spot.at as usize * UNIT, into));
        matches!(read, Some(Ok(n)) if n == into.len())
    }

    /// A page of so many bytes can be found in an extent from now on.
    pub fn count(&mut self, home: Home, bytes: usize) {
        if let Some(piece) = self.piece_mut(home) {
            piece.pages += 1;
            piece.bytes += bytes;
            self.pages += 1;
            self.bytes += bytes;
        }
    }

    /// It cannot be found any more.
    pub fn discount(&mut self, home: Home, bytes: usize) {
        if let Some(piece) = self.piece_mut(home) {
            debug_assert!(piece.pages > 0 && piece.bytes >= bytes);
            piece.pages -= 1;
            piece.bytes -= bytes;
            self.pages -= 1;
            self.bytes -= bytes;
        }
    }

    /// An extent without a page, but for the one that is being written.
    pub fn spare(&self) -> Option<Home> {
        self.homes().find(|home| self.is_spare(*home))
    }

    fn is_spare(&self, home: Home) -> bool {
        self.current != Some(home) && self.piece(home).is_some_and(|piece| piece.pages == 0)
    }

    /// The extent that was begun longest ago, but for the one that is being written unless it is the only one.
    pub fn oldest(&self) -> Option<Home> {
        let begun = |home: &Home| self.piece(*home).map_or(0, |piece| piece.begun);
        self.homes().min_by_key(|home| (self.current == Some(*home), begun(home)))
    }

    /// Of the extents with pages, the one that was begun longest ago.
    pub fn oldest_with_pages(&self) -> Option<Home> {
        let begun = |home: &Home| self.piece(*home).map_or(0, |piece| piece.begun);
        let with_pages = |home: &Home| self.piece(*home).is_some_and(|piece| piece.pages > 0);
        self.homes().filter(with_pages).min_by_key(begun)
    }

    /// Writes to that extent next, from its beginning. No page is in it.
    pub fn begin(&mut self, home: Home) {
        self.begun += 1;
        let begun = self.begun;
        if let Some(piece) = self.piece_mut(home) {
            debug_assert!(piece.pages == 0);
            (piece.begun, piece.filled) = (begun, 0);
            self.current = Some(home);
        }
    }

    /// Whether an extent is one of the older half.
    pub fn is_old(&self, home: Home) -> bool {
        let begun = self.piece(home).map_or(0, |piece| piece.begun);
        self.held > 1 && begun + (self.held as u64) / 2 < self.begun
    }

    /// Whether less than a quarter of an extent is left to write, and none is ready.
    pub fn is_low(&self) -> bool {
        let left = |piece: &Piece| piece.extent.bytes - piece.filled.min(piece.extent.bytes);
        let low = |piece: &Piece| left(piece) < piece.extent.bytes / 4;
        self.current.and_then(|home| self.piece(home)).is_none_or(low) && self.spare().is_none()
    }

    /// Lets go of an extent in which no page can be found any more.
    pub fn remove(&mut self, home: Home) -> Option<Extent> {
        let piece = self.pieces.get_mut(home.0 as usize)?.take()?;
        debug_assert!(piece.pages == 0);
        self.held -= 1;
        if self.current == Some(home) {
            self.current = None;
        }
        Some(piece.extent)
    }

    pub fn find(&self, id: u64) -> Option<Home> {
        self.homes().find(|home| self.piece(*home).is_some_and(|piece| piece.extent.id == id))
    }

    /// By the host's number.
    pub fn find_host(&self, id: u64) -> Option<Home> {
        self.homes().find(|home| self.piece(*home).is_some_and(|piece| host_id(piece.extent.id) == id))
    }

    pub fn extent(&self, home: Home) -> Option<&Extent> {
        self.piece(home).map(|piece| &piece.extent)
    }

    pub fn renumber(&mut self, old: u64, new: u64) {
        if let Some(piece) = self.find(old).and_then(|home| self.piece_mut(home)) {
            piece.extent.id = new;
        }
    }

    fn homes(&self) -> impl Iterator<Item = Home> + '_ {
        (0..self.pieces.len()).filter(|n| self.pieces[*n].is_some()).map(|n| Home(n as u16))
    }

    pub fn each(&self, each: &mut dyn FnMut(&Extent)) {
        self.pieces.iter().flatten().for_each(|piece| each(&piece.extent));
    }

    /// Forgets all extents, and closes them.
    pub fn clear(&mut self) {
        self.pieces.iter_mut().for_each(|piece| *piece = None);
        (self.current, self.held, self.pages, self.bytes) = (None, 0, 0, 0);
    }

    pub fn held(&self) -> usize {
        self.held
    }

    /// Bytes of all extents.
    pub fn leased(&self) -> usize {
        self.pieces.iter().flatten().map(|piece| piece.extent.bytes).sum()
    }

    /// Bytes of extents that hold no page.
    pub fn spare_bytes(&self) -> usize {
        let bytes = |home| self.extent(home).map_or(0, |extent| extent.bytes);
        self.homes().filter(|home| self.is_spare(*home)).map(bytes).sum()
    }

    pub fn pages(&self) -> usize {
        self.pages
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was written to an extent does not count any more.
    pub fn forget(&mut self, home: Home) {
        if let Some(piece) = self.pieces.get_mut(home.0 as usize).and_then(Option::as_mut) {
            self.pages -= std::mem::take(&mut piece.pages);
            self.bytes -= std::mem::take(&mut piece.bytes);
        }
    }

    pub fn pages_in(&self, home: Home) -> Option<(usize, usize)> {
        self.piece(home).map(|piece| (piece.pages, piece.bytes))
    }

    /// Pages in extents that were written to since that moment.
    pub fn pages_since(&self, ms: u64) -> usize {
        self.pieces.iter().flatten().filter(|piece| piece.written_ms >= ms).map(|piece| piece.pages).sum()
    }

    pub fn footprint(&self) -> usize {
        self.pieces.len() * size_of::<Option<Piece>>()
    }
}
