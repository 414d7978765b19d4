// SPDX-License-Identifier: Apache-2.0
//! The program's own signals: delivered, masked and reported as without the guard, which stays deliverable itself.

use crate::arena::{self, at, fails, ok};
use crate::threads::guarded_call;
use std::mem::zeroed;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

static CAUGHT: AtomicU64 = AtomicU64::new(0);
static MASK_SEEN: AtomicU64 = AtomicU64::new(0);

/// Makes calls of its own, on paged memory too.
extern "C" fn on_signal(_: i32) {
    assert!(guarded_call(40 << 20));
    MASK_SEEN.store(mask(), Ordering::SeqCst);
    CAUGHT.fetch_add(1, Ordering::SeqCst);
}

fn mask() -> u64 {
    let mut now = 0u64;
    ok(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, 0, 0, &raw mut now, 8) });
    now
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

fn handle(signal: i32, handler: extern "C" fn(i32), flags: i32, full: bool) {
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = flags;
        if full {
            libc::sigfillset(&raw mut action.sa_mask);
        }
        ok(libc::sigaction(signal, &raw const action, null_mut()));
    }
}

fn pipe() -> [i32; 2] {
    let mut fds = [0; 2];
    ok(unsafe { libc::pipe(fds.as_mut_ptr()) });
    fds
}

pub fn restart_in_blocking_read() {
    arena::arm();
    handle(libc::SIGUSR1, on_signal, libc::SA_RESTART, false);
    let [r, w] = pipe();
    let t = thread::spawn(move || ok(unsafe { libc::read(r, at(4094, 10).ptr(), 10) }));
    let target = std::os::unix::thread::JoinHandleExt::as_pthread_t(&t);
    for i in 1..=5 {
        thread::sleep(Duration::from_millis(10));
        ok(unsafe { libc::pthread_kill(target, libc::SIGUSR1) });
        while CAUGHT.load(Ordering::SeqCst) < i {
            thread::yield_now();
        }
    }
    ok(unsafe { libc::write(w, b"done".as_ptr().cast(), 4) });
    assert_eq!(t.join().unwrap(), 4);
    assert_eq!(&at(4094, 4).bytes(), b"done");
}

pub fn interrupt_in_blocking_read() {
    arena::arm();
    handle(libc::SIGUSR1, on_signal, 0, false);
    let [r, _w] = pipe();
    let t = thread::spawn(move || fails(unsafe { libc::read(r, at(4094, 10).ptr(), 10) }, libc::EINTR));
    let target = std::os::unix::thread::JoinHandleExt::as_pthread_t(&t);
    thread::sleep(Duration::from_millis(30));
    ok(unsafe { libc::pthread_kill(target, libc::SIGUSR1) });
    t.join().unwrap();
    assert_eq!(CAUGHT.load(Ordering::SeqCst), 1);
}

/// An interval timer fires inside every part of the guard; nothing may be lost or torn.
pub fn many_signals_during_calls() {
    arena::arm();
    handle(libc::SIGALRM, on_signal, libc::SA_RESTART, false);
    let every = libc::timeval { tv_sec: 0, tv_usec: 100 };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    ok(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, null_mut()) });
    let [r, w] = pipe();
    for i in 0..20_000u64 {
        assert_eq!(ok(unsafe { libc::write(w, at(4090, 8).put(i).ptr(), 8) }), 8);
        assert_eq!(ok(unsafe { libc::read(r, at(8190, 8).ptr(), 8) }), 8);
        assert_eq!(at(8190, 8).get::<u64>(), i);
        if i % 1000 == 0 {
            thread::spawn(|| ()).join().unwrap();
            assert!(std::process::Command::new("/bin/true").status().unwrap().success());
        }
    }
    let off: libc::itimerval = unsafe { zeroed() };
    ok(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const off, null_mut()) });
    assert!(CAUGHT.load(Ordering::SeqCst) > 100);
}

