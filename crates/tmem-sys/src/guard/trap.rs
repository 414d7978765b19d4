// SPDX-License-Identifier: Apache-2.0
//! The SIGSYS handler: takes a dispatched system call apart, sends it to the part of the guard that knows it, and puts the answer
//! where the kernel would have. Called by the kernel only.
//!
//! Law: re-entrant at every instruction (other signals nest in it and make calls of their own, which trap again), all state on
//! the stack, the interrupted program's registers as after a plain system call. It is entered with the program's own mask.

use super::ordinary::Args;
use super::uncovered::{Uncovered, Why};
use super::{
    CALLS, PR_SET_SYSCALL_USER_DISPATCH, clone, count, descriptors, exec, hold, is_armed, mask, memory,
    message, ordinary, refer, refuse, threads, transfer,
};
use crate::signals;
use crate::stub;

/// `si_code` of a dispatched system call.
const SYS_USER_DISPATCH: i32 = 2;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// Both encodings of `syscall`, and `int $0x80`, take two bytes.
const CALL_INSTRUCTION: usize = 2;

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
        libc::SYS_vmsplice => refer::vmsplice(nr, a),
        libc::SYS_execve => exec::call(nr, a, 0),
        libc::SYS_execveat => exec::call(nr, a, 1),
        libc::SYS_exit => {
            let tid = crate::syscall::gettid();
            threads::remove(tid);
            hold::reclaim_thread(tid);
            ordinary::issue(nr, a)
        }
        libc::SYS_io_uring_setup => refuse(libc::ENOSYS, URING),
        libc::SYS_io_setup => refuse(libc::ENOSYS, AIO),
        libc::SYS_prctl if a[0] == PR_SET_SYSCALL_USER_DISPATCH => refuse(libc::EPERM, DISPATCH),
        _ if nr == stub::HELLO => threads::hello(),
        _ if message::is_message(nr) => message::call(nr, a),
        _ => ordinary::call(nr, a),
    })
}

/// The interrupted program's registers, mask and alternate stack, as the kernel takes them back.
pub(super) struct Frame {
    context: *mut libc::ucontext_t,
}

/// The kernel's `ucontext`: after flags and link comes the stack, then 256 bytes of registers, then 8 bytes of mask. The C
/// library's type is longer, so the mask is never touched through it.
const MASK_OFFSET: usize = 296;

impl Frame {
    /// # Safety
    /// `context` must be the third argument of a signal handler that has not returned.
    unsafe fn new(context: *mut libc::ucontext_t) -> Frame {
        Frame { context }
    }

    fn reg(&self, index: i32) -> usize {
        // SAFETY: by `new`, the frame lives; the register file has 23 entries and the constants are below that.
        unsafe { (*self.context).uc_mcontext.gregs[index as usize] as usize }
    }

    fn set_reg(&mut self, index: i32, value: usize) {
        // SAFETY: as in `reg`.
        unsafe { (*self.context).uc_mcontext.gregs[index as usize] = value as i64 }
    }

    fn number(&self) -> usize {
        self.reg(libc::REG_RAX)
    }

    pub(super) fn args(&self) -> Args {
        [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10, libc::REG_R8, libc::REG_R9]
            .map(|r| self.reg(r))
    }

    fn set_answer(&mut self, answer: isize) {
        self.set_reg(libc::REG_RAX, answer as usize);
    }

    pub(super) fn pc(&self) -> usize {
        self.reg(libc::REG_RIP)
    }

    pub(super) fn set_pc(&mut self, pc: usize) {
        self.set_reg(libc::REG_RIP, pc);
    }

    pub(super) fn stack(&self) -> usize {
        self.reg(libc::REG_RSP)
    }

    /// Makes the program execute the call once more, natively.
    pub(super) fn run_again(&mut self) {
        let pc = self.pc() - CALL_INSTRUCTION;
        self.set_pc(pc);
    }

    /// `rt_sigreturn` works on the stack pointer: the program makes it from the stub, on its own stack. The mask that it brings
    /// back may be older than the guard.
    fn return_from_signal(&mut self) {
        let mask = (self.stack() + MASK_OFFSET) as *mut u64;
        // SAFETY: at `rt_sigreturn` the stack pointer is at the `ucontext` of the program's signal frame; the kernel reads it next.
        unsafe { mask.write_unaligned(mask.read_unaligned() & !mask::OURS) };
        self.set_pc(stub::sigreturn_call());
    }

    fn mask_place(&self) -> *mut u64 {
        self.context.cast::<u8>().wrapping_add(MASK_OFFSET).cast()
    }

    pub(super) fn mask(&self) -> u64 {
        // SAFETY: by `new`, the frame lives, and the kernel's frame has 8 bytes of mask here.
        unsafe { self.mask_place().read_unaligned() }
    }

    pub(super) fn set_mask(&mut self, mask: u64) {
        // SAFETY: as in `mask`.
        unsafe { self.mask_place().write_unaligned(mask) }
    }

    /// Sets what `rt_sigreturn` makes the alternate stack.
    pub(super) fn set_alt_stack(&mut self, new: [u64; 3]) {
        // SAFETY: by `new`, the frame lives; `stack_t` is 24 bytes with padding after the flags.
        unsafe { (&raw mut (*self.context).uc_stack).cast::<[u64; 3]>().write(new) }
    }

    /// The alternate stack as `sigaltstack` reports it: the frame keeps the flags that were set, not whether it is in use.
    pub(super) fn alt_stack_as_seen(&self) -> [u64; 3] {
        // SAFETY: as in `set_alt_stack`.
        let [base, flags, size] = unsafe { (&raw const (*self.context).uc_stack).cast::<[u64; 3]>().read() };
        let kept = flags as u32 & SS_AUTODISARM;
        let sp = self.stack() as u64;
        let state = if size == 0 {
            libc::SS_DISABLE as u32
        } else if kept == 0 && sp > base && sp - base <= size {
            libc::SS_ONSTACK as u32
        } else {
            0
        };
        [base, u64::from(state | kept), size]
    }
}

const SS_AUTODISARM: u32 = 1 << 31;
