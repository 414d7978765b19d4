// SPDX-License-Identifier: Apache-2.0
//! What programs hand to the kernel when all of their heap is paged: structures that point to others, words that threads wait for,
//! hundreds of small buffers, left-over registers.

use crate::arena::{self, at, fails, ok};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;
use tmem_sys::guard;

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

/// A call that takes no address brings nothing in, whatever is in its registers.
pub fn numbers_hold_nothing() {
    arena::arm();
    let stale = at(MIB, 1).addr;
    let before = guard::counters().holds;
    for nr in [libc::SYS_getpid, libc::SYS_gettid, libc::SYS_sched_yield, libc::SYS_getuid, libc::SYS_sync] {
        ok(unsafe { libc::syscall(nr, stale, stale, stale, stale, stale, stale) });
    }
    assert_eq!(guard::counters().holds, before);
}

fn pipe() -> [i32; 2] {
    let mut fds = [0; 2];
    ok(unsafe { libc::pipe(fds.as_mut_ptr()) });
    fds
}

/// As many pieces as a call may have, side by side and each on a page of its own, by several threads at once.
pub fn many_buffers() {
    arena::arm();
    const COUNT: usize = 1024;
    let threads = (0..6usize).map(|number| {
        thread::spawn(move || {
            let [r, w] = pipe();
            let base = number * 8 * MIB;
            let pieces = at(base, COUNT * 16);
            for apart in [7, PAGE + 3] {
                let data = at(base + MIB, COUNT * apart + PAGE).fill_pattern();
                let want: Vec<u8> = data.bytes()[..].chunks(apart).take(COUNT).map(|c| c[0]).collect();
                pieces.with(|p| {
                    let (pairs, _) = p.as_chunks_mut::<16>();
                    for (i, pair) in pairs.iter_mut().enumerate().take(COUNT) {
                        pair[..8].copy_from_slice(&(data.addr + i * apart).to_ne_bytes());
                        pair[8..].copy_from_slice(&1usize.to_ne_bytes());
                    }
                });
                assert_eq!(ok(unsafe { libc::writev(w, pieces.ptr(), COUNT as i32) }), COUNT);
                let mut got = vec![0u8; COUNT];
                assert_eq!(ok(unsafe { libc::read(r, got.as_mut_ptr().cast(), COUNT) }), COUNT);
                assert_eq!(got, want);
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|t| t.join().unwrap());
}

/// Calls that may give less than they are asked for are given what can be held.
pub fn more_than_can_be_held() {
    arena::arm();
    arena::set_limits(usize::MAX, 5 * PAGE);
    let room = at(4090, 2 * MIB);
    let epoll = ok(unsafe { libc::epoll_create1(0) }) as i32;
    let [_r, w] = pipe();
    let event = at(8190, 12).put([libc::EPOLLOUT as u32, 7, 8]);
    ok(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, w, event.ptr()) });
    assert_eq!(ok(unsafe { libc::epoll_wait(epoll, room.ptr(), 100_000, 0) }), 1);
    assert_eq!(room.get::<[u32; 3]>(), [libc::EPOLLOUT as u32, 7, 8]);
    assert!(ok(unsafe { libc::getrandom(room.ptr(), MIB, 0) }) >= 4 * PAGE);
    let dir = ok(unsafe { libc::open(c"/proc/self/fd".as_ptr(), libc::O_RDONLY) });
    assert!(ok(unsafe { libc::syscall(libc::SYS_getdents64, dir, room.addr, MIB) }) > 0);
    fails(unsafe { libc::epoll_wait(epoll, room.ptr(), -1, 0) }, libc::EINVAL);
}

/// One instruction, "allow" of seccomp and "all bytes" of a socket, in the arena, and the header that points to it too.
fn filter() -> arena::Paged {
    let instruction = at(3 * MIB + 4092, 8).put([0x06u16, 0, 0, 0x7fff]);
    at(4 * MIB + 4090, 16).put([1usize, instruction.addr])
}

pub fn filters() {
    arena::arm();
    let socket = ok(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0) }) as i32;
    ok(unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, filter().ptr(), 16) });
    ok(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) });
    ok(unsafe { libc::prctl(libc::PR_SET_SECCOMP, 2, filter().addr) });
    ok(unsafe { libc::syscall(libc::SYS_seccomp, 1, 0, filter().addr) });
}

/// A structure that points to the room for the answer, wherever either lies.
pub fn interfaces() {
    arena::arm();
    let socket = ok(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0) }) as i32;
    let room = at(9 * MIB + 4090, 40 * 40);
    let plain = [1600usize, room.addr];
    ok(unsafe { libc::ioctl(socket, 0x8912, &raw const plain) });
    let paged = at(10 * MIB - 5, 16).put([1600usize, room.addr]);
    ok(unsafe { libc::ioctl(socket, 0x8912, paged.ptr::<u8>()) });
    assert!(paged.get::<u32>() >= 40);
    assert_eq!(&room.bytes()[..2], b"lo");
    fails(unsafe { libc::ioctl(socket, 0x8912, 8) }, libc::EFAULT);
}