pub fn masks_are_as_set() {
    arena::arm();
    handle(libc::SIGUSR1, on_signal, 0, false);
    let before = mask();
    let set =
        bit(libc::SIGUSR1) | bit(libc::SIGSYS) | bit(libc::SIGBUS) | bit(libc::SIGSEGV) | bit(libc::SIGKILL);
    let mut old = !0u64;
    ok(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const set, &raw mut old, 8) });
    assert_eq!(old, before);
    assert_eq!(mask(), before | bit(libc::SIGUSR1));
    ok(unsafe { libc::raise(libc::SIGUSR1) });
    assert!(guarded_call(0));
    assert_eq!(CAUGHT.load(Ordering::SeqCst), 0);
    ok(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const old, 0, 8) });
    assert_eq!(CAUGHT.load(Ordering::SeqCst), 1);
    fails(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, 77, &raw const old, 0, 8) }, libc::EINVAL);
    assert_eq!(mask(), before);
}

pub fn handler_masks_leave_ours() {
    arena::arm();
    handle(libc::SIGUSR1, on_signal, 0, true);
    ok(unsafe { libc::raise(libc::SIGUSR1) });
    assert_eq!(CAUGHT.load(Ordering::SeqCst), 1);
    let seen = MASK_SEEN.load(Ordering::SeqCst);
    let ours = bit(libc::SIGSYS) | bit(libc::SIGBUS) | bit(libc::SIGSEGV);
    assert_eq!(seen & ours, 0);
    assert_ne!(seen & bit(libc::SIGUSR2), 0);
    assert_eq!(mask() & bit(libc::SIGUSR2), 0);
}

pub fn old_handler_with_full_mask() {
    arena::make();
    handle(libc::SIGUSR1, on_signal, 0, true);
    arena::try_arm().unwrap();
    ok(unsafe { libc::raise(libc::SIGUSR1) });
    assert_eq!(CAUGHT.load(Ordering::SeqCst), 1);
}

/// `ppoll`, `pselect`, `epoll_pwait` and `sigsuspend` with every signal but one blocked.
pub fn masked_waits() {
    arena::arm();
    handle(libc::SIGUSR1, on_signal, 0, false);
    let usr1 = bit(libc::SIGUSR1);
    ok(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const usr1, 0, 8) });
    let mut all_but: libc::sigset_t = unsafe { zeroed() };
    unsafe {
        libc::sigfillset(&raw mut all_but);
        libc::sigdelset(&raw mut all_but, libc::SIGUSR1);
    }
    let epoll = ok(unsafe { libc::epoll_create1(0) }) as i32;
    let mut event: libc::epoll_event = unsafe { zeroed() };
    for i in 0..4 {
        ok(unsafe { libc::raise(libc::SIGUSR1) });
        assert_eq!(CAUGHT.load(Ordering::SeqCst), i);
        let answer = unsafe {
            match i {
                0 => libc::ppoll(null_mut(), 0, null(), &raw const all_but),
                1 => libc::pselect(0, null_mut(), null_mut(), null_mut(), null(), &raw const all_but),
                2 => libc::epoll_pwait(epoll, &raw mut event, 1, -1, &raw const all_but),
                _ => libc::sigsuspend(&raw const all_but),
            }
        };
        fails(answer, libc::EINTR);
        assert_eq!(CAUGHT.load(Ordering::SeqCst), i + 1);
        assert_ne!(mask() & usr1, 0);
    }
}

static ON_STACK: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_alternate(_: i32) {
    let here = 0u8;
    ON_STACK.store(&raw const here as usize, Ordering::SeqCst);
    let mut now: libc::stack_t = unsafe { zeroed() };
    ok(unsafe { libc::sigaltstack(null(), &raw mut now) });
    assert_eq!(now.ss_flags, libc::SS_ONSTACK);
    now.ss_flags = 0;
    fails(unsafe { libc::sigaltstack(&raw const now, null_mut()) }, libc::EPERM);
    assert!(guarded_call(0));
}

