// SPDX-License-Identifier: Apache-2.0
//! Owns: descriptors of leased memory, and waiting on a word in memory. Callers: the store's `lease`, the slab's windows, the
//! guests' connection. No locks. Law 17: nothing here uses the heap. Law 12: a number that the program has closed and given to
//! another file is never read, written, mapped or closed.

use crate::beyond;
use crate::errno::Errno;
use crate::file::{Identity, identity};
use crate::kept;
use crate::syscall::call;
use std::sync::atomic::AtomicU32;

const NOEXEC_SEAL: u32 = 8;

/// An owned descriptor of an extent of memory; closed when dropped, and when the process runs another program.
#[derive(Debug)]
pub struct LeaseFd {
    fd: i32,
    identity: Identity,
}

impl LeaseFd {
    /// Takes a descriptor over that nobody else closes; its number changes.
    pub fn own(fd: i32) -> LeaseFd {
        let fd = beyond::own(fd);
        // SAFETY: no pointers.
        let _ = unsafe {
            call(libc::SYS_fcntl, [fd as usize, libc::F_SETFD as usize, libc::FD_CLOEXEC as usize])
        };
        LeaseFd::of_own(fd)
    }

    fn of_own(fd: i32) -> LeaseFd {
        LeaseFd { fd, identity: identity(fd) }
    }

    /// Fresh memory of so many bytes, sealed as a host does it: it cannot grow, and can be cut off. For hosts and tests.
    ///
    /// # Errors
    /// The kernel's: `ENOSPC`, `ENOMEM`, `EMFILE`.
    pub fn new(bytes: usize) -> Result<LeaseFd, Errno> {
        let name = c"tmem-extent".as_ptr() as usize;
        let flags = (libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) as usize;
        let seals = (libc::F_SEAL_GROW | libc::F_SEAL_SEAL) as usize;
        // SAFETY: a C string that lives as long as the process; no other pointers.
        unsafe {
            let made = match call(libc::SYS_memfd_create, [name, flags | NOEXEC_SEAL as usize]) {
                Err(Errno::EINVAL) => call(libc::SYS_memfd_create, [name, flags])?,
                made => made?,
            };
            let memory = LeaseFd::own(made as i32);
            memory.set_size(bytes)?;
            call(libc::SYS_fallocate, [memory.fd as usize, 0, 0, bytes])?;
            call(libc::SYS_fcntl, [memory.fd as usize, libc::F_ADD_SEALS as usize, seals])?;
            Ok(memory)
        }
    }

    /// Another descriptor of the same memory.
    ///
    /// # Errors
    /// The kernel's: `EMFILE`; `EBADF` when the program closed this one.
    pub fn duplicate(&self) -> Result<LeaseFd, Errno> {
        self.ask_open()?;
        beyond::duplicate(self.fd).map(LeaseFd::of_own).ok_or(Errno(libc::EMFILE))
    }

    /// Another descriptor of the memory behind a number that this process has.
    ///
    /// # Errors
    /// `EMFILE`; also where the number is none.
    pub fn of(fd: i32) -> Result<LeaseFd, Errno> {
        beyond::duplicate(fd).map(LeaseFd::of_own).ok_or(Errno(libc::EMFILE))
    }

    /// The number, to be sent to somebody else.
    pub fn raw(&self) -> i32 {
        self.fd
    }

    /// Whether the number still is this memory's.
    pub fn is_open(&self) -> bool {
        identity(self.fd) == self.identity
    }

    fn ask_open(&self) -> Result<(), Errno> {
        if self.is_open() { Ok(()) } else { Err(Errno::EBADF) }
    }

    /// Bytes of memory behind it now; none once it was taken back.
    ///
    /// # Errors
    /// `EBADF` when the program closed it.
    pub fn size(&self) -> Result<usize, Errno> {
        self.ask_open()?;
        // `struct stat` is 144 bytes on x86-64, and the size its seventh word.
        let mut found = [0u64; 18];
        // SAFETY: the structure of plain numbers outlives the call.
        unsafe { call(libc::SYS_fstat, [self.fd as usize, found.as_mut_ptr() as usize])? };
        Ok(found[6] as usize)
    }