/// `futex_waitv`: the words are named by structures.
pub fn futexes() {
    arena::arm();
    let words = [at(2 * MIB - 4, 4).put(1u32), at(3 * MIB + 400, 4).put(2u32)];
    let all = at(MIB - 20, 48).put([1, words[0].addr, 2, 3, words[1].addr, 2]);
    let wait = || unsafe { libc::syscall(libc::SYS_futex_waitv, all.addr, 2, 0, 0, 0) };
    if wait() < 0 && arena::errno() == libc::ENOSYS {
        return println!("measured futex_waitv: not available here");
    }
    fails(wait(), libc::EAGAIN);
    all.put([1, words[0].addr, 2, 2, words[1].addr, 2]);
    let waker = thread::spawn(move || {
        thread::sleep(Duration::from_millis(30));
        words[1].put(9u32);
        ok(unsafe { libc::syscall(libc::SYS_futex, words[1].addr, libc::FUTEX_WAKE, 1) })
    });
    let answer = wait();
    assert!(answer == 1 || arena::errno() == libc::EAGAIN);
    waker.join().unwrap();
}

/// More threads than fit one call's records, each waiting for a word on a page of its own; the others go on meanwhile.
pub fn many_wait_for_a_futex() {
    arena::arm();
    static WAITING: AtomicU32 = AtomicU32::new(0);
    let words: Vec<_> = (0..300).map(|i| at(i * 2 * PAGE, 4).put(1u32)).collect();
    let threads: Vec<_> = words
        .iter()
        .map(|&word| {
            thread::Builder::new().stack_size(64 << 10).spawn(move || {
                WAITING.fetch_add(1, Ordering::SeqCst);
                let wait = || unsafe { libc::syscall(libc::SYS_futex, word.addr, libc::FUTEX_WAIT, 1, 0) };
                while wait() != 0 {
                    assert!(matches!(arena::errno(), libc::EINTR | libc::EAGAIN));
                    if word.get::<u32>() != 1 {
                        return;
                    }
                }
            })
        })
        .map(Result::unwrap)
        .collect();
    while WAITING.load(Ordering::SeqCst) < 300 {
        thread::yield_now();
    }
    for _ in 0..100 {
        assert!(crate::threads::guarded_call(40 * MIB));
    }
    for word in words {
        word.put(2u32);
        ok(unsafe { libc::syscall(libc::SYS_futex, word.addr, libc::FUTEX_WAKE, 1) });
    }
    threads.into_iter().for_each(|t| t.join().unwrap());
    guard::all_covered().unwrap();
}

/// `clone3` is made when the guard's handler has returned: what it names is held until then.
pub fn clone_with_paged_arguments() {
    arena::arm();
    let pidfd = at(5 * MIB - 2, 4).put(-1i32);
    let tid = at(6 * MIB - 2, 4).put(0i32);
    for _ in 0..5 {
        let flags = (libc::CLONE_PIDFD | libc::CLONE_PARENT_SETTID) as usize;
        let args = at(7 * MIB - 20, 88).put([
            flags,
            pidfd.addr,
            0,
            tid.addr,
            libc::SIGCHLD as usize,
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
        let pid = unsafe { libc::syscall(libc::SYS_clone3, args.addr, 88) };
        if pid == 0 {
            unsafe { libc::_exit(5) };
        }
        let mut status = 0;
        ok(unsafe { libc::waitpid(ok(pid) as i32, &raw mut status, 0) });
        assert_eq!((status, tid.get::<i32>()), (5 << 8, pid as i32));
        ok(unsafe { libc::close(pidfd.get::<i32>()) });
    }
    ok(unsafe { libc::syscall(libc::SYS_getppid) });
    arena::assert_nothing_held();
}

/// The word that the kernel clears when a thread ends, and the list of its locks, named by calls.
pub fn places_of_a_thread() {
    arena::arm();
    let (word, list) = (at(MIB - 2, 4), at(2 * MIB - 8, 24));
    list.put([list.addr, 0, 0]);
    thread::spawn(move || unsafe {
        ok(libc::syscall(libc::SYS_set_robust_list, list.addr, 24));
        let clear = at(3 * MIB, 8).put(1u32);
        ok(libc::syscall(libc::SYS_set_tid_address, clear.addr));
        ok(libc::syscall(libc::SYS_set_tid_address, word.put(1u32).addr));
        libc::syscall(libc::SYS_exit, 0);
    });
    while word.get::<u32>() != 0 {
        thread::sleep(Duration::from_millis(1));
    }
    // What it left goes when another thread ends.
    thread::sleep(Duration::from_millis(20));
    thread::spawn(|| ()).join().unwrap();
}

/// The guard's own signals could not be written to a stack that is out: such a thread is refused by name.
pub fn paged_stack_is_refused() {
    arena::arm();
    let stack = at(MIB, 256 << 10);
    let flags = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND;
    fails(unsafe { libc::syscall(libc::SYS_clone, flags, stack.addr + stack.len, 0, 0, 0) }, libc::EAGAIN);
    assert!(arena::last_notice().contains("MAP_STACK"));
    let args = [flags as usize, 0, 0, 0, 0, stack.addr, stack.len, 0];
    fails(unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) }, libc::EAGAIN);
}
