// SPDX-License-Identifier: Apache-2.0
//! Small calls: whatever they point to is present while they run, and what they consume is not lost.

use crate::arena::{self, at, errno, fails, ok};
use libc::{c_char, iovec, msghdr};
use std::mem::{size_of, zeroed};

fn pipe() -> [i32; 2] {
    let mut fds = [0; 2];
    ok(unsafe { libc::pipe(fds.as_mut_ptr()) });
    fds
}

pub fn sockets(kind: i32) -> [i32; 2] {
    let mut fds = [0; 2];
    ok(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) });
    fds
}

fn read(fd: i32, into: arena::Paged) -> isize {
    unsafe { libc::read(fd, into.ptr(), into.len) }
}

fn write(fd: i32, from: arena::Paged) -> isize {
    unsafe { libc::write(fd, from.ptr(), from.len) }
}

/// The stand-in works: without the guard these calls fail.
pub fn unguarded_calls_meet_efault() {
    arena::make();
    let [r, w] = pipe();
    fails(write(w, at(0, 100)), libc::EFAULT);
    ok(unsafe { libc::write(w, b"x".as_ptr().cast(), 1) });
    fails(read(r, at(0, 100)), libc::EFAULT);
}

pub fn plain_reads_and_writes() {
    arena::arm();
    let [r, w] = pipe();
    let from = at(4000, 9000).fill_pattern();
    assert_eq!(ok(write(w, from)), 9000);
    let into = at(1 << 20, 9000);
    assert_eq!(ok(read(r, into)), 9000);
    assert_eq!(into.bytes(), from.bytes());
    let file = ok(unsafe { libc::memfd_create(c"t".as_ptr(), 0) }) as i32;
    assert_eq!(ok(unsafe { libc::pwrite(file, from.ptr(), 9000, 5) }), 9000);
    let into = at(2 << 20, 9000);
    assert_eq!(ok(unsafe { libc::pread(file, into.ptr(), 9000, 5) }), 9000);
    assert_eq!(into.bytes(), from.bytes());
    assert_eq!(ok(unsafe { libc::lseek(file, 0, libc::SEEK_CUR) }), 0);
}

pub fn vectors() {
    arena::arm();
    let [r, w] = pipe();
    let from = at(0, 3000).fill_pattern();
    let plain = *b"plain";
    let array = at(8 << 20, 3 * size_of::<iovec>()).put([
        iovec { iov_base: from.ptr(), iov_len: 3000 },
        iovec { iov_base: plain.as_ptr() as *mut _, iov_len: 5 },
        iovec { iov_base: at(9 << 20, 10).set(b"0123456789").ptr(), iov_len: 10 },
    ]);
    assert_eq!(ok(unsafe { libc::writev(w, array.ptr(), 3) }), 3015);
    let into: Vec<_> = (0..40).map(|i| at((16 << 20) + i * 8192, 100)).collect();
    let vector: Vec<_> = into.iter().map(|p| iovec { iov_base: p.ptr(), iov_len: 100 }).collect();
    assert_eq!(ok(unsafe { libc::readv(r, vector.as_ptr(), 40) }), 3015);
    let got: Vec<u8> = into.iter().flat_map(|p| p.bytes()).collect();
    assert_eq!(got[..3000], from.bytes());
    assert_eq!(got[3000..3015], *b"plain0123456789");
}

fn header(array: *mut iovec, count: usize) -> msghdr {
    let mut header: msghdr = unsafe { zeroed() };
    header.msg_iov = array;
    header.msg_iovlen = count;
    header
}

