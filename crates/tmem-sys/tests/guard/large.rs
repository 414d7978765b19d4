// SPDX-License-Identifier: Apache-2.0
//! Transfers larger than what one call may hold: they go in windows with the kernel's results, or are refused before they start.

use crate::arena::{self, Paged, at, fails, ok, pattern};
use crate::data::sockets;
use libc::{iovec, msghdr};
use std::mem::zeroed;

const MIB: usize = 1 << 20;

/// A file with the pattern in it, `len` bytes long.
fn file(len: usize) -> i32 {
    let fd = ok(unsafe { libc::memfd_create(c"t".as_ptr(), 0) }) as i32;
    let bytes: Vec<u8> = (0..len).map(pattern).collect();
    assert_eq!(ok(unsafe { libc::write(fd, bytes.as_ptr().cast(), len) }), len);
    ok(unsafe { libc::lseek(fd, 0, libc::SEEK_SET) });
    fd
}

fn assert_pattern(piece: Paged) {
    piece.with(|m| assert!(m.iter().enumerate().all(|(i, &b)| b == pattern(i))));
}

pub fn file_in_windows() {
    arena::arm();
    for (limit, most) in
        [(4 * MIB, usize::MAX), (100_000, usize::MAX), (usize::MAX, 3 * MIB), (4 * MIB, 70_000)]
    {
        arena::set_limits(limit, most);
        let len = 10 * MIB + 17;
        let fd = file(len);
        let before = tmem_sys::guard::counters().windows;
        let into = at(5, len + 1000);
        into.with(|m| m.fill(0));
        assert_eq!(ok(unsafe { libc::read(fd, into.ptr(), into.len) }), len);
        assert!(tmem_sys::guard::counters().windows > before);
        assert_pattern(at(5, len));
        assert_eq!(ok(unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) }), len);
        assert_eq!(ok(unsafe { libc::read(fd, into.ptr(), into.len) }), 0);
        let copy = ok(unsafe { libc::memfd_create(c"t".as_ptr(), 0) }) as i32;
        assert_eq!(ok(unsafe { libc::pwrite(copy, into.ptr(), len, 3) }), len);
        into.with(|m| m.fill(0));
        assert_eq!(ok(unsafe { libc::pread(copy, into.ptr(), into.len, 3) }), len);
        assert_pattern(at(5, len));
        ok(unsafe { libc::close(fd) });
        ok(unsafe { libc::close(copy) });
    }
    fails(unsafe { libc::read(-1, at(0, 10 * MIB).ptr(), 10 * MIB) }, libc::EBADF);
}

pub fn file_vectors_in_windows() {
    arena::arm();
    arena::set_limits(MIB, usize::MAX);
    let len = 9 * MIB;
    let fd = file(len);
    let mut plain = vec![0u8; 1000];
    let empty = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let mut vector = vec![empty; 12];
    vector.push(iovec { iov_base: at(0, 3 * MIB).ptr(), iov_len: 3 * MIB });
    vector.extend([empty; 9]);
    vector.push(iovec { iov_base: plain.as_mut_ptr().cast(), iov_len: 1000 });
    vector.extend((0..20).map(|i| iovec { iov_base: at((8 + i) * MIB, 1).ptr(), iov_len: 10_000 }));
    vector.push(iovec { iov_base: at(40 * MIB, 20 * MIB).ptr(), iov_len: 20 * MIB });
    assert_eq!(ok(unsafe { libc::preadv(fd, vector.as_ptr(), vector.len() as i32, 0) }), len);
    let mut all = at(0, 3 * MIB).bytes();
    all.extend(&plain);
    (0..20).for_each(|i| all.extend(at((8 + i) * MIB, 10_000).bytes()));
    let rest = len - all.len();
    all.extend(at(40 * MIB, rest).bytes());
    assert!(all.iter().enumerate().all(|(i, &b)| b == pattern(i)));

    let copy = ok(unsafe { libc::memfd_create(c"t".as_ptr(), 0) }) as i32;
    vector.last_mut().unwrap().iov_len = rest;
    assert_eq!(ok(unsafe { libc::writev(copy, vector.as_ptr(), vector.len() as i32) }), len);
    let mut back = vec![0u8; len];
    assert_eq!(ok(unsafe { libc::pread(copy, back.as_mut_ptr().cast(), len, 0) }), len);
    assert!(back == all);
    vector[12].iov_len = usize::MAX;
    fails(unsafe { libc::writev(copy, vector.as_ptr(), vector.len() as i32) }, libc::EINVAL);
}

pub fn direct_io_in_windows() {
    arena::arm();
    arena::set_limits(5 * MIB, usize::MAX);
    let path = c"/var/tmp";
    let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_DIRECT;
    let fd = unsafe { libc::open(path.as_ptr(), flags, 0o600) };
    if fd < 0 {
        return println!("measured direct I/O: not supported in {path:?}");
    }
    let len = 12 * MIB;
    let from = at(4096, len).fill_pattern();
    assert_eq!(ok(unsafe { libc::pwrite(fd, from.ptr(), len, 0) }), len);
    let into = at(20 * MIB + 8192, len);
    assert_eq!(ok(unsafe { libc::pread(fd, into.ptr(), len, 0) }), len);
    assert_pattern(into);
}