pub fn alternate_stack() {
    arena::arm();
    let mut space = vec![0u8; 64 << 10];
    let start = space.as_mut_ptr() as usize;
    let new = libc::stack_t { ss_sp: start as *mut _, ss_flags: 0, ss_size: space.len() };
    let mut old: libc::stack_t = unsafe { zeroed() };
    ok(unsafe { libc::sigaltstack(&raw const new, &raw mut old) });
    let mut now: libc::stack_t = unsafe { zeroed() };
    ok(unsafe { libc::sigaltstack(null(), &raw mut now) });
    assert_eq!((now.ss_sp as usize, now.ss_flags, now.ss_size), (start, 0, space.len()));
    handle(libc::SIGUSR1, on_alternate, libc::SA_ONSTACK, false);
    for _ in 0..3 {
        ok(unsafe { libc::raise(libc::SIGUSR1) });
        let seen = ON_STACK.swap(0, Ordering::SeqCst);
        assert!((start..start + space.len()).contains(&seen));
    }
    let small = libc::stack_t { ss_sp: start as *mut _, ss_flags: 0, ss_size: 100 };
    fails(unsafe { libc::sigaltstack(&raw const small, null_mut()) }, libc::ENOMEM);
    ok(unsafe { libc::sigaltstack(&raw const old, &raw mut now) });
    assert_eq!(now.ss_sp as usize, start);
    ok(unsafe { libc::sigaltstack(null(), &raw mut now) });
    assert_eq!(now.ss_flags, old.ss_flags);
}

/// Sets an alternate stack in the arena, for which the kernel needs its pages at any moment.
fn set_paged_stack(offset: usize) -> std::ops::Range<usize> {
    let place = at(offset, 64 << 10);
    let new = libc::stack_t { ss_sp: place.ptr(), ss_flags: 0, ss_size: place.len };
    ok(unsafe { libc::sigaltstack(&raw const new, null_mut()) });
    place.addr..place.addr + place.len
}

fn unset_stack() {
    let none = libc::stack_t { ss_sp: null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    ok(unsafe { libc::sigaltstack(&raw const none, null_mut()) });
}

fn raise_on(stack: &std::ops::Range<usize>) {
    ok(unsafe { libc::raise(libc::SIGUSR1) });
    assert!(stack.contains(&ON_STACK.swap(0, Ordering::SeqCst)));
}

/// Held from the call that sets it until another takes its place or its thread ends.
pub fn alternate_stack_in_paged_memory() {
    arena::arm();
    handle(libc::SIGUSR1, on_alternate, libc::SA_ONSTACK, false);
    for i in 0..5 {
        raise_on(&set_paged_stack(i * MIB + 100));
    }
    let here = set_paged_stack(9 * MIB);
    thread::spawn(|| {
        raise_on(&set_paged_stack(10 * MIB));
        raise_on(&set_paged_stack(11 * MIB));
    })
    .join()
    .unwrap();
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        tmem_sys::guard::arm_after_fork().unwrap();
        raise_on(&here);
        unsafe { libc::_exit(4) };
    }
    let mut status = 0;
    ok(unsafe { libc::waitpid(pid, &raw mut status, 0) });
    assert_eq!(status, 4 << 8);
    raise_on(&here);
    arena::set_limits(usize::MAX, 4096);
    let large = libc::stack_t { ss_sp: at(0, 1).ptr(), ss_flags: 0, ss_size: MIB };
    fails(unsafe { libc::sigaltstack(&raw const large, null_mut()) }, libc::ENOMEM);
    assert!(arena::last_notice().starts_with("sigaltstack was refused"));
    arena::set_limits(usize::MAX, usize::MAX);
    raise_on(&here);
    unset_stack();
}

const MIB: usize = 1 << 20;