/// A descriptor goes with the message: header, vector, data and control buffer are all paged.
pub fn messages() {
    arena::arm();
    let [a, b] = sockets(libc::SOCK_STREAM);
    let data = at(0, 5000).fill_pattern();
    let array = at(1 << 20, 16).put(iovec { iov_base: data.ptr(), iov_len: 5000 });
    let space = unsafe { libc::CMSG_SPACE(4) } as usize;
    let control = at(2 << 20, space);
    control.with(|m| unsafe {
        let c = m.as_mut_ptr().cast::<libc::cmsghdr>();
        (*c).cmsg_len = libc::CMSG_LEN(4) as usize;
        (*c).cmsg_level = libc::SOL_SOCKET;
        (*c).cmsg_type = libc::SCM_RIGHTS;
        libc::CMSG_DATA(c).cast::<i32>().write_unaligned(a);
    });
    let mut h = header(array.ptr(), 1);
    h.msg_control = control.ptr();
    h.msg_controllen = space;
    let sent = at(3 << 20, size_of::<msghdr>()).put(h);
    assert_eq!(ok(unsafe { libc::sendmsg(a, sent.ptr(), 0) }), 5000);

    let into = at(4 << 20, 5000);
    array.put(iovec { iov_base: into.ptr(), iov_len: 5000 });
    control.set(&vec![0; space]);
    assert_eq!(ok(unsafe { libc::recvmsg(b, sent.ptr(), 0) }), 5000);
    assert_eq!(into.bytes(), data.bytes());
    let passed =
        control.with(|m| unsafe { libc::CMSG_DATA(m.as_ptr().cast()).cast::<i32>().read_unaligned() });
    ok(unsafe { libc::close(passed) });
}

pub fn many_messages() {
    arena::arm();
    let [a, b] = sockets(libc::SOCK_DGRAM);
    let many = at(0, 20 * size_of::<libc::mmsghdr>());
    for i in 0..20 {
        let data = at((1 << 20) + i * 8192, 50).set(&[i as u8; 50]);
        let array = at((2 << 20) + i * 8192, 16).put(iovec { iov_base: data.ptr(), iov_len: 50 });
        at(i * size_of::<libc::mmsghdr>(), 64)
            .put(libc::mmsghdr { msg_hdr: header(array.ptr(), 1), msg_len: 0 });
    }
    let mut done = 0;
    while done < 10 {
        let at = many.addr + done * size_of::<libc::mmsghdr>();
        done += ok(unsafe { libc::sendmmsg(a, at as *mut _, (10 - done) as u32, libc::MSG_DONTWAIT) });
    }
    for i in 0..10 {
        at((1 << 20) + i * 8192, 50).set(&[0; 50]);
    }
    let got = ok(unsafe { libc::recvmmsg(b, many.ptr(), 20, libc::MSG_DONTWAIT, std::ptr::null_mut()) });
    assert_eq!(got, 10);
    (0..10).for_each(|i| assert_eq!(at((1 << 20) + i * 8192, 50).bytes(), [i as u8; 50]));
}

pub fn datagram_is_not_lost() {
    arena::arm();
    let [a, b] = sockets(libc::SOCK_DGRAM);
    assert_eq!(ok(write(a, at(4095, 3).set(b"one"))), 3);
    assert_eq!(ok(unsafe { libc::send(a, at(4095, 3).set(b"two").ptr(), 3, 0) }), 3);
    let into = at(8191, 100);
    assert_eq!(ok(unsafe { libc::recv(b, into.ptr(), 100, 0) }), 3);
    assert_eq!(&into.bytes()[..3], b"one");
    assert_eq!(ok(read(b, into)), 3);
    assert_eq!(&into.bytes()[..3], b"two");
}

pub fn event_is_not_lost() {
    arena::arm();
    let event = ok(unsafe { libc::eventfd(7, libc::EFD_NONBLOCK) }) as i32;
    assert_eq!(ok(read(event, at(4092, 8))), 8);
    assert_eq!(at(4092, 8).get::<u64>(), 7);
    fails(read(event, at(4092, 8)), libc::EAGAIN);
    assert_eq!(ok(write(event, at(8188, 8).put(5u64))), 8);
    assert_eq!(ok(read(event, at(4092, 8))), 8);
    assert_eq!(at(4092, 8).get::<u64>(), 5);
}

