// SPDX-License-Identifier: Apache-2.0
//! What `/proc/self` says about threads and descriptors, read through the stub into the stack. Called by `threads` and `arm`. No locks,
//! nothing allocates.

use super::uncovered::{Uncovered, Why};
use crate::errno::Errno;
use crate::syscall::{call, close};
use core::ffi::CStr;
use core::fmt::Write;

const TASKS: &CStr = c"/proc/self/task";
const FDS: &CStr = c"/proc/self/fd";
const MAPS: &CStr = c"/proc/self/maps";

fn no_proc(e: Errno) -> Uncovered {
    Uncovered::process(Why::NoProc(e.0))
}

/// How many threads this process has: the directory of them has two links more.
pub(super) fn thread_count() -> Result<usize, Uncovered> {
    let mut stat = core::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: a C string and a live buffer of the kernel's size.
    unsafe { call(libc::SYS_stat, [TASKS.as_ptr() as usize, stat.as_mut_ptr() as usize]) }
        .map_err(no_proc)?;
    // SAFETY: zeroed, then filled by the kernel; all its fields are integers.
    Ok((unsafe { stat.assume_init() }.st_nlink as usize).saturating_sub(2))
}

fn open(path: &CStr, flags: i32) -> Result<i32, Errno> {
    let args = [
        libc::AT_FDCWD as usize,
        path.as_ptr() as usize,
        (flags | libc::O_RDONLY | libc::O_CLOEXEC) as usize,
        0,
    ];
    // SAFETY: a C string.
    unsafe { call(libc::SYS_openat, args) }.map(|fd| fd as i32)
}

fn read(fd: i32, into: &mut [u8]) -> usize {
    // SAFETY: pointer and length of a live slice.
    unsafe { call(libc::SYS_read, [fd as usize, into.as_mut_ptr() as usize, into.len()]) }.unwrap_or(0)
}

/// Calls `f` with each entry of a directory whose name is a number.
fn each_number(path: &CStr, mut f: impl FnMut(i32)) -> Result<(), Uncovered> {
    let fd = open(path, libc::O_DIRECTORY).map_err(no_proc)?;
    let mut buf = [0u64; 256];
    loop {
        let args = [fd as usize, buf.as_mut_ptr() as usize, size_of_val(&buf)];
        // SAFETY: pointer and length of a live array, aligned for the entries.
        let got = unsafe { call(libc::SYS_getdents64, args) };
        let Ok(len) = got.map_err(no_proc).inspect_err(|_| close(fd)) else {
            return got.map(drop).map_err(no_proc);
        };
        if len == 0 {
            break;
        }
        // SAFETY: the kernel filled `len` bytes of the array, which is larger.
        let bytes = unsafe { core::slice::from_raw_parts(buf.as_ptr().cast::<u8>(), len) };
        each_name(bytes, |name| {
            if let Some(number) = number(name, 10) {
                f(number as i32);
            }
        });
    }
    close(fd);
    Ok(())
}

/// Walks `struct linux_dirent64`: the record's length at 16, the name from 19.
fn each_name(mut entries: &[u8], mut f: impl FnMut(&[u8])) {
    while entries.len() > 19 {
        let len = usize::from(u16::from_ne_bytes([entries[16], entries[17]]));
        let Some(name) = entries.get(19..len) else { return };
        f(name.split(|&b| b == 0).next().unwrap_or(name));
        entries = &entries[len..];
    }
}

/// The number at the start of a text that is nothing else up to white space.
fn number(text: &[u8], radix: u32) -> Option<u64> {
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    u64::from_str_radix(core::str::from_utf8(&text[..end]).ok()?, radix).ok()
}

/// Calls `f` with each thread of this process.
pub(super) fn each_task(f: impl FnMut(i32)) -> Result<(), Uncovered> {
    each_number(TASKS, f)
}

/// What is known of one thread.
pub(super) struct Task {
    pub(super) comm: [u8; 16],
    pub(super) state: u8,
    pub(super) blocked: u64,
}

impl Task {
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// Reads a thread's status; None when it has gone.
pub(super) fn task(tid: i32) -> Option<Task> {
    let mut path = Path::new();
    write!(path, "/proc/self/task/{tid}/status\0").ok()?;
    let fd = open(path.as_c_str()?, 0).ok()?;
    let mut text = [0u8; 4096];
    let len = read(fd, &mut text);
    close(fd);
    let mut task = Task { comm: [0; 16], state: b'?', blocked: 0 };
    for line in text[..len].split(|&b| b == b'\n') {
        if let Some(name) = line.strip_prefix(b"Name:\t") {
            let n = name.len().min(15);
            task.comm[..n].copy_from_slice(&name[..n]);
        } else if let Some(state) = line.strip_prefix(b"State:\t") {
            task.state = state.first().copied().unwrap_or(b'?');
        } else if let Some(mask) = line.strip_prefix(b"SigBlk:\t") {
            task.blocked = number(mask, 16).unwrap_or(0);
        }
    }
    (len > 0).then_some(task)
}

/// Looks for what uses memory behind the guard: open io_urings and Linux AIO contexts.
pub(super) fn find_async_rings() -> Result<(), Uncovered> {
    let mut ring = None;
    each_number(FDS, |fd| {
        if is_uring(fd) {
            ring = Some(fd);
        }
    })?;
    if let Some(fd) = ring {
        return Err(Uncovered::process(Why::IoUring(fd)));
    }
    if maps_contain(b"/[aio]")? { Err(Uncovered::process(Why::AioContext)) } else { Ok(()) }
}

fn is_uring(fd: i32) -> bool {
    let mut path = Path::new();
    let mut target = [0u8; 32];
    let Some(name) = write!(path, "/proc/self/fd/{fd}\0").ok().and_then(|()| path.as_c_str()) else {
        return false;
    };
    let args = [name.as_ptr() as usize, target.as_mut_ptr() as usize, target.len()];
    // SAFETY: a C string, and pointer and length of a live array.
    let len = unsafe { call(libc::SYS_readlink, args) }.unwrap_or(0);
    target[..len.min(32)] == *b"anon_inode:[io_uring]"
}

/// Whether a name occurs in the list of mappings. Reads overlap by the name's length, so that a cut in it is no miss.
fn maps_contain(name: &[u8]) -> Result<bool, Uncovered> {
    let fd = open(MAPS, 0).map_err(no_proc)?;
    let mut buf = [0u8; 4096];
    let mut kept = 0;
    let found = loop {
        let len = read(fd, &mut buf[kept..]);
        let all = kept + len;
        if len == 0 {
            break false;
        }
        if buf[..all].windows(name.len()).any(|w| w == name) {
            break true;
        }
        let tail = all.min(name.len() - 1);
        buf.copy_within(all - tail..all, 0);
        kept = tail;
    };
    close(fd);
    Ok(found)
}

/// A short path built on the stack.
struct Path {
    bytes: [u8; 48],
    len: usize,
}

impl Path {
    fn new() -> Path {
        Path { bytes: [0; 48], len: 0 }
    }

    fn as_c_str(&self) -> Option<&CStr> {
        CStr::from_bytes_until_nul(&self.bytes[..self.len]).ok()
    }
}

impl Write for Path {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let place = self.bytes.get_mut(self.len..self.len + s.len()).ok_or(core::fmt::Error)?;
        place.copy_from_slice(s.as_bytes());
        self.len += s.len();
        Ok(())
    }
}
