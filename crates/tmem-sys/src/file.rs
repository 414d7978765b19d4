// SPDX-License-Identifier: Apache-2.0
//! Owns: the file behind a swap device: unnamed, mode 0600, outside the page cache where the file system lets it.
//! Callers: the store's swap device. Law 13: what direct I/O cannot keep out of the page cache is dropped from it
//! after every write, and a file that is itself memory (tmpfs) says so. Law 17: a forked child makes its file in the
//! middle of a fault, so nothing here but [`SwapDir::open`] uses the heap.

use crate::errno::Errno;
use crate::kept;
use crate::page::{PAGE_SIZE, Page, ZERO_PAGE};
use crate::syscall::{call, close};
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// A directory for swap files, kept open: what becomes of its path later does not matter.
#[derive(Debug)]
pub struct SwapDir {
    fd: i32,
}

impl SwapDir {
    /// # Errors
    /// The kernel's: `ENOENT`, `ENOTDIR`, `EACCES`.
    pub fn open(dir: &Path) -> Result<SwapDir, Errno> {
        let path = CString::new(dir.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        let fd = open_at(libc::AT_FDCWD, &path, libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)?;
        Ok(SwapDir { fd: kept::own(fd) })
    }

    fn make_file(&self) -> Result<i32, Errno> {
        match open_at(self.fd, c".", libc::O_RDWR | libc::O_CLOEXEC | libc::O_TMPFILE | libc::O_EXCL) {
            Err(Errno(libc::EOPNOTSUPP | libc::EISDIR)) => self.named_then_removed(),
            made => made,
        }
    }

    fn named_then_removed(&self) -> Result<i32, Errno> {
        let mut secret = [0u8; 12];
        crate::random::random_bytes(&mut secret)?;
        let mut bytes = *b".tmem-swap-............\0";
        for (place, random) in bytes[11..23].iter_mut().zip(secret) {
            *place = b'a' + random % 26;
        }
        let name = CStr::from_bytes_until_nul(&bytes).map_err(|_| Errno::EINVAL)?;
        let how = libc::O_RDWR | libc::O_CLOEXEC | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let fd = open_at(self.fd, name, how)?;
        // SAFETY: the name is a live C string.
        let removed = unsafe { call(libc::SYS_unlinkat, [self.fd as usize, name.as_ptr() as usize, 0]) };
        removed.inspect_err(|_| close(fd))?;
        Ok(fd)
    }
}

impl Drop for SwapDir {
    fn drop(&mut self) {
        kept::close(self.fd);
    }
}

/// An open swap file. Reads and writes are whole pages at page offsets.
#[derive(Debug)]
pub struct SwapFile {
    fd: i32,
    direct: bool,
    in_memory: bool,
    identity: Identity,
}

impl SwapFile {
    /// Makes an unnamed file in `dir`.
    ///
    /// # Errors
    /// The kernel's: `EACCES`, `EROFS`, `EOPNOTSUPP` where the file system has no unnamed files and no name could be
    /// made and removed either.
    pub fn create(dir: &SwapDir) -> Result<SwapFile, Errno> {
        let fd = kept::own(dir.make_file()?);
        let in_memory = is_in_memory(fd);
        let direct = !in_memory && set_direct(fd);
        let file = SwapFile { fd, direct, in_memory, identity: identity(fd) };
        if direct && !file.direct_works() {
            return Ok(file.without_direct());
        }
        Ok(file)
    }

    /// Whether the file lives in memory itself (tmpfs, ramfs).
    pub fn in_memory(&self) -> bool {
        self.in_memory
    }

    /// Whether I/O passes the page cache by.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    fn direct_works(&self) -> bool {
        let ok = self.write_at(0, std::slice::from_ref(&ZERO_PAGE.0)).is_ok();
        // SAFETY: no pointers.
        let _ = unsafe { call(libc::SYS_ftruncate, [self.fd as usize, 0]) };
        ok
    }

    fn without_direct(mut self) -> SwapFile {
        // SAFETY: no pointers; the flags are those the file was opened with, less O_DIRECT.
        let _ = unsafe {
            call(libc::SYS_fcntl, [self.fd as usize, libc::F_SETFL as usize, libc::O_RDWR as usize])
        };
        self.direct = false;
        self
    }

