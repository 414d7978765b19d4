// SPDX-License-Identifier: Apache-2.0
//! The SIGSYS handler: takes a dispatched system call apart, sends it to the part of the guard that knows it, and puts the answer
//! where the kernel would have. Called by the kernel only.
//!
//! Law: re-entrant at every instruction (other signals nest in it and make calls of their own, which trap again), all state on
//! the stack, the interrupted program's registers as after a plain system call. It is entered with the program's own mask.

use super::frame::Frame;
use super::ordinary::{Args, TOO_LARGE};
use super::standing::{Kept, Kind};
use super::uncovered::{Uncovered, Why};
use super::{
    CALLS, PR_SET_SYSCALL_USER_DISPATCH, clone, count, descriptors, exec, hold, is_armed, mask, memory,
    message, ordinary, refer, refuse, standing, threads, transfer,
};
use crate::signals;
use crate::stub;

/// `si_code` of a dispatched system call.
const SYS_USER_DISPATCH: i32 = 2;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

const URING: &str = "io_uring was refused with ENOSYS: it uses memory without system calls, which the guard cannot see; \
     let the kernel serve the faults (grant access to /dev/userfaultfd, or CAP_SYS_PTRACE) to use it on paged memory";
const AIO: &str = "Linux AIO (io_setup) was refused with ENOSYS: it uses memory without system calls, which the guard cannot see; \
     let the kernel serve the faults (grant access to /dev/userfaultfd, or CAP_SYS_PTRACE) to use it on paged memory";
const DISPATCH: &str = "PR_SET_SYSCALL_USER_DISPATCH was refused with EPERM: the guard of paged memory uses it in this process; \
     let the kernel serve the faults (grant access to /dev/userfaultfd, or CAP_SYS_PTRACE) to have it free";

/// Installs the handler.
pub(super) fn install() -> Result<(), Uncovered> {
    signals::install(libc::SIGSYS, on_sigsys, libc::SA_NODEFER | libc::SA_RESTART, 0)
        .map_err(|e| Uncovered::process(Why::Refused(e.0)))
}

extern "C" fn on_sigsys(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    let event = Event::of(info);
    // SAFETY: the kernel passes the frame of this very signal, which lives until the handler returns.
    let mut frame = unsafe { Frame::new(context) };
    match event.code {
        SYS_USER_DISPATCH => dispatch(&mut frame, event.arch),
        libc::SI_QUEUE if event.value == threads::question() => threads::answer(&mut frame),
        // SAFETY: these are the kernel's arguments of this handler.
        _ => unsafe { signals::chain(signal, info, context) },
    }
}

/// What the handler needs of `siginfo_t`.
struct Event {
    code: i32,
    value: u64,
    arch: u32,
}

impl Event {
    fn of(info: *const libc::siginfo_t) -> Event {
        let words = info.cast::<u32>();
        // SAFETY: the kernel's `siginfo_t` has 32 words: `si_code` is the third. A queued signal's value is the seventh and
        // eighth; for SIGSYS the call's architecture is the eighth (after the 8-byte address and the number).
        unsafe {
            Event {
                code: words.add(2).read() as i32,
                value: u64::from(words.add(6).read()) | u64::from(words.add(7).read()) << 32,
                arch: words.add(7).read(),
            }
        }
    }
}

fn dispatch(frame: &mut Frame, arch: u32) {
    if !is_armed() {
        threads::leave();
        frame.run_again();
        return;
    }
    count(&CALLS);
    hold::reclaim(frame.stack());
    let answer = if arch == AUDIT_ARCH_X86_64 { route(frame) } else { Some(-(libc::ENOSYS as isize)) };
    if let Some(answer) = answer {
        frame.set_answer(answer);
    }
}

/// Runs the call; None where the program goes on elsewhere with its registers as they are.
fn route(frame: &mut Frame) -> Option<isize> {
    let (nr, a) = (frame.number(), frame.args());
    if let Some(answer) = refer::zerocopy(nr, a) {
        return Some(answer);
    }
    if let Some(shape) = transfer::shape(nr) {
        return Some(transfer::call(nr, a, shape));
    }
    if nr == libc::SYS_munmap as usize && memory::takes_stack(a, frame.stack()) {
        return clone::without_stack(frame);
    }
    if let Some(answer) = memory::call(nr, a).or_else(|| descriptors::call(nr, a)) {
        return Some(answer);
    }
    Some(match nr as libc::c_long {
        libc::SYS_rt_sigreturn => {
            frame.return_from_signal();
            return None;
        }
        libc::SYS_clone | libc::SYS_clone3 | libc::SYS_fork | libc::SYS_vfork => {
            return clone::call(frame, nr);
        }
        libc::SYS_rt_sigprocmask => mask::sigprocmask(frame, a),
        libc::SYS_rt_sigaction => mask::sigaction(a),
        libc::SYS_sigaltstack => mask::sigaltstack(frame, a),
        libc::SYS_rt_sigsuspend => mask::wait_masked(nr, a, 0),
        libc::SYS_ppoll => mask::wait_masked(nr, a, 3),
        libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => mask::wait_masked(nr, a, 4),
        libc::SYS_pselect6 => mask::pselect6(nr, a),
        libc::SYS_set_robust_list => named(nr, a, Kind::RobustList, a[1]),
        libc::SYS_set_tid_address => named(nr, a, Kind::ClearTid, size_of::<i32>()),
        libc::SYS_rseq => named(nr, a, Kind::Rseq, if a[2] & RSEQ_UNREGISTER == 0 { a[1] } else { 0 }),
        libc::SYS_vmsplice => refer::vmsplice(nr, a),
        libc::SYS_execve => exec::call(nr, a, 0),
        libc::SYS_execveat => exec::call(nr, a, 1),
        libc::SYS_exit => {
            let tid = crate::syscall::gettid();
            threads::remove(tid);
            hold::reclaim_thread(tid);
            standing::leave(tid);
            ordinary::issue(nr, a)
        }
        // Its other arguments are left-overs: what they point to would be held for ever by a process that borrows this memory.
        libc::SYS_exit_group => {
            hold::reclaim_thread(crate::syscall::gettid());
            ordinary::issue(nr, a)
        }
        libc::SYS_io_uring_setup => refuse(libc::ENOSYS, URING),
        libc::SYS_io_setup => refuse(libc::ENOSYS, AIO),
        libc::SYS_prctl if a[0] == PR_SET_SYSCALL_USER_DISPATCH => refuse(libc::EPERM, DISPATCH),
        _ if nr == stub::HELLO => threads::hello(),
        _ if nr == stub::GOODBYE => clone::goodbye(a[0]),
        _ if message::is_message(nr) => message::call(nr, a),
        _ => ordinary::call(nr, a),
    })
}

/// A call that names a place (argument 0) which the kernel uses for as long as the thread lives.
fn named(nr: usize, a: Args, kind: Kind, len: usize) -> isize {
    let Some(kept) = Kept::new(a[0], if a[0] == 0 { 0 } else { len.min(crate::PAGE_SIZE) }) else {
        return refuse(libc::ENOMEM, TOO_LARGE);
    };
    let answer = ordinary::issue(nr, a);
    if answer >= 0 {
        kept.stand(kind);
    }
    answer
}

const RSEQ_UNREGISTER: usize = 1;
