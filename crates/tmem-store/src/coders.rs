// SPDX-License-Identifier: Apache-2.0
//! Owns: a host's codecs, each with room for packed bytes on their way into the store or out of it, so that threads
//! pack and unpack side by side and not under a shard's lock. Callers: `host`, for one operation or a run of a batch.
//! Locks: one a codec, taken before a shard's and held over it, never two; around a fork, all in order, before the
//! shards'. Law 13: what they take is counted from their first use on, and bounded.

use crate::class::LARGEST_PACKED;
use crate::codec::{self, Codec, Coded, Decoder};
use crate::ops::Corrupt;
use crate::outside::Taken;
use crate::sync::{AtomicU64, AtomicUsize, Lock, LockGuard, Ordering, locked};
use tmem_sys::thread::ThreadKey;
use tmem_sys::{Errno, PAGE_SIZE, Page, Table};

/// As many as a host ever has. Few where every order of threads is to be seen.
pub(crate) const MOST: usize = if cfg!(loom) { 2 } else { 8 };
/// Pages of bytes that a codec has room for: so much is copied at most under one hold of the store's lock.
const STAGED: usize = 4;

/// A page in the form it has in the store; packed bytes lie in its coder.
#[derive(Clone, Copy)]
pub(crate) enum Staged {
    Same(u64),
    /// From where on, and how many.
    Packed(usize, usize),
    Incompressible,
}

/// Apart from its neighbours in the processors' caches.
#[repr(align(128))]
pub(crate) struct Coder {
    codec: Codec,
    staged: Table<u8>,
    /// Bytes staged, and bytes of pages that are copied without being staged.
    filled: usize,
    known: bool,
    number: usize,
}

impl Coder {
    /// The codec with its buffers, and the room for packed bytes.
    pub const FOOTPRINT: usize = Codec::FOOTPRINT + STAGED * PAGE_SIZE;
    /// What of it is taken before the first use.
    pub const IDLE: usize = Decoder::FOOTPRINT;

    fn new(number: usize) -> Result<Coder, Errno> {
        let (codec, staged) = (Codec::new()?, Table::new(STAGED * PAGE_SIZE)?);
        Ok(Coder { codec, staged, filled: 0, known: false, number })
    }

    /// Whether it was never used before: its memory is not counted yet.
    pub fn is_first_use(&mut self) -> bool {
        !std::mem::replace(&mut self.known, true)
    }

    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Whether one more page can be staged, whatever its form.
    pub fn has_room(&self) -> bool {
        self.filled + PAGE_SIZE <= self.staged.len()
    }

    /// Packs one page and nothing else.
    pub fn encode(&mut self, page: &Page, pack: bool) -> Coded<'_> {
        self.codec.encode(page, pack)
    }

    /// Packs a page while there is room.
    pub fn stage(&mut self, page: &Page, pack: bool) -> Staged {
        match self.codec.encode(page, pack) {
            Coded::Same(word) => Staged::Same(word),
            Coded::Packed(bytes) => {
                let at = self.filled;
                self.staged[at..at + bytes.len()].copy_from_slice(bytes);
                self.filled += bytes.len();
                Staged::Packed(at, bytes.len())
            }
            Coded::Incompressible => {
                self.filled += PAGE_SIZE;
                Staged::Incompressible
            }
        }
    }

    pub fn coded(&self, staged: Staged) -> Coded<'_> {
        match staged {
            Staged::Same(word) => Coded::Same(word),
            Staged::Packed(at, len) => Coded::Packed(&self.staged[at..at + len]),
            Staged::Incompressible => Coded::Incompressible,
        }
    }

    /// Room for one page as it is stored, and where it begins.
    pub fn room(&mut self) -> (&mut [u8], usize) {
        let at = self.filled;
        (&mut self.staged[at..at + PAGE_SIZE], at)
    }

    /// Keeps what was copied to the room for it.
    pub fn keep(&mut self, taken: Taken) {
        self.filled += taken.len();
    }

    /// Makes a page of what was copied out of the store; false where there was none.
    pub fn unpack(&mut self, taken: Taken, at: usize, into: &mut Page) -> Result<bool, Corrupt> {
        match taken {
            Taken::Absent => return Ok(false),
            Taken::Same(word) => codec::fill(word, into),
            Taken::Raw => into.copy_from_slice(&self.staged[at..at + PAGE_SIZE]),
            Taken::Packed(len) if self.codec.decode(&self.staged[at..at + len], into) => {}
            Taken::Packed(_) => return Err(Corrupt::Undecodable),
        }
        Ok(true)
    }
}

