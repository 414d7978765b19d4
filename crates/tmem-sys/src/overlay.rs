// SPDX-License-Identifier: Apache-2.0
//! Owns: leased memory mapped over parts of a table, and the report where such memory is gone. Callers: the store's slab.
//! Locks: the table's owner's. Law 12: a part that the host took back by force ends the process with a report, and is never
//! read as zeros. Law 15: a forked child has leased memory only as a copy of its own.

use crate::entry;
use crate::errno::Errno;
use crate::lease::LeaseFd;
use crate::mapping::{Advice, Mapping};
use crate::syscall::{call, die};
use crate::table::Table;
use std::fmt::Write;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Extents are whole units of this size, and lie at multiples of it from where the leased part of a table begins.
pub const UNIT: usize = 1 << 20;

impl Table<u8> {
    /// Maps leased memory over a part of the table, and fills the page tables for it. What was there is gone.
    ///
    /// # Errors
    /// `EINVAL` where the memory has another size, as it has once it was taken back; the kernel's, and then the part is as it
    /// was, or empty.
    pub fn cover(&mut self, part: Range<usize>, memory: &LeaseFd) -> Result<(), Errno> {
        if memory.size()? != part.len() || part.end > self.map.len() {
            return Err(Errno::EINVAL);
        }
        entry::watch_leases()?;
        let prot = (libc::PROT_READ | libc::PROT_WRITE) as usize;
        let flags = (libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE) as usize;
        let args = [self.map.addr() + part.start, part.len(), prot, flags, memory.raw() as usize, 0];
        // SAFETY: the range is this table's, borrowed mutably, and any bytes are a value of it.
        unsafe { call(libc::SYS_mmap, args)? };
        let made = self.map.advise(part.clone(), Advice::DontFork);
        if let Err(why) = made {
            let _ = self.uncover(part);
            return Err(why);
        }
        let _ = self.map.advise(part.clone(), Advice::DontDump);
        // One call for all of it; where it is refused, each page is met by a fault.
        let _ = self.map.advise(part, Advice::PopulateWrite);
        Ok(())
    }

    /// Replaces what is mapped over a part of the table by fresh memory of zeros.
    ///
    /// # Errors
    /// The kernel's, at its limit of mappings: then nothing has changed.
    pub fn uncover(&mut self, part: Range<usize>) -> Result<(), Errno> {
        let prot = (libc::PROT_READ | libc::PROT_WRITE) as usize;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let args = [self.map.addr() + part.start, part.len(), prot, flags as usize, usize::MAX, 0];
        if part.end > self.map.len() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: as in `cover`.
        unsafe { call(libc::SYS_mmap, args)? };
        // SAFETY: the call names the mapping just made.
        let _ = unsafe { call(libc::SYS_munlock, [args[0], args[1]]) };
        let _ = self.map.advise(part.clone(), Advice::DontDump);
        let _ = self.map.advise(part, Advice::NoHugePage);
        Ok(())
    }

    /// Says whether a child that is forked now has a covered part too: for the handlers around a fork alone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_inherited(&self, part: Range<usize>, yes: bool) -> Result<(), Errno> {
        self.map.advise(part, if yes { Advice::DoFork } else { Advice::DontFork })
    }

    /// In a forked child: a covered part becomes this process's own memory, with the bytes of those `pieces` of it.
    ///
    /// # Errors
    /// `ENOMEM`: the part is as it was then.
    pub fn make_own(
        &mut self,
        part: Range<usize>,
        pieces: impl Iterator<Item = Range<usize>>,
    ) -> Result<(), Errno> {
        let own = Mapping::new(part.len())?;
        for piece in pieces.filter(|piece| part.start <= piece.start && piece.end <= part.end) {
            let from = &self[piece.clone()];
            let to = own.addr() + (piece.start - part.start);
            // SAFETY: the piece lies inside the new mapping, which nobody else knows, and is apart from the table.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        }
        let (at, len) = (self.map.addr() + part.start, part.len());
        let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as usize;
        // SAFETY: the new mapping moves over a part of this table, borrowed mutably, whole, and has no owner afterwards but it.
        unsafe { call(libc::SYS_mremap, [own.addr(), len, len, flags, at])? };
        own.into_raw();
        Ok(())
    }
}

/// Tables that can be watched at once; more go unnamed in a report.
const MOST: usize = 128;

struct Watched {
    from: AtomicUsize,
    len: AtomicUsize,
    /// Where the ids of its units lie, as so many words.
    ids: AtomicUsize,
}

static WATCHED: [Watched; MOST] =
    [const { Watched { from: AtomicUsize::new(0), len: AtomicUsize::new(0), ids: AtomicUsize::new(0) } };
        MOST];

/// Which extent is mapped over each unit of a part of a table, where a signal handler can read it.
pub struct Watch {
    place: Option<&'static Watched>,
    ids: Table<u64>,
}

