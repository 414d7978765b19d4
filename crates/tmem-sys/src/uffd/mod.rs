// SPDX-License-Identifier: Apache-2.0
//! Owns: userfaultfd descriptors and the decoding of their answers. Callers: `frames`, `entry`, `caps`.
//! Law: progress is signed. "Nothing done, try again" and a partial success are told apart here and nowhere else.

pub mod abi;

use crate::errno::Errno;
use crate::kept;
use crate::syscall::{call, close};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// Bytes for which the kernel made new frames. Frames that circulate are moved, so that few threads meet here.
static COPIED: AtomicU64 = AtomicU64::new(0);

/// Bytes copied into new frames in this process.
pub fn copied() -> u64 {
    COPIED.load(Ordering::Relaxed)
}

/// Whose faults a descriptor serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Faults in user code and inside system calls.
    Kernel,
    /// Faults in user code only: a system call that meets a missing page answers `EFAULT`.
    UserOnly,
}

/// What a transfer of pages did: whole bytes done, and why it stopped early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub bytes: usize,
    pub stopped: Option<Errno>,
}

/// An open descriptor. Process-wide, kept in a static and replaced in a forked child, hence the atomic.
pub struct Uffd {
    fd: AtomicI32,
}

impl Uffd {
    pub const fn closed() -> Uffd {
        Uffd { fd: AtomicI32::new(-1) }
    }

    pub fn is_open(&self) -> bool {
        self.fd.load(Ordering::Acquire) >= 0
    }

    /// Takes a raw descriptor in place of the one held, which is closed.
    pub fn adopt(&self, fd: i32) {
        let fd = if fd >= 0 { kept::own(fd) } else { fd };
        let old = self.fd.swap(fd, Ordering::AcqRel);
        if old >= 0 {
            kept::close(old);
        }
    }

    pub fn fd(&self) -> i32 {
        self.fd.load(Ordering::Acquire)
    }

    fn ioctl<T>(&self, request: usize, arg: &mut T) -> Result<usize, Errno> {
        ioctl(self.fd(), request, arg)
    }

    /// Registers a range for missing-page faults.
    ///
    /// # Errors
    /// The kernel's.
    pub fn register(&self, start: usize, len: usize) -> Result<(), Errno> {
        let range = abi::Range { start: start as u64, len: len as u64 };
        let mut arg = abi::Register { range, mode: abi::REGISTER_MODE_MISSING, ioctls: 0 };
        self.ioctl(abi::UFFDIO_REGISTER, &mut arg).map(drop)
    }

    /// # Errors
    /// The kernel's.
    pub fn unregister(&self, start: usize, len: usize) -> Result<(), Errno> {
        let mut arg = abi::Range { start: start as u64, len: len as u64 };
        self.ioctl(abi::UFFDIO_UNREGISTER, &mut arg).map(drop)
    }

    /// Wakes threads that wait on a range.
    pub fn wake(&self, start: usize, len: usize) {
        let mut arg = abi::Range { start: start as u64, len: len as u64 };
        let _ = self.ioctl(abi::UFFDIO_WAKE, &mut arg);
    }

    /// Moves the frames behind `src` to the missing pages of `dst`. Wakes nobody: every thread that waits has sent a message,
    /// and is woken when that is answered.
    ///
    /// # Safety
    /// The contents of `src` vanish and those of `dst` appear: no reference into either may be live.
    #[inline]
    pub unsafe fn move_range(&self, dst: usize, src: usize, len: usize) -> Progress {
        let mut arg =
            abi::Move { dst: dst as u64, src: src as u64, len: len as u64, mode: abi::DONT_WAKE, moved: 0 };
        let answer = self.ioctl(abi::UFFDIO_MOVE, &mut arg);
        progress(answer, arg.moved, len)
    }

    /// Copies `src` into new frames at the missing pages of `dst`. Wakes nobody.
    ///
    /// # Safety
    /// `src` must be readable for `len` bytes; the contents of `dst` appear.
    pub unsafe fn copy_range(&self, dst: usize, src: usize, len: usize) -> Progress {
        let mut arg =
            abi::Copy { dst: dst as u64, src: src as u64, len: len as u64, mode: abi::DONT_WAKE, copy: 0 };
        let answer = self.ioctl(abi::UFFDIO_COPY, &mut arg);
        let done = progress(answer, arg.copy, len);
        COPIED.fetch_add(done.bytes as u64, Ordering::Relaxed);
        done
    }

    /// Waits for a message for some time; whether there is one. The descriptor answers `poll` only while its reads do not wait.
    pub fn wait(&self, ns: u64) -> bool {
        let mut ask = libc::pollfd { fd: self.fd(), events: libc::POLLIN, revents: 0 };
        let time = [0u64, ns];
        let flags = |f: i32| {
            // SAFETY: no pointers.
            let _ =
                unsafe { call(libc::SYS_fcntl, [self.fd() as usize, libc::F_SETFL as usize, f as usize]) };
        };
        flags(libc::O_RDWR | libc::O_NONBLOCK);
        let args = [&raw mut ask as usize, 1, time.as_ptr() as usize, 0, 8];
        // SAFETY: one live `pollfd`, a live `timespec`, no mask.
        let answer = unsafe { call(libc::SYS_ppoll, args) };
        flags(libc::O_RDWR);
        answer != Ok(0)
    }

