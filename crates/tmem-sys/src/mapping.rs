// SPDX-License-Identifier: Apache-2.0
//! Owns: anonymous private mappings, from which all of tmem's own memory comes.
//! Callers: `table`, `staging`, `arena`, the slab. Law: unmapped exactly once, by the owner.

use crate::errno::Errno;
use crate::page::PAGE_SIZE;
use crate::syscall::call;
use std::ops::Range;

/// What `madvise` is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Advice {
    /// `MADV_DONTNEED_LOCKED`: the plain one is refused where the program has locked the range in memory, and what
    /// was there would be the next owner's.
    DontNeed = 24,
    DontFork = libc::MADV_DONTFORK,
    DoFork = libc::MADV_DOFORK,
    DontDump = libc::MADV_DONTDUMP,
    HugePage = libc::MADV_HUGEPAGE,
    NoHugePage = libc::MADV_NOHUGEPAGE,
    Free = libc::MADV_FREE,
    /// Write-faults present pages in: after a fork this makes a shared page this process's own.
    PopulateWrite = 23,
}

/// An owned range of anonymous memory: zero-filled, committed as it is touched, absent from core dumps, in small pages.
#[derive(Debug)]
pub struct Mapping {
    addr: usize,
    len: usize,
}

impl Mapping {
    /// Reserves `len` bytes (rounded up to pages). Nothing is committed before it is touched.
    ///
    /// # Errors
    /// `ENOMEM` when the address space limit or strict overcommit forbids it.
    pub fn new(len: usize) -> Result<Mapping, Errno> {
        Mapping::aligned(len, PAGE_SIZE)
    }

    /// As [`Mapping::new`], starting at a multiple of `align` (a power of two, at least a page).
    ///
    /// # Errors
    /// As [`Mapping::new`].
    pub fn aligned(len: usize, align: usize) -> Result<Mapping, Errno> {
        let mapping = Mapping::closed(len, align)?;
        mapping.set_open(0..mapping.len, true)?;
        Ok(mapping)
    }

    /// As [`Mapping::aligned`], without access to any of it.
    ///
    /// # Errors
    /// As [`Mapping::new`].
    pub fn closed(len: usize, align: usize) -> Result<Mapping, Errno> {
        let len = len.max(1).next_multiple_of(PAGE_SIZE);
        let span = len.checked_add(align - PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let none = libc::PROT_NONE as usize;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let got = unsafe { call(libc::SYS_mmap, [0, span, none, flags as usize, usize::MAX, 0])? };
        let addr = got.next_multiple_of(align);
        let mapping = Mapping { addr, len };
        unmap(got, addr - got);
        unmap(addr + len, got + span - (addr + len));
        // After `mlockall(MCL_FUTURE)` the kernel would fill all of it at once: that ends before there is access.
        // SAFETY: the call names the mapping just made, which nobody uses yet.
        let _ = unsafe { call(libc::SYS_munlock, [addr, len]) };
        // Core dumps would hold the contents of pages; a refusal of this advice only makes dumps larger.
        let _ = mapping.advise(0..len, Advice::DontDump);
        // What is touched is what counts in the budget: a huge page would commit 512 times that. The arena asks for them.
        let _ = mapping.advise(0..len, Advice::NoHugePage);
        Ok(mapping)
    }

    /// Gives the mapping up without unmapping it: its address, to whoever unmaps it by other means.
    pub fn into_raw(self) -> usize {
        std::mem::ManuallyDrop::new(self).addr
    }

    pub fn addr(&self) -> usize {
        self.addr
    }

    /// Length in bytes, whole pages.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn contains(&self, addr: usize) -> bool {
        addr.wrapping_sub(self.addr) < self.len
    }

