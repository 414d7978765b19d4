// SPDX-License-Identifier: Apache-2.0
//! Calls that leave references to their pages behind: `vmsplice` into a pipe, and sends with `MSG_ZEROCOPY`. Called by `trap`. No locks.
//!
//! The kernel takes a plain reference for them, no pin, so such a page can still be moved out, and its frame would carry another
//! page while the pipe or the socket still reads it. So a pipe is given a copy of the bytes as they are at the call; a send
//! without a copy is refused, because its program waits for the news that the pages are free again.

use super::hold::Holds;
use super::ordinary::{Args, MAX_VECTOR, Piece, TOO_LARGE, issue, pieces};
use super::transfer;
use super::{hooks, message, ordinary, refuse};
use crate::syscall;

const NAMED: &str = "the system call vmsplice of paged memory into a named pipe was refused with ENOBUFS: its pages would stay referenced after the call; \
     use write, or keep the buffer outside paged memory";
const ZEROCOPY: &str = "a system call that sends with MSG_ZEROCOPY from paged memory was refused with ENOBUFS: its pages would stay referenced after the call; \
     send without MSG_ZEROCOPY, or keep the buffer outside paged memory";
const MSG_ZEROCOPY: usize = 0x400_0000;
const SO_ZEROCOPY: usize = 60;
const RWF_NOWAIT: usize = 8;
const KNOWN_FLAGS: usize = 15;
const AGAIN: isize = -(libc::EAGAIN as isize);
const UNSUPPORTED: isize = -(libc::EOPNOTSUPP as isize);

/// `vmsplice`: like the kernel's it waits for room once, then gives what fits.
pub(super) fn vmsplice(nr: usize, a: Args) -> isize {
    let mut array = Holds::new();
    if a[2] > MAX_VECTOR || a[3] & !KNOWN_FLAGS != 0 || !is_pipe_entrance(a[0]) {
        return ordinary::call(nr, a);
    }
    if !array.range(a[1], a[2] * size_of::<Piece>(), false) {
        return refuse(libc::ENOBUFS, TOO_LARGE);
    }
    if !any_paged(a[1], a[2]) {
        return issue(nr, a);
    }
    let write = libc::SYS_pwritev2 as usize;
    let Some(shape) = transfer::shape(write) else { return issue(nr, a) };
    loop {
        if a[3] & libc::SPLICE_F_NONBLOCK as usize == 0
            && let Err(e) = wait_for_room(a[0])
        {
            return -(e.0 as isize);
        }
        let answer = transfer::call(write, [a[0], a[1], a[2], usize::MAX, usize::MAX, RWF_NOWAIT], shape);
        match answer {
            AGAIN if a[3] & libc::SPLICE_F_NONBLOCK as usize == 0 => {}
            UNSUPPORTED => return refuse(libc::ENOBUFS, NAMED),
            _ => return answer,
        }
    }
}

/// Whether a send is to go without a copy and has data in paged memory; the refusal then.
pub(super) fn zerocopy(nr: usize, a: Args) -> Option<isize> {
    let flags = match nr as libc::c_long {
        libc::SYS_sendto | libc::SYS_sendmmsg => a[3],
        libc::SYS_sendmsg => a[2],
        _ => return None,
    };
    if flags & MSG_ZEROCOPY == 0 || !takes_references(a[0]) {
        return None;
    }
    let paged = match nr as libc::c_long {
        libc::SYS_sendto => hooks().is_some_and(|h| a[2] > 0 && (h.owns)(a[1], a[2].min(usize::MAX - a[1]))),
        libc::SYS_sendmsg => message::data_any(a[1], 1, any_paged),
        _ => message::data_any(a[1], a[2].min(MAX_VECTOR), any_paged),
    };
    paged.then(|| refuse(libc::ENOBUFS, ZEROCOPY))
}

fn any_paged(array: usize, count: usize) -> bool {
    let Some(hooks) = hooks() else { return false };
    pieces(array, count).any(|p| p.len > 0 && (hooks.owns)(p.base, p.len.min(usize::MAX - p.base)))
}

/// Whether a descriptor is the end of a pipe that is written to.
fn is_pipe_entrance(fd: usize) -> bool {
    // SAFETY: no pointers.
    let flags = unsafe { syscall::call(libc::SYS_fcntl, [fd, libc::F_GETFL as usize, 0]) };
    let writes = flags.is_ok_and(|f| f as i32 & libc::O_ACCMODE != libc::O_RDONLY);
    writes && transfer::is_pipe(fd)
}

/// Without `SO_ZEROCOPY` the flag of a send means nothing.
fn takes_references(fd: usize) -> bool {
    transfer::socket_option(fd, SO_ZEROCOPY).is_some_and(|on| on != 0)
}

fn wait_for_room(fd: usize) -> Result<usize, crate::Errno> {
    let mut poll = libc::pollfd { fd: fd as i32, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one live `pollfd`.
    unsafe { syscall::call(libc::SYS_poll, [&raw mut poll as usize, 1, usize::MAX]) }
}
