// SPDX-License-Identifier: Apache-2.0
//! Who is covered: threads made before and after, by whatever means, and those that cannot be.

use crate::arena::{self, at, ok};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;
use tmem_sys::guard::{self, Why};

/// Goes through the guard or fails: a name in the arena.
pub fn guarded_call(offset: usize) -> bool {
    let path = at(offset, 30).set(b"/proc/self/stat\0");
    unsafe { libc::access(path.ptr::<libc::c_char>(), libc::R_OK) == 0 }
}

fn tid() -> i32 {
    tmem_sys::syscall::gettid()
}

pub fn thread_made_before() {
    arena::make();
    let (go, wait) = channel::<()>();
    let t = thread::spawn(move || {
        wait.recv().unwrap();
        guarded_call(1 << 20)
    });
    arena::try_arm().unwrap();
    go.send(()).unwrap();
    assert!(t.join().unwrap());
    assert!(guarded_call(0));
    guard::all_covered().unwrap();
}

/// `pthread_create` starts threads with every signal blocked.
pub fn thread_made_after() {
    arena::arm();
    for i in 0..50 {
        assert!(thread::spawn(move || guarded_call(i * 8192)).join().unwrap());
    }
    let threads: Vec<_> = (0..20).map(|i| thread::spawn(move || guarded_call(i * 8192))).collect();
    threads.into_iter().for_each(|t| assert!(t.join().unwrap()));
    guard::all_covered().unwrap();
}

static RAW: AtomicU32 = AtomicU32::new(0);
static RAW_TID: AtomicI32 = AtomicI32::new(0);

extern "C" fn raw_child(_: *mut libc::c_void) -> libc::c_int {
    // No thread-local storage of its own: only bare calls.
    let good = unsafe {
        let answer: i64;
        std::arch::asm!("syscall", inlateout("rax") libc::SYS_access => answer, in("rdi") at(4096, 1).addr, in("rsi") 4,
            lateout("rcx") _, lateout("r11") _);
        answer == 0
    };
    RAW.store(if good { 1 } else { 2 }, Ordering::SeqCst);
    unsafe {
        std::arch::asm!("syscall", in("rax") libc::SYS_exit, in("rdi") 0, options(noreturn));
    }
}

pub fn raw_clone_thread() {
    arena::arm();
    at(4096, 30).set(b"/proc/self/stat\0");
    let flags = libc::CLONE_VM
        | libc::CLONE_THREAD
        | libc::CLONE_SIGHAND
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID;
    let mut stack = vec![0u8; 64 << 10];
    let top = (stack.as_mut_ptr() as usize + stack.len()) & !15;
    let word = RAW_TID.as_ptr();
    ok(unsafe {
        libc::clone(
            raw_child,
            top as *mut _,
            flags,
            std::ptr::null_mut(),
            word,
            std::ptr::null_mut::<u8>(),
            word,
        )
    });
    while RAW_TID.load(Ordering::SeqCst) != 0 {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(RAW.load(Ordering::SeqCst), 1);
    thread::sleep(Duration::from_millis(5));
    guard::all_covered().unwrap();
}

/// A call that waits in the kernel from before comes back through the guard.
pub fn thread_waiting_in_read() {
    arena::make();
    let mut fds = [0; 2];
    ok(unsafe { libc::pipe(fds.as_mut_ptr()) });
    let waiter = thread::spawn(move || ok(unsafe { libc::read(fds[0], at(4094, 10).ptr(), 10) }));
    thread::sleep(Duration::from_millis(50));
    arena::try_arm().unwrap();
    ok(unsafe { libc::write(fds[1], b"late".as_ptr().cast(), 4) });
    assert_eq!(waiter.join().unwrap(), 4);
    assert_eq!(&at(4094, 4).bytes(), b"late");
}

pub fn many_threads_come_and_go() {
    arena::arm();
    let stop = Arc::new(AtomicBool::new(false));
    let makers: Vec<_> = (0..4)
        .map(|i| {
            let stop = stop.clone();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let offset = (i + 1) << 20;
                    assert!(thread::spawn(move || guarded_call(offset)).join().unwrap());
                }
            })
        })
        .collect();
    for _ in 0..300 {
        guard::all_covered().unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    stop.store(true, Ordering::Relaxed);
    makers.into_iter().for_each(|t| t.join().unwrap());
}