    /// Writes whole pages at page offset `at`.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`, …; then some of the pages may have been written. `EBADF` when the program closed the descriptor.
    pub fn write_at(&self, at: u64, pages: &[Page]) -> Result<(), Errno> {
        if !self.is_open() {
            return Err(Errno::EBADF);
        }
        let (start, len) = (at as usize * PAGE_SIZE, size_of_val(pages));
        let mut done = 0;
        while done < len {
            let args = [self.fd as usize, pages.as_ptr() as usize + done, len - done, start + done];
            // SAFETY: the rest of a live slice.
            match unsafe { call(libc::SYS_pwrite64, args) } {
                Ok(0) => return Err(Errno::EIO),
                Ok(n) => done += n,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
        if !self.direct && !self.in_memory {
            self.drop_cache(start, len);
        }
        Ok(())
    }

    /// Reads whole pages at page offset `at`.
    ///
    /// # Errors
    /// `EIO`, and also where the file ends before the pages do.
    pub fn read_at(&self, at: u64, pages: &mut [Page]) -> Result<(), Errno> {
        let (start, len) = (at as usize * PAGE_SIZE, size_of_val(pages));
        let mut done = 0;
        while done < len {
            let args = [self.fd as usize, pages.as_mut_ptr() as usize + done, len - done, start + done];
            // SAFETY: the rest of a live mutable slice.
            match unsafe { call(libc::SYS_pread64, args) } {
                Ok(0) => return Err(Errno::EIO),
                Ok(n) => done += n,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
        if !self.direct && !self.in_memory {
            self.drop_cache(start, len);
        }
        Ok(())
    }

    /// Waits until a range is on the disk and drops it from the page cache.
    fn drop_cache(&self, start: usize, len: usize) {
        let how = libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        let advice = libc::POSIX_FADV_DONTNEED as usize;
        // SAFETY: no pointers in either call.
        unsafe {
            let _ = call(libc::SYS_sync_file_range, [self.fd as usize, start, len, how as usize]);
            let _ = call(libc::SYS_fadvise64, [self.fd as usize, start, len, advice]);
        }
    }

    /// Whether the descriptor still is this file: a program that closes what it did not open gives the number to
    /// another file, which must not be written over.
    fn is_open(&self) -> bool {
        identity(self.fd) == self.identity
    }

    /// Gives the disk space of a page range back; best effort.
    pub fn punch(&self, at: u64, pages: u64) {
        if !self.is_open() {
            return;
        }
        let mode = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as usize;
        let (start, len) = (at as usize * PAGE_SIZE, pages as usize * PAGE_SIZE);
        // SAFETY: no pointers.
        let _ = unsafe { call(libc::SYS_fallocate, [self.fd as usize, mode, start, len]) };
    }

    /// The descriptor, for tests that damage the file behind the device's back.
    pub fn fd(&self) -> i32 {
        self.fd
    }
}

impl Drop for SwapFile {
    fn drop(&mut self) {
        if self.is_open() {
            kept::close(self.fd);
        }
    }
}

fn open_at(dir: i32, path: &CStr, flags: i32) -> Result<i32, Errno> {
    let args = [dir as usize, path.as_ptr() as usize, flags as usize, 0o600];
    // SAFETY: the path is a live C string.
    unsafe { call(libc::SYS_openat, args) }.map(|fd| fd as i32)
}

fn set_direct(fd: i32) -> bool {
    let flags = (libc::O_RDWR | libc::O_DIRECT) as usize;
    // SAFETY: no pointers.
    unsafe { call(libc::SYS_fcntl, [fd as usize, libc::F_SETFL as usize, flags]) }.is_ok()
}

/// What tells a file from one that was given its inode number later: when it was made, in ticks of a coarse clock, and whether
/// it has a name.
pub(crate) type Identity = [u64; 5];

pub(crate) fn identity(fd: i32) -> Identity {
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let (flags, mask) =
        (libc::AT_EMPTY_PATH as usize, (libc::STATX_INO | libc::STATX_NLINK | libc::STATX_BTIME) as usize);
    let args = [fd as usize, c"".as_ptr() as usize, flags, mask, found.as_mut_ptr() as usize];
    // SAFETY: the path is a static C string, and the structure, of plain numbers and zeroed, outlives the call.
    let found = unsafe {
        let _ = call(libc::SYS_statx, args);
        found.assume_init()
    };
    let device = u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor);
    let (born, links) = (found.stx_btime, u64::from(found.stx_nlink));
    [device, found.stx_ino, links, born.tv_sec as u64, u64::from(born.tv_nsec)]
}

fn is_in_memory(fd: i32) -> bool {
    // `struct statfs` is 120 bytes on x86-64 and begins with the type.
    let mut buf = [0i64; 32];
    // SAFETY: the buffer is larger than the structure and outlives the call.
    let answer = unsafe { call(libc::SYS_fstatfs, [fd as usize, buf.as_mut_ptr() as usize]) };
    answer.is_ok() && matches!(buf[0], TMPFS_MAGIC | RAMFS_MAGIC)
}