impl Watch {
    /// # Errors
    /// `ENOMEM`.
    pub fn new(table: &Table<u8>, part: Range<usize>) -> Result<Watch, Errno> {
        let ids = Table::new(part.len().div_ceil(UNIT))?;
        let free = |place: &&Watched| {
            place.len.compare_exchange(0, part.len(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let place = WATCHED.iter().find(free);
        if let Some(place) = place {
            place.ids.store(ids.addr(), Ordering::Relaxed);
            place.from.store(table.addr() + part.start, Ordering::Release);
        }
        Ok(Watch { place, ids })
    }

    /// Notes which extent covers some units.
    pub fn set_id(&mut self, units: Range<usize>, id: u64) {
        self.ids[units].fill(id);
    }

    /// Gives back what the first so many units take, which nothing covers.
    pub fn reset(&mut self, units: usize) {
        self.ids[..units].fill(0);
        self.ids.discard(0..units * size_of::<u64>());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            place.from.store(0, Ordering::Release);
            place.len.store(0, Ordering::Release);
        }
    }
}

/// Ends the process where the address of a SIGBUS lies in leased memory.
pub(crate) fn report(addr: usize) {
    for place in &WATCHED {
        let (from, len) = (place.from.load(Ordering::Acquire), place.len.load(Ordering::Relaxed));
        if from != 0 && addr.wrapping_sub(from) < len {
            let word = place.ids.load(Ordering::Relaxed) + (addr - from) / UNIT * size_of::<u64>();
            // SAFETY: the table of ids lives as long as its place is taken, has a word for each unit, and words are atomic.
            let id = unsafe { (*(word as *const AtomicU64)).load(Ordering::Relaxed) };
            let mut text = Line { bytes: [0; 160], len: 0 };
            let _ = write!(
                text,
                "leased memory with stored pages is gone: extent {id} was cut off by the host, as it does \
                 when this program closes its connection (law 12)"
            );
            die(std::str::from_utf8(&text.bytes[..text.len]).unwrap_or("leased memory is gone (law 12)"));
        }
    }
}

/// Text without the heap.
struct Line {
    bytes: [u8; 160],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let n = text.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + n].copy_from_slice(&text.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: Range<usize> = UNIT..2 * UNIT;

    #[test]
    fn a_covered_part_is_the_leased_memory_and_an_uncovered_one_zeros() {
        let mut table: Table<u8> = Table::new(4 * UNIT).unwrap();
        table.fill(1);
        let memory = LeaseFd::new(UNIT).unwrap();
        table.cover(PART, &memory).unwrap();
        assert_eq!(table[UNIT - 1..UNIT + 1], [1, 0]);
        table[PART].fill(7);
        let mut read = [0; 2];
        assert_eq!((memory.read_at(UNIT - 2, &mut read), read), (Ok(2), [7, 7]));
        table.uncover(PART).unwrap();
        assert_eq!(table[2 * UNIT - 1..2 * UNIT + 1], [0, 1]);
        assert!(table.cover(0..2 * UNIT, &memory).is_err(), "it is not as large");
        memory.set_size(0).unwrap();
        assert!(table.cover(PART, &memory).is_err(), "it was taken back");
    }

    #[test]
    fn a_part_made_own_keeps_its_bytes_and_follows_nobody() {
        let mut table: Table<u8> = Table::new(4 * UNIT).unwrap();
        let memory = LeaseFd::new(UNIT).unwrap();
        table.cover(PART, &memory).unwrap();
        table[PART].fill(7);
        table.make_own(PART, std::iter::once(UNIT..UNIT + 8192)).unwrap();
        memory.write_at(0, &[9]).unwrap();
        memory.set_size(0).unwrap();
        assert_eq!((table[UNIT], table[UNIT + 8191], table[UNIT + 8192]), (7, 7, 0));
    }

    /// The end of a forked child that touches cut-off memory as `touch` says: its report, and its status.
    fn report_of(touch: fn(&Table<u8>)) -> (String, i32) {
        let mut table: Table<u8> = Table::new(4 * UNIT).unwrap();
        let mut watch = Watch::new(&table, 0..4 * UNIT).unwrap();
        let memory = LeaseFd::new(UNIT).unwrap();
        table.cover(PART, &memory).unwrap();
        watch.set_id(1..2, 4711);
        let mut pipe = [0i32; 2];
        // SAFETY: two live descriptors; the child touches memory that is gone, and ends whatever comes of it.
        let child = unsafe {
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            table.set_inherited(PART, true).unwrap();
            let child = libc::fork();
            if child == 0 {
                libc::dup2(pipe[1], 2);
                let _ = memory.set_size(0);
                touch(&table);
                libc::_exit(0);
            }
            libc::close(pipe[1]);
            child
        };
        let (mut status, mut text) = (0, [0u8; 512]);
        // SAFETY: live variables, and descriptors of this test.
        let got = unsafe {
            // The report comes in pieces: all of them are there when it has ended.
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            let got = libc::read(pipe[0], text.as_mut_ptr().cast(), text.len());
            libc::close(pipe[0]);
            got
        };
        (String::from_utf8_lossy(&text[..got.max(0) as usize]).into_owned(), status)
    }

    fn touch(table: &Table<u8>) {
        std::hint::black_box(table[UNIT + 5]);
    }

    #[test]
    fn memory_that_is_gone_ends_the_process_and_the_report_names_the_extent() {
        let (text, status) = report_of(touch);
        assert!(text.contains("extent 4711"), "{text}");
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT, "{status}");
    }

    /// Where the store is when a page is fetched in the signal entry.
    static TOUCHED: AtomicUsize = AtomicUsize::new(0);

    #[test]
    fn so_it_does_where_the_signal_handler_meets_it() {
        let (text, status) = report_of(|table| {
            TOUCHED.store(table.addr() + UNIT, Ordering::Relaxed);
            let fault = |_, _| {
                let at = TOUCHED.swap(0, Ordering::Relaxed);
                if at != 0 {
                    // SAFETY: inside the table, which lives; the memory behind it is gone, which is the test.
                    std::hint::black_box(unsafe { (at as *const u8).read_volatile() });
                }
                entry::Served::NotOurs
            };
            // In the child alone.
            entry::set_hooks(fault, |_| false);
            touch(table);
        });
        assert!(text.contains("extent 4711"), "{text}");
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT, "{status}");
    }
}