fn block_all() {
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
}

pub fn blocked_sigsys_is_reported() {
    arena::make();
    let (go, wait) = channel::<()>();
    let (said, hear) = channel();
    let t = thread::Builder::new().name("deaf".into()).spawn(move || {
        block_all();
        said.send(tid()).unwrap();
        wait.recv().unwrap();
    });
    let deaf = hear.recv().unwrap();
    let refused = guard::arm(&arena::HOOKS, Duration::from_millis(50)).unwrap_err();
    assert_eq!((refused.tid, refused.why), (deaf, Why::BlocksSigsys));
    let text = refused.to_string();
    assert!(text.contains("(deaf)") && text.contains("unblock SIGSYS"), "{text}");
    assert!(!guard::is_armed());
    go.send(()).unwrap();
    t.unwrap().join().unwrap();
    arena::try_arm().unwrap();
    assert!(guarded_call(0));
}

/// A library's own thread that cannot be asked, and need not be: known by its name.
pub fn a_thread_that_keeps_to_itself_is_let_be() {
    let (said, hear) = channel();
    let (go, wait) = channel::<()>();
    let spawned = thread::Builder::new().name("jemalloc_bg_thd".into()).spawn(move || {
        block_all();
        said.send(()).unwrap();
        wait.recv().unwrap();
    });
    hear.recv().unwrap();
    arena::arm();
    guard::all_covered().unwrap();
    go.send(()).unwrap();
    spawned.unwrap().join().unwrap();
    guard::all_covered().unwrap();
}

pub fn uring_is_reported() {
    arena::make();
    let space = [0u64; 64];
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, space.as_ptr()) };
    if ring < 0 {
        return println!("measured io_uring: not available here");
    }
    assert_eq!(arena::try_arm().unwrap_err().why, Why::IoUring(ring as i32));
    ok(unsafe { libc::close(ring as i32) });
    let mut context = 0u64;
    ok(unsafe { libc::syscall(libc::SYS_io_setup, 8, &raw mut context) });
    assert_eq!(arena::try_arm().unwrap_err().why, Why::AioContext);
    ok(unsafe { libc::syscall(libc::SYS_io_destroy, context) });
    arena::try_arm().unwrap();
}

pub fn exempt_thread() {
    arena::make();
    let (go, wait) = channel::<()>();
    let (said, hear) = channel();
    let t = thread::spawn(move || {
        guard::exempt(tid());
        said.send(()).unwrap();
        wait.recv().unwrap();
        let calls = guard::counters().calls;
        unsafe { libc::getppid() };
        let natively = guard::counters().calls == calls;
        guard::forget(tid());
        natively
    });
    hear.recv().unwrap();
    for _ in 0..3 {
        arena::try_arm().unwrap();
        guard::all_covered().unwrap();
        guard::disarm();
    }
    arena::try_arm().unwrap();
    go.send(()).unwrap();
    assert!(t.join().unwrap());
    guard::all_covered().unwrap();
}

pub fn disarm_and_again() {
    arena::arm();
    for _ in 0..20 {
        assert!(guarded_call(0));
        let t = thread::spawn(|| thread::sleep(Duration::from_millis(2)));
        guard::disarm();
        unsafe { libc::getppid() };
        let calls = guard::counters().calls;
        unsafe { libc::getppid() };
        assert_eq!(guard::counters().calls, calls);
        assert!(!guarded_call(0));
        arena::try_arm().unwrap();
        t.join().unwrap();
        guard::all_covered().unwrap();
    }
}

/// A thread that got out of the guard is seen and brought back.
pub fn stranger_is_found() {
    arena::arm();
    let (go, wait) = channel::<()>();
    let (said, hear) = channel();
    let t = thread::spawn(move || {
        guard::exempt(tid());
        guard::forget(tid());
        said.send(()).unwrap();
        wait.recv().unwrap();
        guarded_call(1 << 20)
    });
    hear.recv().unwrap();
    guard::all_covered().unwrap();
    go.send(()).unwrap();
    assert!(t.join().unwrap());
}
