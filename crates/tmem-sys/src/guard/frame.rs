// SPDX-License-Identifier: Apache-2.0
//! What a signal interrupted: the program's registers, mask and alternate stack, in the frame from which the kernel takes them
//! back. Made by `trap` for each SIGSYS; changed by whoever answers the call. No locks.

use super::ordinary::Args;
use crate::signals::OURS;
use crate::stub;

/// Both encodings of `syscall`, and `int $0x80`, take two bytes.
const CALL_INSTRUCTION: usize = 2;

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
    pub(super) unsafe fn new(context: *mut libc::ucontext_t) -> Frame {
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

    pub(super) fn number(&self) -> usize {
        self.reg(libc::REG_RAX)
    }

    pub(super) fn args(&self) -> Args {
        [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10, libc::REG_R8, libc::REG_R9]
            .map(|r| self.reg(r))
    }

    pub(super) fn set_answer(&mut self, answer: isize) {
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
    pub(super) fn return_from_signal(&mut self) {
        let mask = (self.stack() + MASK_OFFSET) as *mut u64;
        // SAFETY: at `rt_sigreturn` the stack pointer is at the `ucontext` of the program's signal frame; the kernel reads it next.
        unsafe { mask.write_unaligned(mask.read_unaligned() & !OURS) };
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

    /// The alternate stack that `rt_sigreturn` will set.
    pub(super) fn alt_stack(&self) -> [u64; 3] {
        // SAFETY: as in `set_alt_stack`.
        unsafe { (&raw const (*self.context).uc_stack).cast::<[u64; 3]>().read() }
    }

    /// The alternate stack as `sigaltstack` reports it: the frame keeps the flags that were set, not whether it is in use.
    pub(super) fn alt_stack_as_seen(&self) -> [u64; 3] {
        let [base, flags, size] = self.alt_stack();
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
