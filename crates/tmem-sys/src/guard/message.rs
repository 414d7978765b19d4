// SPDX-License-Identifier: Apache-2.0
//! Messages: `sendmsg`, `recvmsg` and their many-message forms. Everything a message header points to is held; on a stream, data
//! too large for that goes in windows; of many messages, as many are issued as can be held. Called by `trap`. No locks.
//!
//! Law: a datagram is received or sent whole, or the call is refused before it starts.

use super::hold::Holds;
use super::ordinary::{self, Args, MAX_VECTOR, Piece, TOO_LARGE, issue};
use super::transfer::{self, Cursor, Kind};
use super::{hooks, refuse, user};
use crate::PAGE_SIZE;
use core::mem::offset_of;

/// `struct msghdr` of the kernel.
#[derive(Clone, Copy)]
#[repr(C)]
struct Header {
    name: usize,
    name_len: u32,
    pad: u32,
    pieces: usize,
    count: usize,
    control: usize,
    control_len: usize,
    flags: u32,
    pad2: u32,
}

// SAFETY: integers; the padding is spelt out.
unsafe impl user::Plain for Header {}

/// `struct mmsghdr`: a header and the length moved.
const MANY_STRIDE: usize = size_of::<Header>() + 8;

fn receives(nr: usize) -> bool {
    matches!(nr as libc::c_long, libc::SYS_recvmsg | libc::SYS_recvmmsg)
}

/// Whether call `nr` is one of this file's.
pub(super) fn is_message(nr: usize) -> bool {
    let nr = nr as libc::c_long;
    matches!(nr, libc::SYS_sendmsg | libc::SYS_recvmsg | libc::SYS_sendmmsg | libc::SYS_recvmmsg)
}

/// Whether the data of one of `count` messages, in their headers at `at`, is what `test` looks for.
pub(super) fn data_any(at: usize, count: usize, test: impl Fn(usize, usize) -> bool) -> bool {
    let headers = (0..count).map_while(|i| user::read::<Header>(at + i * MANY_STRIDE));
    headers.filter(|h| h.count <= MAX_VECTOR).any(|h| test(h.pieces, h.count))
}

/// Issues a message call.
pub(super) fn call(nr: usize, a: Args) -> isize {
    match nr as libc::c_long {
        libc::SYS_sendmsg | libc::SYS_recvmsg => one(nr, a),
        _ => many(nr, a),
    }
}

fn one(nr: usize, a: Args) -> isize {
    let Some(hooks) = hooks() else { return issue(nr, a) };
    let write = receives(nr);
    let mut around = Holds::new();
    if !around.range(a[1], size_of::<Header>(), write) {
        return refuse(libc::ENOBUFS, TOO_LARGE);
    }
    let Some(header) = user::read::<Header>(a[1]) else { return issue(nr, a) };
    if header.count > MAX_VECTOR {
        return issue(nr, a);
    }
    if !hold_around(&mut around, &header, write) {
        return refuse(libc::ENOBUFS, TOO_LARGE);
    }
    let limit = (hooks.limit)().max(PAGE_SIZE);
    let cursor = Cursor::vector(header.pieces, header.count);
    let mut data = Holds::new();
    let large = cursor.paged_bytes(hooks.owns) > limit;
    if large && transfer::kind_of(a[0]) == Kind::Stream && cursor.is_valid() {
        return in_windows(nr, a, header, cursor, limit);
    }
    if cursor.hold_all(&mut data, write) { issue(nr, a) } else { refuse(libc::ENOBUFS, TOO_LARGE) }
}

/// Holds what a header points to besides its data.
fn hold_around(holds: &mut Holds, header: &Header, write: bool) -> bool {
    let name_len = if header.name == 0 { 0 } else { header.name_len as usize };
    let control_len = if header.control == 0 { 0 } else { header.control_len };
    holds.range(header.name, name_len, write)
        && holds.range(header.control, control_len, write)
        && holds.range(header.pieces, header.count * size_of::<Piece>(), false)
}

/// A large message of a stream is only bytes: name and control data go with the first window.
fn in_windows(nr: usize, a: Args, header: Header, mut cursor: Cursor, limit: usize) -> isize {
    let write = receives(nr);
    let all = !write || transfer::waits_for_all(a[2]);
    transfer::windows(&mut cursor, limit, write, all, |pieces, done| {
        let mut local = Header { pieces: pieces.as_ptr() as usize, count: pieces.len(), ..header };
        if done > 0 {
            (local.name_len, local.control, local.control_len) = (0, 0, 0);
            local.name = 0;
        }
        let mut args = a;
        args[1] = &raw mut local as usize;
        let answer = issue(nr, args);
        if answer >= 0 && write {
            report(a[1], &local, done == 0);
        }
        answer
    })
}

/// Gives the program what the kernel wrote into our copy of its header.
fn report(header: usize, local: &Header, first: bool) {
    user::write(header + offset_of!(Header, flags), local.flags);
    if first {
        user::write(header + offset_of!(Header, name_len), local.name_len);
        user::write(header + offset_of!(Header, control_len), local.control_len);
    }
}

/// Many messages in one call: as many as can be held now; the kernel, too, may do fewer than it was asked for.
fn many(nr: usize, mut a: Args) -> isize {
    let write = receives(nr);
    let mut holds = Holds::new();
    let asked = a[2].min(MAX_VECTOR);
    if !holds.range(a[4], if write && a[4] != 0 { 16 } else { 0 }, true) {
        return refuse(libc::ENOBUFS, TOO_LARGE);
    }
    let mut ready = 0;
    while ready < asked && hold_nth(&mut holds, a[1] + ready * MANY_STRIDE, write) {
        ready += 1;
    }
    if ready == 0 && asked > 0 {
        return refuse(libc::ENOBUFS, TOO_LARGE);
    }
    a[2] = ready;
    issue(nr, a)
}

/// Holds one of many messages; what cannot be read is left for the kernel to find.
fn hold_nth(holds: &mut Holds, at: usize, write: bool) -> bool {
    if !holds.range(at, MANY_STRIDE, true) {
        return false;
    }
    match user::read::<Header>(at) {
        Some(header) if header.count <= MAX_VECTOR => {
            hold_around(holds, &header, write) && ordinary::vector(holds, header.pieces, header.count, write)
        }
        _ => true,
    }
}
