// SPDX-License-Identifier: Apache-2.0
//! Owns: what stands in for `execve`. A limit outlives the program that had it, and the kernel's is higher than the program's own
//! while there is an arena (see `rlimit`): the next program is to find its own. Caller: the program and the C library, in children
//! of `vfork` too, which share our memory and not our limits. No locks, no heap, nothing noted.
//!
//! All of the C library's ways to another program come here but `execveat` and `fexecve`.

use crate::rlimit;
use core::ffi::c_long;
use tmem_sys::guard;

/// Where system calls are guarded, the guard needs room before the call: it is told what else is to be done.
pub fn begin() {
    guard::around_exec(rlimit::leave, rlimit::stay);
}

/// The kernel's limit becomes the program's own.
extern "C" fn before() {
    if !guard::is_armed() {
        rlimit::leave();
    }
}

/// There is no such program, or the like: this one goes on.
extern "C" fn failed(answer: isize) -> c_long {
    if !guard::is_armed() {
        rlimit::stay();
    }
    crate::hooks::fail(answer)
}

unsafe extern "C" {
    pub fn tmem_execve();
}

// Written out because the call's instruction must not be the stub's: the guard has to see that its strings may be paged.
core::arch::global_asm!(
    r#"
    .pushsection .text.tmem_execve,"ax",@progbits
    .p2align 4
    .globl tmem_execve
    .hidden tmem_execve
    .type tmem_execve,@function
tmem_execve:
    pushq %rdi
    pushq %rsi
    pushq %rdx
    call {before}
    popq %rdx
    popq %rsi
    popq %rdi
    movl $59, %eax      # execve
    syscall
    movq %rax, %rdi
    jmp {failed}
    .size tmem_execve, . - tmem_execve
    .popsection
"#,
    before = sym before,
    failed = sym failed,
    options(att_syntax)
);