pub fn inotify_is_not_lost() {
    arena::arm();
    let dir = std::env::temp_dir().join(format!("tmem-guard-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let watch = ok(unsafe { libc::inotify_init1(libc::IN_NONBLOCK) }) as i32;
    let path = at(4090, 200).set(format!("{}\0", dir.display()).as_bytes());
    ok(unsafe { libc::inotify_add_watch(watch, path.ptr::<c_char>(), libc::IN_CREATE) });
    std::fs::write(dir.join("file"), "x").unwrap();
    let into = at(1 << 20, 4096);
    let n = ok(read(watch, into));
    assert!(n >= size_of::<libc::inotify_event>());
    assert!(into.bytes()[16..].starts_with(b"file"));
    fails(read(watch, into), libc::EAGAIN);
    std::fs::remove_dir_all(dir).unwrap();
}

pub fn names_and_structures() {
    arena::arm();
    let path = at(4090, 30).set(b"/proc/self/stat\0");
    let fd = ok(unsafe { libc::open(path.ptr::<c_char>(), libc::O_RDONLY) }) as i32;
    let stat = at(8192 - 70, 144);
    ok(unsafe { libc::fstat(fd, stat.ptr()) });
    assert_eq!(stat.get::<libc::stat>().st_mode & libc::S_IFMT, libc::S_IFREG);
    ok(unsafe { libc::stat(path.ptr::<c_char>(), stat.ptr()) });
    let link = at(12280, 200);
    let name = at(0, 30).set(b"/proc/self/exe\0");
    let n = ok(unsafe { libc::readlink(name.ptr::<c_char>(), link.ptr(), 200) });
    assert_eq!(&link.bytes()[..n], std::env::current_exe().unwrap().as_os_str().as_encoded_bytes());
    let buf = at(20480 - 20, 4096);
    ok(unsafe { libc::syscall(libc::SYS_getcwd, buf.addr, 4096) });
    ok(unsafe { libc::uname(buf.ptr()) });
    assert!(buf.bytes().starts_with(b"Linux"));
    assert_eq!(ok(unsafe { libc::getrandom(buf.ptr(), 4096, 0) }), 4096);
    let ts = at(4088, 16).put([0u64, 1000]);
    ok(unsafe { libc::nanosleep(ts.ptr(), at(8188, 16).ptr()) });
    let limits = at(4088, 16);
    ok(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, limits.ptr()) });
    let dir = ok(unsafe { libc::open(c"/".as_ptr(), libc::O_RDONLY) });
    assert!(ok(unsafe { libc::syscall(libc::SYS_getdents64, dir, buf.addr, 4096) }) > 0);
}

pub fn polls_and_sockets() {
    arena::arm();
    let [a, b] = sockets(libc::SOCK_STREAM);
    let fds = at(4092, 8).put(libc::pollfd { fd: a, events: libc::POLLOUT, revents: 0 });
    assert_eq!(ok(unsafe { libc::poll(fds.ptr(), 1, 0) }), 1);
    assert_eq!(fds.get::<libc::pollfd>().revents, libc::POLLOUT);
    let mask = at(8188, 8).put(0u64);
    let ts = at(12284, 16).put([0u64, 0]);
    let ready = unsafe { libc::syscall(libc::SYS_ppoll, fds.addr, 1, ts.addr, mask.addr, 8) };
    assert_eq!(ok(ready), 1);
    let epoll = ok(unsafe { libc::epoll_create1(0) }) as i32;
    let event = at(4090, 12).put(libc::epoll_event { events: libc::EPOLLIN as u32, u64: 99 });
    ok(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, b, event.ptr()) });
    assert_eq!(ok(write(a, at(0, 2).set(b"hi"))), 2);
    let events = at((1 << 20) - 6, 64 * 12);
    assert_eq!(ok(unsafe { libc::epoll_wait(epoll, events.ptr(), 64, -1) }), 1);
    assert_eq!({ events.get::<libc::epoll_event>().u64 }, 99);
    let set = at(4096 - 60, 128).put([1u64 << b, 0]);
    let zero = std::ptr::null_mut();
    assert_eq!(ok(unsafe { libc::select(b + 1, set.ptr(), zero, zero, std::ptr::null_mut()) }), 1);
    let (value, len) = (at(4094, 4), at(8190, 4).put(4u32));
    ok(unsafe { libc::getsockopt(a, libc::SOL_SOCKET, libc::SO_TYPE, value.ptr(), len.ptr()) });
    assert_eq!(value.get::<i32>(), libc::SOCK_STREAM);
    value.put(0i32);
    ok(unsafe { libc::ioctl(b, libc::FIONREAD, value.ptr::<i32>()) });
    assert_eq!(value.get::<i32>(), 2);
}

