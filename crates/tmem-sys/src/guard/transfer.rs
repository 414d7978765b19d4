// SPDX-License-Identifier: Apache-2.0
//! Calls that move data: `read`, `write` and their family. What may be held at once is held and the call runs as it is; a larger
//! transfer is cut into windows that are held one after another, with the results the kernel would have given: a count wins over
//! a later error, a short answer ends it. Called by `trap`. No locks.
//!
//! Law: nothing is ever tried again after EFAULT, and a message is never cut: where it cannot be held whole it is refused.

use super::hold::Holds;
use super::ordinary::{self, Args, MAX_VECTOR, Piece, TOO_LARGE, issue};
use super::{WINDOWS, count, hooks, refuse};
use crate::PAGE_SIZE;
use crate::syscall;

/// The kernel's own bound for one transfer.
const MAX_TRANSFER: usize = 0x7fff_f000;
/// Windows are cut at multiples of this from the start of the buffer, so that alignment for O_DIRECT is kept.
const WINDOW_UNIT: usize = 2 << 20;
/// Pieces in one window.
const WINDOW_PIECES: usize = 8;

/// How a call names its memory and its place in the file.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Whether the kernel writes to the memory.
    pub(super) write: bool,
    /// Whether argument 1 is an array of pieces, not the buffer.
    vector: bool,
    /// Which argument has the file offset.
    offset: Option<usize>,
}

/// The shape of call `nr`, if it is a transfer.
pub(super) fn shape(nr: usize) -> Option<Shape> {
    let (write, vector, offset) = match nr as libc::c_long {
        libc::SYS_read | libc::SYS_recvfrom => (true, false, None),
        libc::SYS_write | libc::SYS_sendto => (false, false, None),
        libc::SYS_pread64 => (true, false, Some(3)),
        libc::SYS_pwrite64 => (false, false, Some(3)),
        libc::SYS_readv => (true, true, None),
        libc::SYS_writev => (false, true, None),
        libc::SYS_preadv | libc::SYS_preadv2 => (true, true, Some(3)),
        libc::SYS_pwritev | libc::SYS_pwritev2 => (false, true, Some(3)),
        _ => return None,
    };
    Some(Shape { write, vector, offset })
}

/// How a file takes a transfer that comes in pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Transfers all that is asked unless at its end: piece after piece gives the same.
    Whole,
    /// May transfer less: one piece is an answer for reads; writes go on until all is taken.
    Stream,
    /// Each transfer is one message.
    Message,
}

/// Issues one transfer.
pub(super) fn call(nr: usize, a: Args, shape: Shape) -> isize {
    let Some(hooks) = hooks() else { return issue(nr, a) };
    let mut around = Holds::new();
    if !hold_address(&mut around, nr, a) {
        return refuse(libc::ENOBUFS, TOO_LARGE);
    }
    let mut cursor = if shape.vector {
        if a[2] > MAX_VECTOR || !around.range(a[1], a[2] * size_of::<Piece>(), false) {
            return issue(nr, a);
        }
        Cursor::vector(a[1], a[2])
    } else {
        if a[2] == 0 || !(hooks.owns)(a[1], a[2].min(usize::MAX - a[1])) {
            return issue(nr, a);
        }
        Cursor::single(Piece { base: a[1], len: a[2] })
    };
    let limit = (hooks.limit)().max(PAGE_SIZE);
    let mut data = Holds::new();
    if cursor.paged_bytes(hooks.owns) <= limit && cursor.hold_all(&mut data, shape.write) {
        return issue(nr, a);
    }
    data.release();
    let kind = if is_atomic(nr, a) { Kind::Message } else { kind_of(a[0]) };
    if kind == Kind::Message || !cursor.is_valid() {
        let fits = cursor.hold_all(&mut data, shape.write);
        return if fits { issue(nr, a) } else { refuse(libc::ENOBUFS, TOO_LARGE) };
    }
    let all = wants_all(nr, a, kind, shape.write);
    windows(&mut cursor, limit, shape.write, all, |pieces, done| issue_window(nr, a, shape, pieces, done))
}

/// `RWF_ATOMIC`: all or nothing.
fn is_atomic(nr: usize, a: Args) -> bool {
    nr == libc::SYS_pwritev2 as usize && a[5] & 0x40 != 0
}

