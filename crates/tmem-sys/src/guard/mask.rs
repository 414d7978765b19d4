// SPDX-License-Identifier: Apache-2.0
//! Signal masks and actions of the program, kept so that our signals can always be delivered: a dispatched call with SIGSYS blocked,
//! or a fault with SIGBUS blocked, kills the process. Called by `trap` for the calls that change masks, and by `arm`.
//!
//! The program is told that it got what it asked for. Its mask is the one in the signal frame, which the kernel takes back when
//! the handler returns; ours in the handler is the same, so nothing is lost in between. No locks but the version count of
//! `signals`, taken with signals blocked.

use super::frame::Frame;
use super::ordinary::Args;
use super::standing::{Kept, Kind};
use super::{refuse, user};
use crate::signals::{self, Action, OURS, bit};
use crate::stub;
use crate::syscall::raw6;

/// The kernel lets nobody block these.
const UNBLOCKABLE: u64 = bit(libc::SIGKILL) | bit(libc::SIGSTOP);
const MASK_SIZE: usize = 8;

// SAFETY: four words.
unsafe impl user::Plain for Action {}

const EFAULT: isize = -(libc::EFAULT as isize);
const EINVAL: isize = -(libc::EINVAL as isize);

/// `rt_sigprocmask`, on the frame.
pub(super) fn sigprocmask(frame: &mut Frame, a: Args) -> isize {
    if a[3] != MASK_SIZE {
        return EINVAL;
    }
    let old = frame.mask();
    if a[1] != 0 {
        let Some(set) = user::read::<u64>(a[1]) else { return EFAULT };
        let new = match a[0] as i32 {
            libc::SIG_BLOCK => old | set,
            libc::SIG_UNBLOCK => old & !set,
            libc::SIG_SETMASK => set,
            _ => return EINVAL,
        };
        frame.set_mask(new & !OURS & !UNBLOCKABLE);
    }
    if a[2] != 0 && !user::write(a[2], old) {
        return EFAULT;
    }
    0
}

/// `rt_sigaction`: the mask is stripped; the action for a signal we have taken is kept beside the kernel's.
pub(super) fn sigaction(a: Args) -> isize {
    if a[3] != MASK_SIZE {
        return EINVAL;
    }
    let new = if a[1] == 0 {
        None
    } else {
        let Some(action) = user::read::<Action>(a[1]) else { return EFAULT };
        Some(action)
    };
    let signal = a[0] as i32;
    let old = if is_taken(signal) { virtual_action(signal, new) } else { real_action(signal, new) };
    match old {
        Ok(old) if a[2] != 0 && !user::write(a[2], old) => EFAULT,
        Ok(_) => 0,
        Err(e) => -(e.0 as isize),
    }
}

/// Whether the kernel's action for a signal is a handler of ours; they all return through the stub.
fn is_taken(signal: i32) -> bool {
    (1..=64).contains(&signal)
        && OURS & bit(signal) != 0
        && signals::kernel_action(signal, None).is_ok_and(|k| k.restorer == stub::restorer())
}

fn virtual_action(signal: i32, new: Option<Action>) -> Result<Action, crate::Errno> {
    // A handler that interrupts the change and asks for the action would wait for itself.
    let _blocked = signals::Blocked::new();
    Ok(match new {
        // The table is the lender's; actions of a borrower end with the program that it executes.
        Some(action) if !user::is_borrower() => signals::set_user_action(signal, action),
        _ => signals::user_action(signal),
    })
}

fn real_action(signal: i32, new: Option<Action>) -> Result<Action, crate::Errno> {
    let stripped = new.map(|action| Action { mask: action.mask & !OURS, ..action });
    signals::kernel_action(signal, stripped.as_ref())
}

/// Strips the masks of the handlers that were installed before the guard.
pub(super) fn strip_installed() {
    for signal in 1..=64 {
        let Ok(action) = signals::kernel_action(signal, None) else { continue };
        let handled = action.handler != libc::SIG_DFL && action.handler != libc::SIG_IGN;
        if handled && action.mask & OURS != 0 {
            let _ = signals::kernel_action(signal, Some(&Action { mask: action.mask & !OURS, ..action }));
        }
    }
}