/// What the kernel answers with EFAULT stays an answer, also where the guard itself looks into the structure.
pub fn bad_pointers_are_answers() {
    arena::arm();
    let bad = 0x10_0000usize;
    let [r, w] = pipe();
    ok(unsafe { libc::write(w, b"abc".as_ptr().cast(), 3) });
    fails(unsafe { libc::read(r, bad as *mut _, 3) }, libc::EFAULT);
    fails(unsafe { libc::readv(r, bad as *const _, 2) }, libc::EFAULT);
    fails(unsafe { libc::sendmsg(r, bad as *const _, 0) }, libc::ENOTSOCK);
    let [a, _b] = sockets(libc::SOCK_STREAM);
    fails(unsafe { libc::sendmsg(a, bad as *const _, 0) }, libc::EFAULT);
    fails(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, 0, bad, 0, 8) }, libc::EFAULT);
    fails(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, 0, 0, 0, 4) }, libc::EINVAL);
    fails(unsafe { libc::syscall(libc::SYS_rt_sigaction, libc::SIGBUS, bad, 0, 8) }, libc::EFAULT);
    fails(unsafe { libc::syscall(libc::SYS_sigaltstack, bad, 0) }, libc::EFAULT);
    fails(unsafe { libc::syscall(libc::SYS_clone3, bad, 88) }, libc::EFAULT);
    fails(unsafe { libc::syscall(9999) }, libc::ENOSYS);
}

pub fn mappings_are_protected() {
    arena::arm();
    let piece = at(1 << 20, 1 << 20);
    fails(unsafe { libc::munmap(piece.ptr(), piece.len) }, libc::EINVAL);
    fails(unsafe { libc::mprotect(piece.ptr(), piece.len, libc::PROT_READ) }, libc::EINVAL);
    fails(unsafe { libc::madvise(piece.ptr(), piece.len, libc::MADV_DONTNEED) }, libc::EINVAL);
    fails(unsafe { libc::mlock(piece.ptr(), piece.len) }, libc::ENOMEM);
    assert!(arena::last_notice().contains("mlock"));
    ok(unsafe { libc::madvise(piece.ptr(), piece.len, libc::MADV_HUGEPAGE) });
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let over = unsafe { libc::mmap(piece.ptr(), 4096, libc::PROT_READ, flags, -1, 0) };
    assert_eq!((over, errno()), (libc::MAP_FAILED, libc::EINVAL));
}

pub fn descriptors_are_protected() {
    arena::arm();
    let [ours, theirs] = pipe();
    tmem_sys::kept::keep(ours);
    fails(unsafe { libc::close(ours) }, libc::EBADF);
    fails(unsafe { libc::dup2(theirs, ours) }, libc::EBADF);
    fails(unsafe { libc::dup3(theirs, ours, 0) }, libc::EBADF);
    ok(unsafe { libc::close_range(ours as u32, ours as u32, 0) });
    ok(unsafe { libc::close_range(3, u32::MAX, 0) });
    fails(unsafe { libc::close_range(9, 3, 0) }, libc::EINVAL);
    ok(unsafe { libc::fcntl(ours, libc::F_GETFD) });
    fails(unsafe { libc::fcntl(theirs, libc::F_GETFD) }, libc::EBADF);
    tmem_sys::kept::close(ours);
    fails(unsafe { libc::fcntl(ours, libc::F_GETFD) }, libc::EBADF);
}

pub fn refused_interfaces() {
    arena::arm();
    let space = [0u64; 64];
    fails(unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, space.as_ptr()) }, libc::ENOSYS);
    assert!(arena::last_notice().contains("/dev/userfaultfd"));
    fails(unsafe { libc::syscall(libc::SYS_io_setup, 8, space.as_ptr()) }, libc::ENOSYS);
    fails(unsafe { libc::prctl(59, 0, 0, 0, 0) }, libc::EPERM);
    assert_eq!(tmem_sys::guard::counters().refused, 3);
}