    /// Gives access to a byte range relative to the start, or takes it.
    ///
    /// # Errors
    /// The kernel's: `ENOMEM` at its limit of mappings or of data; `EINVAL` when the range is not inside the mapping.
    pub fn set_open(&self, range: Range<usize>, open: bool) -> Result<(), Errno> {
        if range.start > range.end || range.end > self.len {
            return Err(Errno::EINVAL);
        }
        let prot = if open { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
        // SAFETY: the range lies in memory this value owns. Who takes access away refers to nothing in it.
        unsafe {
            call(libc::SYS_mprotect, [self.addr + range.start, range.len(), prot as usize])?;
        }
        Ok(())
    }

    /// Maps a byte range relative to the start anew, without access, whatever was mapped there instead.
    ///
    /// # Errors
    /// The kernel's; then what is mapped there stays. `EINVAL` when the range is not inside the mapping.
    pub fn renew(&self, range: Range<usize>) -> Result<(), Errno> {
        if range.start > range.end || range.end > self.len {
            return Err(Errno::EINVAL);
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let (addr, len, none) = (self.addr + range.start, range.len(), libc::PROT_NONE as usize);
        // SAFETY: the range is this value's, and who asks for it refers to nothing there.
        unsafe { call(libc::SYS_mmap, [addr, len, none, flags as usize, usize::MAX, 0])? };
        // SAFETY: as in `closed`.
        let _ = unsafe { call(libc::SYS_munlock, [addr, len]) };
        let _ = self.advise(range, Advice::DontDump);
        Ok(())
    }

    /// Moves the contents of a byte range relative to the start to another, which the kernel does by its page tables. Both may
    /// be touched before and after; the first is empty then.
    ///
    /// # Errors
    /// The kernel's, which moves only what is one mapping to it; then nothing has moved. `EINVAL` as for [`Mapping::renew`].
    pub fn shift(&self, from: Range<usize>, to: usize) -> Result<(), Errno> {
        let apart = from.end <= to || to.saturating_add(from.len()) <= from.start;
        if from.start > from.end || from.end.max(to.saturating_add(from.len())) > self.len || !apart {
            return Err(Errno::EINVAL);
        }
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        let (old, new, len) = (self.addr + from.start, self.addr + to, from.len());
        // SAFETY: both ranges are this value's and apart, and who asks for it refers to nothing in either.
        unsafe { call(libc::SYS_mremap, [old, len, len, flags as usize, new])? };
        Ok(())
    }

    /// Advises the kernel about a byte range relative to the start.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` when the range is not inside the mapping.
    pub fn advise(&self, range: Range<usize>, advice: Advice) -> Result<(), Errno> {
        if range.start > range.end || range.end > self.len {
            return Err(Errno::EINVAL);
        }
        #[cfg(feature = "fake-kernel")]
        if matches!(advice, Advice::DontNeed | Advice::Free) {
            crate::fake::dropped(self.addr + range.start..self.addr + range.end);
        }
        // SAFETY: the range lies in memory this value owns. DONTNEED changes contents to zeros, which for the
        // plain-data types that live in mappings is a valid value; holders of `&mut` decide when.
        unsafe {
            call(
                libc::SYS_madvise,
                [self.addr + range.start, range.end - range.start, advice as i32 as usize],
            )?;
        }
        Ok(())
    }
}

fn unmap(addr: usize, len: usize) {
    if len > 0 {
        // SAFETY: only called on ranges this module mapped and no longer hands out.
        let _ = unsafe { call(libc::SYS_munmap, [addr, len]) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        unmap(self.addr, self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_huge_page_takes_more_than_is_touched() {
        let map = Mapping::new(8 << 20).unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in smaps.lines() {
            let range = line.split(' ').next().and_then(|word| word.split_once('-'));
            if let Some((from, to)) = range
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                inside = (from..to).contains(&map.addr());
            }
            if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                let huge = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
                assert!(!huge || flags.split(' ').any(|flag| flag == "nh"), "{flags}");
                return;
            }
        }
        panic!("the mapping is not in smaps");
    }
}