pub(crate) struct Coders {
    all: Vec<Lock<Coder>>,
    /// The thread that used each last, so that it finds its own again, and threads that work side by side do not write to the
    /// same memory.
    last_by: [AtomicU64; MOST],
    /// How many were ever used: the others take next to no memory.
    used: AtomicUsize,
}

impl Coders {
    /// Two for each processor, so that one whose thread was interrupted keeps nobody waiting.
    pub fn new() -> Result<Coders, Errno> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Coders::with((2 * processors).min(MOST))
    }

    /// # Errors
    /// `ENOMEM`.
    pub fn with(count: usize) -> Result<Coders, Errno> {
        let all = (0..count).map(|number| Coder::new(number).map(locked));
        let last_by = std::array::from_fn(|_| AtomicU64::new(ThreadKey::NONE.bits()));
        Ok(Coders { all: all.collect::<Result<_, _>>()?, last_by, used: AtomicUsize::new(0) })
    }

    /// The codec that the thread used last, or one that nobody uses, first of those that nobody ever did. Where all are in
    /// use, one is waited for.
    pub fn take(&self) -> LockGuard<'_, Coder> {
        let me = ThreadKey::current().bits();
        let mut coder =
            self.last_of(me).or_else(|| self.last_of(ThreadKey::NONE.bits())).unwrap_or_else(|| {
                let own = home(me, self.all.len());
                let (before, from) = self.all.split_at(own);
                from.iter().chain(before).find_map(Lock::try_lock).unwrap_or_else(|| self.all[own].lock())
            });
        let last_by = &self.last_by[coder.number];
        if last_by.load(Ordering::Relaxed) != me {
            last_by.store(me, Ordering::Relaxed);
        }
        coder.clear();
        coder
    }

    /// A free one that this thread used last.
    fn last_of(&self, thread: u64) -> Option<LockGuard<'_, Coder>> {
        let known = self.all.iter().zip(&self.last_by).filter(|(_, by)| by.load(Ordering::Relaxed) == thread);
        known.map(|(coder, _)| coder).find_map(Lock::try_lock)
    }

    /// One more was used for the first time.
    pub fn count_one(&self) {
        self.used.fetch_add(1, Ordering::Relaxed);
    }

    /// All of them, for who needs that none is in use.
    pub fn lock_all(&self) -> Vec<LockGuard<'_, Coder>> {
        self.all.iter().map(Lock::lock).collect()
    }

    /// Bytes of memory taken.
    pub fn footprint(&self) -> usize {
        let used = self.used.load(Ordering::Relaxed) * (Coder::FOOTPRINT - Coder::IDLE);
        self.all.len() * Coder::IDLE + used
    }

    /// Before a fork: no thread packs or unpacks.
    pub fn hold(&self) {
        self.all.iter().for_each(|coder| coder.lock().keep_across_fork());
    }

    /// After a fork, in both processes.
    pub fn let_go(&self) {
        self.all.iter().for_each(|coder| drop(coder.reclaim()));
    }
}

/// A number below `count` that stays the same for a thread, and mostly differs from another's.
fn home(thread: u64, count: usize) -> usize {
    let mixed = thread.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    mixed as usize % count
}

const _: () = assert!(LARGEST_PACKED <= PAGE_SIZE && STAGED > 0);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_codec_in_use_is_passed_over_and_first_used_once() {
        let coders = Coders::new().unwrap();
        let mut first = coders.take();
        let mut second = coders.take();
        assert!(!std::ptr::eq(&raw const *first, &raw const *second));
        assert!(first.is_first_use() && second.is_first_use());
        drop((first, second));
        assert!(!coders.take().is_first_use(), "the one that was used before");
    }

    #[test]
    fn pages_are_staged_while_there_is_room_and_come_back() {
        let coders = Coders::new().unwrap();
        let mut coder = coders.take();
        let noise = |n: u64| -> Page {
            let mut x = n | 1;
            std::array::from_fn(|i| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                if i < 1500 { x as u8 } else { 7 }
            })
        };
        let mut kept = Vec::new();
        while coder.has_room() {
            let page = noise(kept.len() as u64 + 1);
            kept.push((coder.stage(&page, true), page));
        }
        assert!(kept.len() > STAGED, "more than as many raw ones");
        for (staged, page) in kept {
            let Staged::Packed(at, len) = staged else { panic!("not packed") };
            let mut into = [0; PAGE_SIZE];
            assert_eq!(coder.unpack(Taken::Packed(len), at, &mut into), Ok(true));
            assert!(into == page);
        }
    }
}