/// A blocking write of any size gives all of it away, as on plain memory.
pub fn pipe_write_takes_all() {
    arena::arm();
    arena::set_limits(MIB, usize::MAX);
    let mut fds = [0; 2];
    ok(unsafe { libc::pipe(fds.as_mut_ptr()) });
    let from = at(77, 7 * MIB).fill_pattern();
    let reader = std::thread::spawn(move || {
        let mut got = vec![0u8; 7 * MIB];
        let mut n = 0;
        while n < got.len() {
            n += ok(unsafe { libc::read(fds[0], got[n..].as_mut_ptr().cast(), 70_000.min(got.len() - n)) });
        }
        got
    });
    assert_eq!(ok(unsafe { libc::write(fds[1], from.ptr(), from.len) }), 7 * MIB);
    assert!(reader.join().unwrap().iter().enumerate().all(|(i, &b)| b == pattern(i)));
    // Without a reader's room, as much as fits.
    ok(unsafe { libc::fcntl(fds[1], libc::F_SETFL, libc::O_NONBLOCK) });
    assert_eq!(ok(unsafe { libc::write(fds[1], from.ptr(), from.len) }), 65536);
    fails(unsafe { libc::write(fds[1], from.ptr(), from.len) }, libc::EAGAIN);
}

pub fn stream_read_is_short() {
    arena::arm();
    arena::set_limits(8192, usize::MAX);
    let mut fds = [0; 2];
    ok(unsafe { libc::pipe(fds.as_mut_ptr()) });
    let text = [7u8; 30_000];
    assert_eq!(ok(unsafe { libc::write(fds[1], text.as_ptr().cast(), 30_000) }), 30_000);
    assert_eq!(ok(unsafe { libc::read(fds[0], at(0, MIB).ptr(), MIB) }), 8192);
    assert_eq!(ok(unsafe { libc::read(fds[0], at(0, MIB).ptr(), MIB) }), 8192);
}

pub fn wait_all_fills() {
    arena::arm();
    arena::set_limits(MIB, usize::MAX);
    let [a, b] = sockets(libc::SOCK_STREAM);
    let from = at(0, 5 * MIB).fill_pattern();
    let writer = std::thread::spawn(move || ok(unsafe { libc::send(a, from.ptr(), from.len, 0) }));
    let into = at(30 * MIB, 5 * MIB);
    assert_eq!(ok(unsafe { libc::recv(b, into.ptr(), into.len, libc::MSG_WAITALL) }), 5 * MIB);
    assert_eq!(writer.join().unwrap(), 5 * MIB);
    assert_pattern(into);
}

pub fn stream_messages() {
    arena::arm();
    arena::set_limits(MIB, usize::MAX);
    let [a, b] = sockets(libc::SOCK_STREAM);
    let from = at(0, 5 * MIB).fill_pattern();
    let into = at(30 * MIB, 5 * MIB);
    let writer = std::thread::spawn(move || {
        let mut piece = iovec { iov_base: from.ptr(), iov_len: from.len };
        let mut header: msghdr = unsafe { zeroed() };
        (header.msg_iov, header.msg_iovlen) = (&raw mut piece, 1);
        ok(unsafe { libc::sendmsg(a, &raw const header, 0) })
    });
    let mut pieces = [
        iovec { iov_base: into.ptr(), iov_len: 3 * MIB },
        iovec { iov_base: at(33 * MIB, 1).ptr(), iov_len: 2 * MIB },
    ];
    let mut header: msghdr = unsafe { zeroed() };
    (header.msg_iov, header.msg_iovlen) = (pieces.as_mut_ptr(), 2);
    assert_eq!(ok(unsafe { libc::recvmsg(b, &raw mut header, libc::MSG_WAITALL) }), 5 * MIB);
    assert_eq!(writer.join().unwrap(), 5 * MIB);
    assert_pattern(into);
}

pub fn datagram_too_large_is_refused() {
    arena::arm();
    let [a, b] = sockets(libc::SOCK_DGRAM);
    let from = at(0, 100_000).fill_pattern();
    // Above the limit, but it can be held: sent whole.
    arena::set_limits(8192, usize::MAX);
    assert_eq!(ok(unsafe { libc::send(a, from.ptr(), from.len, 0) }), 100_000);
    // It cannot be held: nothing happens, and the message is still there.
    arena::set_limits(8192, 8192);
    fails(unsafe { libc::send(a, from.ptr(), from.len, 0) }, libc::ENOBUFS);
    let into = at(MIB, 200_000);
    fails(unsafe { libc::recv(b, into.ptr(), into.len, 0) }, libc::ENOBUFS);
    assert!(arena::last_notice().contains("smaller buffers"));
    arena::set_limits(usize::MAX, usize::MAX);
    assert_eq!(ok(unsafe { libc::recv(b, into.ptr(), into.len, 0) }), 100_000);
    assert_pattern(at(MIB, 100_000));
    fails(unsafe { libc::recv(b, into.ptr(), into.len, libc::MSG_DONTWAIT) }, libc::EAGAIN);
}
