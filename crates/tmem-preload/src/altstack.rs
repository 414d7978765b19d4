// SPDX-License-Identifier: Apache-2.0
//! Owns: `sigaltstack`. The kernel puts a signal's frame on such a stack, and where it serves no missing page of its own it kills
//! the process instead. So its pages stay in RAM for as long as it is one. Caller: `hooks`, with signals blocked. No locks but the
//! pager's.

use crate::door::{door, errno, parts};
use crate::space::runs;
use std::ops::Range;
use tmem_pager::Kind;
use tmem_sys::syscall::call;
use tmem_sys::{Errno, PAGE_SIZE};

/// `stack_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stack {
    start: usize,
    flags: i32,
    len: usize,
}

const NONE: Stack = Stack { start: 0, flags: libc::SS_DISABLE, len: 0 };

impl Stack {
    fn pages(&self) -> Range<usize> {
        if self.flags & libc::SS_DISABLE != 0 {
            return 0..0;
        }
        let end = self.start.saturating_add(self.len).checked_next_multiple_of(PAGE_SIZE);
        self.start & !(PAGE_SIZE - 1)..end.unwrap_or(usize::MAX & !(PAGE_SIZE - 1))
    }
}

/// `sigaltstack`.
///
/// # Errors
/// The kernel's; `ENOMEM` also where the budget cannot spare so much.
///
/// # Safety
/// The pointers are null or the program's.
pub unsafe fn change(new: *const Stack, old: *mut Stack) -> Result<(), Errno> {
    // Read and written here, not by the kernel: it could not fetch a page of ours that is out.
    // SAFETY: passed on to the caller.
    let wanted = unsafe { new.as_ref() }.copied();
    let mut before = NONE;
    let at = wanted.as_ref().map_or(0, |stack| core::ptr::from_ref(stack) as usize);
    if let Some(stack) = &wanted {
        keep(stack)?;
    }
    // SAFETY: null or a live value, and a live place.
    let done = unsafe { call(libc::SYS_sigaltstack, [at, &raw mut before as usize]) };
    if let (Some(stack), Some(door)) = (&wanted, door()) {
        // What is no such stack any more, or did not become one.
        let gone = if done.is_ok() { before.pages() } else { stack.pages() };
        for (part, _) in parts(gone).filter(|(_, door)| door.is_some()) {
            let _ = door.pager.unlock(part.start, part.len());
        }
        // The two may share pages.
        keep(if done.is_ok() { stack } else { &before })?;
    }
    done?;
    if !old.is_null() {
        // SAFETY: passed on to the caller.
        unsafe { old.write(before) };
    }
    Ok(())
}

fn keep(stack: &Stack) -> Result<(), Errno> {
    for (part, door) in parts(stack.pages()) {
        let Some(door) = door else { continue };
        for (run, _) in runs(door, part).filter(|(_, kind)| *kind == Kind::Managed) {
            door.pager.lock(run.start, run.len()).map_err(|e| errno(&e))?;
        }
    }
    Ok(())
}
