// SPDX-License-Identifier: Apache-2.0
//! Owns: the kernel's view of signal actions, our handlers in it, and what the program believes is installed
//! instead (its own action, which events that are not ours are passed on to).
//! Callers: `entry`, `guard`. Law: the program's handlers keep working in any order of installing and removing.

use crate::errno::Errno;
use crate::stub;
use crate::syscall::{call, getpid, gettid};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, Ordering};

/// `struct sigaction` as the kernel takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    pub handler: usize,
    pub flags: u64,
    pub restorer: usize,
    pub mask: u64,
}

pub const SA_RESTORER: u64 = 0x0400_0000;
const NO_ACTION: Action = Action { handler: 0, flags: 0, restorer: 0, mask: 0 };

pub const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Signals that an instruction raises on its own thread: blocking one of them turns it into a kill.
pub const SYNCHRONOUS: u64 = bit(libc::SIGSYS)
    | bit(libc::SIGSEGV)
    | bit(libc::SIGBUS)
    | bit(libc::SIGILL)
    | bit(libc::SIGFPE)
    | bit(libc::SIGTRAP);
/// What our handlers and lock sections block.
pub const ALL_BUT_SYNCHRONOUS: u64 = !SYNCHRONOUS;

/// Never blocked: the guard, the fault entry, and what a fault that is nobody's becomes.
pub const OURS: u64 = bit(libc::SIGSYS) | bit(libc::SIGBUS) | bit(libc::SIGSEGV);

/// A handler with three arguments.
pub type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t);

/// The program's own actions for the signals we take, seeded with what was there before us.
struct UserActions {
    version: AtomicU32,
    actions: UnsafeCell<[Action; 65]>,
}

// SAFETY: written under the version count (odd while changing) and read back until it did not move.
unsafe impl Sync for UserActions {}

static USER: UserActions =
    UserActions { version: AtomicU32::new(0), actions: UnsafeCell::new([NO_ACTION; 65]) };

/// What the program believes is installed for `signal`.
pub fn user_action(signal: i32) -> Action {
    loop {
        let v = USER.version.load(Ordering::Acquire);
        if v & 1 == 0 {
            // SAFETY: a volatile copy of plain data; a torn one is thrown away by the version check.
            let action = unsafe { (&raw const (*USER.actions.get())[signal as usize]).read_volatile() };
            std::sync::atomic::fence(Ordering::Acquire);
            if USER.version.load(Ordering::Relaxed) == v {
                return action;
            }
        }
        std::hint::spin_loop();
    }
}

/// Changes what the program believes is installed; the old action.
pub fn set_user_action(signal: i32, action: Action) -> Action {
    let mut v = USER.version.load(Ordering::Relaxed);
    loop {
        match USER.version.compare_exchange_weak(v & !1, (v & !1) + 1, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => break,
            Err(now) => v = now,
        }
    }
    // SAFETY: the odd version makes this thread the only writer, and readers retry.
    let old = unsafe {
        let slot = &raw mut (*USER.actions.get())[signal as usize];
        let old = slot.read_volatile();
        slot.write_volatile(action);
        old
    };
    USER.version.fetch_add(1, Ordering::Release);
    old
}

/// The action installed in the kernel, after setting `new` if given.
///
/// # Errors
/// The kernel's.
pub fn kernel_action(signal: i32, new: Option<&Action>) -> Result<Action, Errno> {
    let mut old = NO_ACTION;
    let new = new.map_or(0, |a| std::ptr::from_ref(a) as usize);
    // SAFETY: both pointers are null or live values of the kernel's layout.
    unsafe { call(libc::SYS_rt_sigaction, [signal as usize, new, &raw mut old as usize, 8])? };
    Ok(old)
}

/// Puts our handler in front for `signal`. What was there becomes the program's own action.
///
/// # Errors
/// The kernel's.
pub fn install(signal: i32, handler: Handler, flags: i32, mask: u64) -> Result<(), Errno> {
    let action = Action {
        handler: handler as usize,
        flags: flags as u64 | libc::SA_SIGINFO as u64 | SA_RESTORER,
        restorer: stub::restorer(),
        mask,
    };
    let words = [action.handler, action.flags as usize, action.restorer, action.mask as usize];
    stub::set_borrowers_action([signal as usize, words[0], words[1], words[2], words[3]]);
    let before = kernel_action(signal, None)?;
    if before.handler == action.handler {
        return Ok(());
    }
    set_user_action(signal, before);
    kernel_action(signal, Some(&action)).map(drop)
}

/// Hands an event that is not ours to the program's own action, as the kernel would have.
///
/// # Safety
/// The two pointers must be those that the kernel gave the running handler.
pub unsafe fn chain(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    let action = user_action(signal);
    match action.handler {
        // SAFETY: the caller's promise is passed on.
        libc::SIG_IGN if unsafe { is_sent(info) } => {}
        libc::SIG_DFL | libc::SIG_IGN => default(signal),
        handler if action.flags & libc::SA_SIGINFO as u64 != 0 => {
            // SAFETY: the program installed this address as a three-argument handler for this signal.
            let f: Handler = unsafe { std::mem::transmute(handler) };
            f(signal, info, context);
        }
        handler => {
            // SAFETY: the program installed this address as a one-argument handler for this signal.
            let f: extern "C" fn(i32) = unsafe { std::mem::transmute(handler) };
            f(signal);
        }
    }
}

/// Whether the event was sent by a process rather than raised by an instruction.
///
/// # Safety
/// `info` must be what the kernel gave the running handler.
pub unsafe fn is_sent(info: *const libc::siginfo_t) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*info).si_code <= 0 }
}

/// The default action: the signal is raised again with nothing in its way, on return from the handler.
fn default(signal: i32) {
    let _ = kernel_action(signal, Some(&NO_ACTION));
    // SAFETY: no pointers. The signal stays pending until the handler returns and restores the mask, or comes at once.
    let _ = unsafe { call(libc::SYS_tgkill, [getpid() as usize, gettid() as usize, signal as usize]) };
}

/// Blocks every signal but the synchronous ones in this thread while it lives. For sections that hold a lock
/// which a signal handler's page fault would need.
pub struct Blocked(u64);

impl Blocked {
    pub fn new() -> Blocked {
        Blocked(set_mask(ALL_BUT_SYNCHRONOUS, libc::SIG_BLOCK))
    }
}

impl Default for Blocked {
    fn default() -> Self {
        Blocked::new()
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        set_mask(self.0, libc::SIG_SETMASK);
    }
}

/// Blocks what [`Blocked`] blocks, without a guard: for the handlers around a fork. The old mask.
pub fn block_all() -> u64 {
    set_mask(ALL_BUT_SYNCHRONOUS, libc::SIG_BLOCK)
}

/// Restores a mask.
pub fn restore_mask(mask: u64) {
    set_mask(mask, libc::SIG_SETMASK);
}

/// Changes this thread's mask through the stub; the old one.
pub fn set_mask(mask: u64, how: i32) -> u64 {
    let mut old = 0u64;
    // SAFETY: both pointers are live 8-byte masks.
    let _ = unsafe {
        call(libc::SYS_rt_sigprocmask, [how as usize, &raw const mask as usize, &raw mut old as usize, 8])
    };
    old
}