/// The socket address that goes with the data.
fn hold_address(holds: &mut Holds, nr: usize, a: Args) -> bool {
    match nr as libc::c_long {
        libc::SYS_sendto => holds.range(a[4], if a[4] == 0 { 0 } else { a[5] }, false),
        libc::SYS_recvfrom if a[4] != 0 => holds.range(a[4], 128, true) && holds.range(a[5], 4, true),
        _ => true,
    }
}

fn wants_all(nr: usize, a: Args, kind: Kind, write: bool) -> bool {
    let waits = nr == libc::SYS_recvfrom as usize && waits_for_all(a[3]);
    kind == Kind::Whole || !write || waits
}

/// Whether a receive is to fill its buffer, and may be cut: a look ahead would see the same bytes again.
pub(super) fn waits_for_all(flags: usize) -> bool {
    flags & libc::MSG_WAITALL as usize != 0 && flags & libc::MSG_PEEK as usize == 0
}

/// Issues the call for the pieces of one window.
fn issue_window(nr: usize, mut a: Args, shape: Shape, pieces: &[Piece], done: usize) -> isize {
    if shape.vector {
        a[1] = pieces.as_ptr() as usize;
        a[2] = pieces.len();
    } else {
        let piece = pieces.first().copied().unwrap_or(Piece { base: a[1], len: 0 });
        a[1] = piece.base;
        a[2] = piece.len;
    }
    // An offset of -1 is the file's own position, which moves by itself.
    if let Some(offset) = shape.offset.filter(|&i| a[i] != usize::MAX) {
        a[offset] = a[offset].wrapping_add(done);
    }
    issue(nr, a)
}

/// Runs a transfer in windows. `all`: goes on after a full window. The answer is the kernel's for the whole.
pub(super) fn windows(
    cursor: &mut Cursor,
    limit: usize,
    write: bool,
    all: bool,
    mut transfer: impl FnMut(&[Piece], usize) -> isize,
) -> isize {
    let unit = if limit >= WINDOW_UNIT { WINDOW_UNIT } else { PAGE_SIZE };
    let room = limit / unit * unit;
    let mut done = 0usize;
    loop {
        let mut holds = Holds::new();
        let mut pieces = [Piece { base: 0, len: 0 }; WINDOW_PIECES];
        let Some((n, bytes)) = cursor.window(&mut holds, &mut pieces, room, write) else {
            return if done > 0 { done as isize } else { refuse(libc::ENOBUFS, TOO_LARGE) };
        };
        if bytes == 0 && done > 0 {
            return done as isize;
        }
        count(&WINDOWS);
        let answer = transfer(&pieces[..n], done);
        if answer < 0 {
            return if done > 0 { done as isize } else { answer };
        }
        done += answer as usize;
        cursor.advance(answer as usize);
        let full = answer as usize == bytes && bytes > 0;
        if !full || !all || cursor.left == 0 {
            return done as isize;
        }
    }
}

/// Where a transfer stands in its buffers.
pub(super) struct Cursor {
    single: Option<Piece>,
    array: usize,
    count: usize,
    /// Pieces and bytes of the current piece that are done.
    index: usize,
    within: usize,
    /// Bytes that may still be moved.
    left: usize,
}

impl Cursor {
    pub(super) fn single(piece: Piece) -> Cursor {
        let left = piece.len.min(MAX_TRANSFER);
        Cursor { single: Some(piece), array: 0, count: 1, index: 0, within: 0, left }
    }

    pub(super) fn vector(array: usize, count: usize) -> Cursor {
        Cursor { single: None, array, count, index: 0, within: 0, left: MAX_TRANSFER }
    }

    fn rest(&self) -> impl Iterator<Item = Piece> + use<> {
        let size = size_of::<Piece>();
        let vector = if self.single.is_some() { 0 } else { self.count - self.index };
        let within = self.within;
        let cut = move |(i, p): (usize, Piece)| {
            let skip = if i == 0 { within } else { 0 };
            Piece { base: p.base.wrapping_add(skip), len: p.len.saturating_sub(skip) }
        };
        let single = self.single.filter(|_| self.index == 0);
        single
            .into_iter()
            .chain(ordinary::pieces(self.array + self.index * size, vector))
            .enumerate()
            .map(cut)
    }