    /// Cuts the memory off after so many bytes, for everybody: with 0 a host takes it back.
    ///
    /// # Errors
    /// The kernel's; `EPERM` for more than there is.
    pub fn set_size(&self, bytes: usize) -> Result<(), Errno> {
        self.ask_open()?;
        // SAFETY: no pointers.
        unsafe { call(libc::SYS_ftruncate, [self.fd as usize, bytes])? };
        Ok(())
    }

    /// Copies bytes out; fewer than asked for where the memory ends, as it does once it was taken back.
    ///
    /// # Errors
    /// The kernel's; `EBADF` when the program closed it.
    pub fn read_at(&self, at: usize, into: &mut [u8]) -> Result<usize, Errno> {
        self.ask_open()?;
        let mut done = 0;
        while done < into.len() {
            let args = [self.fd as usize, into[done..].as_mut_ptr() as usize, into.len() - done, at + done];
            // SAFETY: the rest of a live mutable slice.
            match unsafe { call(libc::SYS_pread64, args) } {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Copies bytes in, where the memory is there for all of them.
    ///
    /// # Errors
    /// `EPERM` once it was taken back; `EBADF` when the program closed it.
    pub fn write_at(&self, at: usize, bytes: &[u8]) -> Result<(), Errno> {
        self.ask_open()?;
        let mut done = 0;
        while done < bytes.len() {
            let args = [self.fd as usize, bytes[done..].as_ptr() as usize, bytes.len() - done, at + done];
            // SAFETY: the rest of a live slice.
            match unsafe { call(libc::SYS_pwrite64, args) } {
                // What the seal forbids is cut off: nothing at all is the end of the memory.
                Ok(0) => return Err(Errno::EPERM),
                Ok(n) => done += n,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Drop for LeaseFd {
    fn drop(&mut self) {
        if self.is_open() {
            kept::close(self.fd);
        }
    }
}

/// Sleeps while the word is `value`, up to so many nanoseconds, or for no reason.
pub fn wait_while(word: &AtomicU32, value: u32, most_ns: u64) {
    let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let time = [most_ns / 1_000_000_000, most_ns % 1_000_000_000];
    let args = [word.as_ptr() as usize, op as usize, value as usize, time.as_ptr() as usize];
    // SAFETY: the word and the time outlive the call.
    let _ = unsafe { call(libc::SYS_futex, args) };
}

/// Wakes all that sleep on the word.
pub fn wake_all(word: &AtomicU32) {
    let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word outlives the call.
    let _ = unsafe { call(libc::SYS_futex, [word.as_ptr() as usize, op as usize, i32::MAX as usize]) };
}

/// Makes an event descriptor readable. The caller holds it open meanwhile.
pub fn ring(bell: i32) {
    let one = 1u64;
    // SAFETY: one live word.
    let _ = unsafe { call(libc::SYS_write, [bell as usize, &raw const one as usize, size_of::<u64>()]) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syscall;

    #[test]
    fn memory_is_shared_until_it_is_cut_off() {
        let mine = LeaseFd::new(1 << 20).unwrap();
        let theirs = mine.duplicate().unwrap();
        assert_eq!(theirs.size(), Ok(1 << 20));
        mine.write_at(5000, b"twice").unwrap();
        let mut read = [0; 5];
        assert_eq!((theirs.read_at(5000, &mut read), &read), (Ok(5), b"twice"));
        assert_eq!(theirs.read_at((1 << 20) - 2, &mut read), Ok(2));
        assert!(theirs.set_size(2 << 20).is_err(), "sealed against growth");
        mine.set_size(0).unwrap();
        assert_eq!((theirs.size(), theirs.read_at(0, &mut read)), (Ok(0), Ok(0)));
        assert!(theirs.write_at(0, b"x").is_err(), "what was cut off does not come back");
    }

    #[test]
    fn a_number_that_another_file_has_is_left_alone() {
        let mine = LeaseFd::new(1 << 20).unwrap();
        let other = LeaseFd::new(1 << 20).unwrap();
        let fd = mine.raw();
        syscall::close(fd);
        // SAFETY: no pointers; both descriptors are this test's.
        unsafe { call(libc::SYS_dup3, [other.raw() as usize, fd as usize, 0]).unwrap() };
        assert_eq!((mine.size(), mine.write_at(0, b"x")), (Err(Errno::EBADF), Err(Errno::EBADF)));
        drop(mine);
        assert_eq!(identity(fd), other.identity, "it was not closed");
        syscall::close(fd);
    }
}