/// Issues a call that waits under another mask (argument `at`, its size in the next), with that mask stripped.
pub(super) fn wait_masked(nr: usize, mut a: Args, at: usize) -> isize {
    let mut stripped = 0u64;
    if a[at] != 0 && a[at + 1] == MASK_SIZE {
        let Some(mask) = user::read::<u64>(a[at]) else { return EFAULT };
        stripped = mask & !OURS;
        a[at] = &raw mut stripped as usize;
    }
    let answer = super::ordinary::call(nr, a);
    // The copy must outlive the call.
    core::hint::black_box(&stripped);
    answer
}

/// `pselect6` has mask and size behind one more pointer.
pub(super) fn pselect6(nr: usize, mut a: Args) -> isize {
    let mut pair = [0usize; 2];
    let mut stripped = 0u64;
    if a[5] != 0 {
        let Some(given) = user::read::<[usize; 2]>(a[5]) else { return EFAULT };
        pair = given;
        if pair[0] != 0 && pair[1] == MASK_SIZE {
            let Some(mask) = user::read::<u64>(pair[0]) else { return EFAULT };
            stripped = mask & !OURS;
            pair[0] = &raw mut stripped as usize;
        }
        a[5] = pair.as_mut_ptr() as usize;
    }
    let answer = super::ordinary::call(nr, a);
    core::hint::black_box((&stripped, &pair));
    answer
}

/// `sigaltstack`: set now, for the checks of the kernel, and in the frame, from which the kernel sets it again. One in paged
/// memory is held while it is set: a signal's frame could not be written to a page that is out.
pub(super) fn sigaltstack(frame: &mut Frame, a: Args) -> isize {
    let old = frame.alt_stack_as_seen();
    if a[0] != 0 {
        let Some(new) = user::read::<[u64; 3]>(a[0]) else { return EFAULT };
        let Some(kept) = keep(new) else { return refuse(libc::ENOMEM, ALT_STACK) };
        // SAFETY: `new` is a live `stack_t`; the kernel checks the stack that it names.
        let answer = unsafe { raw6(libc::SYS_sigaltstack as usize, [new.as_ptr() as usize, 0, 0, 0, 0, 0]) };
        if answer < 0 {
            return answer;
        }
        frame.set_alt_stack(new);
        kept.stand(Kind::AltStack);
    }
    if a[1] != 0 && !user::write(a[1], old) {
        return EFAULT;
    }
    0
}

const ALT_STACK: &str = "sigaltstack was refused with ENOMEM: the stack lies in paged memory and is larger than what may be held in RAM; \
     use a smaller one, raise the RAM budget, or keep it outside paged memory";

fn keep([base, flags, size]: [u64; 3]) -> Option<Kept> {
    let none = flags as u32 & libc::SS_DISABLE as u32 != 0;
    Kept::new(base as usize, if none { 0 } else { size as usize })
}

/// A thread comes under the guard with the alternate stack that it has.
pub(super) fn keep_alt_stack(stack: [u64; 3]) {
    match keep(stack) {
        Some(kept) => kept.stand(Kind::AltStack),
        None => super::notice(ALT_STACK_LOST),
    }
}

const ALT_STACK_LOST: &str = "an alternate signal stack in paged memory is larger than what may be held in RAM: a signal that comes while it is out \
     ends the process; use a smaller one, raise the RAM budget, or keep it outside paged memory";

/// The calling thread's alternate stack.
pub(super) fn alt_stack() -> [u64; 3] {
    let mut now = [0u64; 3];
    // SAFETY: `now` is a live `stack_t`.
    unsafe { raw6(libc::SYS_sigaltstack as usize, [0, now.as_mut_ptr() as usize, 0, 0, 0, 0]) };
    now
}