    /// How many bytes of the rest lie in pieces that touch paged memory.
    pub(super) fn paged_bytes(&self, owns: fn(usize, usize) -> bool) -> usize {
        let paged = |p: &Piece| p.len > 0 && owns(p.base, p.len.min(usize::MAX - p.base));
        self.rest().filter(paged).fold(0, |sum: usize, p| sum.saturating_add(p.len))
    }

    pub(super) fn hold_all(&self, holds: &mut Holds, write: bool) -> bool {
        self.rest().all(|piece| holds.range(piece.base, piece.len, write))
    }

    /// Whether the kernel would take the array: it checks all of it before it starts.
    pub(super) fn is_valid(&self) -> bool {
        let want = if self.single.is_some() { 1 } else { self.count };
        self.rest().filter(|p| p.len <= isize::MAX as usize).count() == want
    }

    /// Holds the next pieces, up to `room` bytes; how many pieces and bytes, or None where not one byte can be held.
    fn window(
        &self,
        holds: &mut Holds,
        out: &mut [Piece],
        room: usize,
        write: bool,
    ) -> Option<(usize, usize)> {
        let (mut n, mut bytes) = (0, 0);
        let room = room.min(self.left);
        for piece in self.rest().filter(|p| p.len > 0) {
            if n == out.len() || bytes >= room {
                break;
            }
            let want = cut(piece.len, room - bytes, n == 0);
            let held = holds.prefix(piece.base, want, write);
            let len = if held < want { cut(want, held, n == 0) } else { want };
            if len > 0 {
                out[n] = Piece { base: piece.base, len };
                n += 1;
                bytes += len;
            }
            if len < piece.len {
                return (n > 0).then_some((n, bytes));
            }
        }
        Some((n, bytes))
    }

    fn advance(&mut self, mut bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
        while bytes > 0 {
            let Some(piece) = self.rest().next() else { return };
            if bytes < piece.len {
                self.within += bytes;
                return;
            }
            bytes -= piece.len;
            self.index += 1;
            self.within = 0;
        }
    }
}

/// As much of `len` as fits `room`, cut at a page from its start so that alignment is kept, where that leaves anything.
fn cut(len: usize, room: usize, first: bool) -> usize {
    if len <= room {
        return len;
    }
    let pages = room & !(PAGE_SIZE - 1);
    if pages > 0 || !first { pages } else { room }
}

/// How the file behind a descriptor takes pieces. Unknown and special files read like streams.
pub(super) fn kind_of(fd: usize) -> Kind {
    let Some(stat) = stat(fd) else { return Kind::Stream };
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFBLK => Kind::Whole,
        // The memory devices (null, zero, random, …) give all that is asked.
        libc::S_IFCHR if libc::major(stat.st_rdev) == 1 => Kind::Whole,
        libc::S_IFSOCK if socket_option(fd, libc::SO_TYPE as usize) == Some(libc::SOCK_STREAM) => {
            Kind::Stream
        }
        libc::S_IFSOCK => Kind::Message,
        _ => Kind::Stream,
    }
}

/// Whether a descriptor is a pipe's, named or not.
pub(super) fn is_pipe(fd: usize) -> bool {
    stat(fd).is_some_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFIFO)
}

fn stat(fd: usize) -> Option<libc::stat> {
    let mut stat = core::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `stat` is a live buffer of the kernel's size.
    unsafe { syscall::call(libc::SYS_fstat, [fd, stat.as_mut_ptr() as usize]) }.ok()?;
    // SAFETY: zeroed, then filled by the kernel; all its fields are integers.
    Some(unsafe { stat.assume_init() })
}

/// The value of a socket's own option; None for what is no socket.
pub(super) fn socket_option(fd: usize, option: usize) -> Option<i32> {
    let (mut value, mut len) = (0i32, 4u32);
    let args = [fd, libc::SOL_SOCKET as usize, option, &raw mut value as usize, &raw mut len as usize];
    // SAFETY: both pointers are live locals of the sizes given.
    unsafe { syscall::call(libc::SYS_getsockopt, args) }.ok().map(|_| value)
}