/// Threads that have one when the guard comes.
pub fn alternate_stack_from_before() {
    arena::make();
    handle(libc::SIGUSR1, on_alternate, libc::SA_ONSTACK, false);
    let here = set_paged_stack(0);
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (said, hear) = std::sync::mpsc::channel();
    let other = thread::spawn(move || {
        let there = set_paged_stack(MIB);
        said.send(()).unwrap();
        wait.recv().unwrap();
        raise_on(&there);
    });
    hear.recv().unwrap();
    arena::try_arm().unwrap();
    raise_on(&here);
    go.send(()).unwrap();
    other.join().unwrap();
    unset_stack();
}

/// The program installs, reads and removes its SIGSYS handler; the guard's stays.
pub fn actions_are_virtual() {
    arena::arm();
    let ask = || unsafe {
        let mut now: libc::sigaction = zeroed();
        ok(libc::sigaction(libc::SIGSYS, null(), &raw mut now));
        now.sa_sigaction
    };
    assert_eq!(ask(), libc::SIG_DFL);
    handle(libc::SIGSYS, on_signal, 0, false);
    assert_eq!(ask(), on_signal as *const () as usize);
    assert!(guarded_call(0));
    unsafe { libc::signal(libc::SIGSYS, libc::SIG_IGN) };
    assert!(guarded_call(0));
    assert_eq!(unsafe { libc::signal(libc::SIGSYS, libc::SIG_DFL) }, libc::SIG_IGN);
    assert!(guarded_call(0));
}

pub fn sent_sigsys_reaches_the_program() {
    arena::arm();
    handle(libc::SIGSYS, on_signal, 0, false);
    let me = std::process::id().to_string();
    assert!(std::process::Command::new("/bin/kill").args(["-SYS", &me]).status().unwrap().success());
    while CAUGHT.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    assert!(guarded_call(0));
}

// `catch(f)` calls `f` and answers 0, or 1 when `leave()` was called meanwhile: `setjmp` and `longjmp` in a form that a compiler
// which knows nothing of calls that return twice can live with.
std::arch::global_asm!(
    r#"
    .globl guard_test_catch, guard_test_leave
guard_test_catch:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    sub rsp, 8
    mov [rip + guard_test_stack], rsp
    call rdi
    xor eax, eax
2:  add rsp, 8
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
guard_test_leave:
    mov rsp, [rip + guard_test_stack]
    mov eax, 1
    jmp 2b
    .local guard_test_stack
    .comm guard_test_stack, 8, 8
"#
);

unsafe extern "C" {
    fn guard_test_catch(f: extern "C" fn()) -> i32;
    fn guard_test_leave() -> !;
}

static NEVER: AtomicI32 = AtomicI32::new(0);

extern "C" fn jump_out(_: i32) {
    let own = bit(libc::SIGUSR1);
    ok(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_UNBLOCK, &raw const own, 0, 8) });
    unsafe { guard_test_leave() }
}

extern "C" fn read_for_ever() {
    unsafe { libc::read(NEVER.load(Ordering::SeqCst), at(4094, 10).ptr(), 10) };
}

/// A handler that never returns leaves a call of the guard behind; what it held is found and released.
pub fn long_jump_out_of_handler() {
    arena::arm();
    handle(libc::SIGUSR1, jump_out, 0, false);
    let [r, w] = pipe();
    NEVER.store(r, Ordering::SeqCst);
    // To this very thread: another one would jump to a stack that is not its own.
    let reader = unsafe { libc::pthread_self() };
    for _ in 0..3 {
        let alarm = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            ok(unsafe { libc::pthread_kill(reader, libc::SIGUSR1) });
        });
        assert_eq!(unsafe { guard_test_catch(read_for_ever) }, 1);
        alarm.join().unwrap();
    }
    ok(unsafe { libc::write(w, at(0, 3).set(b"abc").ptr(), 3) });
    assert_eq!(ok(unsafe { libc::read(r, at(4094, 10).ptr(), 10) }), 3);
    assert!(guarded_call(0));
}
