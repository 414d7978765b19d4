// SPDX-License-Identifier: Apache-2.0
//! Calls whose buffers are held whole while the call runs once, as it is. Called by `trap` for all calls that need nothing else,
//! and by `transfer` and `message` for what fits. No locks.

use super::hold::Holds;
use super::table::{self, Buf, Len};
use super::{hooks, nested, refuse, user};
use crate::syscall::raw6;

/// What most structures and names fit in, from any offset in the first page.
pub(super) const TWO_PAGES: usize = 2 * crate::PAGE_SIZE;
/// The longest path; names and other strings are shorter.
const TEXT: usize = 4096;
/// `UIO_MAXIOV`: the kernel refuses longer vectors.
pub(super) const MAX_VECTOR: usize = 1024;

pub(super) const TOO_LARGE: &str = "a system call was refused with ENOBUFS: its buffers in paged memory are larger than what may be held in RAM at once; \
     use smaller buffers, raise the RAM budget, or keep the buffer outside paged memory";

/// Arguments of a call.
pub(super) type Args = [usize; 6];

/// `struct iovec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Piece {
    pub(super) base: usize,
    pub(super) len: usize,
}

// SAFETY: two words.
unsafe impl user::Plain for Piece {}

/// Issues a call of the program, as it made it, from the stub.
pub(super) fn issue(nr: usize, a: Args) -> isize {
    // SAFETY: the program itself asked for this call with these arguments.
    unsafe { raw6(nr, a) }
}

/// Holds the buffers of a call, issues it and lets go.
pub(super) fn call(nr: usize, mut a: Args) -> isize {
    let mut holds = Holds::new();
    let held = match nr as libc::c_long {
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => {
            // Not a number of events: the kernel says so.
            if a[2] as i32 <= 0 {
                return issue(nr, a);
            }
            a[2] = fewer(&mut holds, a[1], a[2] as i32 as usize, EPOLL_EVENT);
            table_bufs(&mut holds, nr, a)
        }
        libc::SYS_getdents | libc::SYS_getdents64 => {
            a[2] = fewer(&mut holds, a[1], a[2] as u32 as usize, 1);
            table_bufs(&mut holds, nr, a)
        }
        libc::SYS_getrandom => {
            a[1] = fewer(&mut holds, a[0], a[1].min(i32::MAX as usize), 1);
            table_bufs(&mut holds, nr, a)
        }
        libc::SYS_ioctl => nested::ioctl(&mut holds, a),
        libc::SYS_seccomp | libc::SYS_prctl | libc::SYS_setsockopt => {
            table_bufs(&mut holds, nr, a) && nested::filter(&mut holds, nr, a)
        }
        libc::SYS_futex_waitv => table_bufs(&mut holds, nr, a) && nested::futexes(&mut holds, a[0], a[1]),
        FUTEX_REQUEUE => table_bufs(&mut holds, nr, a) && nested::futexes(&mut holds, a[0], 2),
        libc::SYS_process_vm_readv => table_bufs(&mut holds, nr, a) && remote(&mut holds, a, false),
        libc::SYS_process_vm_writev => table_bufs(&mut holds, nr, a) && remote(&mut holds, a, true),
        _ => table_bufs(&mut holds, nr, a),
    };
    if held { issue(nr, a) } else { refuse(libc::ENOBUFS, TOO_LARGE) }
}

fn table_bufs(holds: &mut Holds, nr: usize, a: Args) -> bool {
    match table::buffers(nr) {
        Some(bufs) => bufs.iter().all(|buf| one(holds, buf, a)),
        None => a.iter().all(|&arg| holds.range(arg, TWO_PAGES, true)),
    }
}

/// Holds one buffer of a call. A length that cannot be read is left for the kernel to find.
fn one(holds: &mut Holds, buf: &Buf, a: Args) -> bool {
    let addr = a[buf.arg as usize];
    if addr == 0 {
        return true;
    }
    let len = match buf.len {
        Len::Bytes(n) => n as usize,
        Len::Arg(n, size, more) => a[n as usize].saturating_mul(size as usize).saturating_add(more as usize),
        Len::Bits(n) => a[n as usize].div_ceil(64).saturating_mul(8),
        Len::Pages(n) => a[n as usize].div_ceil(crate::PAGE_SIZE),
        Len::At(n) if owned(addr) => user::read::<u32>(a[n as usize]).unwrap_or(0) as usize,
        Len::At(_) => 0,
        Len::Text => TEXT,
        Len::Vector(n) => return vector(holds, addr, a[n as usize], buf.write),
    };
    holds.range(addr, len, buf.write)
}

fn owned(addr: usize) -> bool {
    hooks().is_some_and(|h| (h.owns)(addr, 1))
}

/// Holds an array of pieces and all they point to.
pub(super) fn vector(holds: &mut Holds, array: usize, count: usize, write: bool) -> bool {
    if count > MAX_VECTOR || !holds.range(array, count * size_of::<Piece>(), false) {
        return count > MAX_VECTOR;
    }
    pieces(array, count).all(|piece| holds.range(piece.base, piece.len, write))
}

/// How many pieces are read at a time.
const BATCH: usize = 8;

/// Walks an array of pieces in the program's memory; ends early where it cannot be read, as the kernel will find too.
pub(super) fn pieces(array: usize, count: usize) -> impl Iterator<Item = Piece> {
    let mut batch = [Piece { base: 0, len: 0 }; BATCH];
    (0..count).map_while(move |i| {
        if i % BATCH == 0 {
            if count - i >= BATCH {
                batch = user::read::<[Piece; BATCH]>(array + i * size_of::<Piece>())?;
            } else {
                for (k, place) in batch.iter_mut().take(count - i).enumerate() {
                    *place = user::read::<Piece>(array + (i + k) * size_of::<Piece>())?;
                }
            }
        }
        Some(batch[i % BATCH])
    })
}

/// The far side of `process_vm_readv` and `process_vm_writev` is paged by us where a process names itself.
fn remote(holds: &mut Holds, a: Args, write: bool) -> bool {
    if user::is_own(a[0] as i32) {
        vector(holds, a[3], a[4], write)
    } else {
        holds.range(a[3], a[4].min(MAX_VECTOR) * size_of::<Piece>(), false)
    }
}

/// `struct epoll_event`.
const EPOLL_EVENT: usize = 12;
/// `futex_requeue`.
const FUTEX_REQUEUE: libc::c_long = 456;

/// For calls that may give less than they are asked for: how many items can be held now, at least one. What brings in many pages
/// for one call gives others little room.
fn fewer(holds: &mut Holds, addr: usize, count: usize, size: usize) -> usize {
    let Some(hooks) = hooks().filter(|h| count > 0 && (h.owns)(addr, count * size)) else { return count };
    let most = (hooks.limit)().clamp(TWO_PAGES, FEWER);
    (holds.prefix(addr, (count * size).min(most), true) / size).max(1)
}

/// Bytes that are enough for one such call.
const FEWER: usize = 256 << 10;