    /// Waits for messages, as many as there are room and threads that wait; how many.
    ///
    /// # Errors
    /// The kernel's, `EINTR` and `EAGAIN` included.
    pub fn read(&self, into: &mut [abi::Msg]) -> Result<usize, Errno> {
        let args = [self.fd() as usize, into.as_mut_ptr() as usize, size_of_val(into)];
        // SAFETY: pointer and length of a live slice of plain data.
        let n = unsafe { call(libc::SYS_read, args)? };
        Ok(n / size_of::<abi::Msg>())
    }
}

/// On success the field holds the bytes done; on failure it is negative, or the bytes done before the stop.
fn progress(answer: Result<usize, Errno>, field: i64, len: usize) -> Progress {
    match answer {
        Ok(_) => Progress { bytes: (field.max(0) as usize).min(len), stopped: None },
        Err(e) => {
            let bytes = (field.max(0) as usize).min(len);
            let stopped = if field < 0 { Errno(-field as i32) } else { e };
            Progress { bytes, stopped: Some(stopped) }
        }
    }
}

fn ioctl<T>(fd: i32, request: usize, arg: &mut T) -> Result<usize, Errno> {
    #[cfg(feature = "fake-kernel")]
    // SAFETY: `request` names the structure `T`; the ranges in it are the pager's.
    return unsafe { crate::fake::ioctl(fd, request, std::ptr::from_mut(arg).cast()) };
    #[cfg(not(feature = "fake-kernel"))]
    // SAFETY: `request` encodes the size and direction of `T`, which is live and mutable.
    unsafe {
        call(libc::SYS_ioctl, [fd as usize, request, std::ptr::from_mut(arg) as usize])
    }
}

/// The features that this kernel's descriptors know, without enabling any.
///
/// # Errors
/// The kernel's, when no descriptor can be had at all.
pub fn features() -> Result<u64, Errno> {
    let fd = open_raw(Reach::UserOnly).or_else(|_| open_raw(Reach::Kernel))?;
    let mut api = abi::Api { api: abi::UFFD_API, features: 0, ioctls: 0 };
    let answer = ioctl(fd, abi::UFFDIO_API, &mut api);
    close(fd);
    answer.map(|_| api.features)
}

/// Opens a descriptor with `features` enabled.
///
/// # Errors
/// `EPERM` without the privilege that `reach` needs, `EINVAL` for a feature the kernel lacks, `ENOSYS`.
pub fn open(reach: Reach, features: u64) -> Result<i32, Errno> {
    let fd = open_raw(reach)?;
    let mut api = abi::Api { api: abi::UFFD_API, features, ioctls: 0 };
    match ioctl(fd, abi::UFFDIO_API, &mut api) {
        Ok(_) => Ok(fd),
        Err(e) => {
            close(fd);
            Err(e)
        }
    }
}

/// The system call first, then the device node, which containers and udev rules grant.
fn open_raw(reach: Reach) -> Result<i32, Errno> {
    if cfg!(feature = "fake-kernel") {
        // SAFETY: no pointers; any descriptor does.
        return unsafe { call(libc::SYS_eventfd2, [0, libc::EFD_CLOEXEC as usize]) }.map(|fd| fd as i32);
    }
    let mode = if reach == Reach::UserOnly { abi::UFFD_USER_MODE_ONLY } else { 0 };
    let flags = libc::O_CLOEXEC as usize | mode;
    // SAFETY: no pointers.
    let first = unsafe { call(libc::SYS_userfaultfd, [flags]) };
    first.map(|fd| fd as i32).or_else(|e| open_device(flags).map_err(|_| e))
}

fn open_device(flags: usize) -> Result<i32, Errno> {
    let path = c"/dev/userfaultfd";
    let how = (libc::O_RDWR | libc::O_CLOEXEC) as usize;
    // SAFETY: the path is a static C string.
    let dev = unsafe { call(libc::SYS_openat, [libc::AT_FDCWD as usize, path.as_ptr() as usize, how, 0])? };
    // SAFETY: this request takes its argument by value.
    let answer = unsafe { call(libc::SYS_ioctl, [dev, abi::USERFAULTFD_IOC_NEW, flags]) };
    close(dev as i32);
    answer.map(|fd| fd as i32)
}

/// Whether `/dev/userfaultfd` gives this process a descriptor.
pub fn device_works() -> bool {
    match open_device(libc::O_CLOEXEC as usize) {
        Ok(fd) => {
            close(fd);
            true
        }
        Err(_) => false,
    }
}
