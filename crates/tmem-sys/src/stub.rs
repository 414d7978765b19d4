// SPDX-License-Identifier: Apache-2.0
//! The only code of this process whose system calls the kernel does not send back to us.
//!
//! Owns every `syscall` instruction of tmem: under Syscall User Dispatch (the guard, law 16) a system call from any other address
//! raises SIGSYS, so all of tmem's own calls are made here. Called by `syscall` (the raw call), by the signal handlers (the
//! restorer), by `own` (threads) and by `guard::clone` (the landing places of `clone`, `fork` and `vfork`). No locks, no state but
//! the return slots and the actions of borrowers.
//!
//! The kernel compares the address *after* the `syscall` instruction with the allowed range, so no such instruction may be the
//! last one in it. Nothing here touches the 128 bytes below the stack pointer: they belong to whoever was interrupted.

use core::arch::global_asm;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

/// How many distinct places may call `clone`, `clone3`, `fork` or `vfork`; glibc has five.
pub const CLONE_SLOTS: usize = 32;

/// The number of a call that no kernel has: a new thread reports with it, from outside the allowed range, so that it traps.
pub const HELLO: usize = 0x7d3e_0001;
/// As [`HELLO`]: a thread that waited for a borrower (the first argument) reports that it has gone.
pub const GOODBYE: usize = 0x7d3e_0002;

global_asm!(
    r#"
    .pushsection .text.tmem_stub,"ax",@progbits
    .p2align 6
    .globl tmem_stub_begin
    .hidden tmem_stub_begin
tmem_stub_begin:

    # isize tmem_syscall6(nr, a0, a1, a2, a3, a4, a5)
    .globl tmem_syscall6
    .hidden tmem_syscall6
    .type tmem_syscall6,@function
tmem_syscall6:
    .cfi_startproc
    movq %rdi, %rax
    movq %rsi, %rdi
    movq %rdx, %rsi
    movq %rcx, %rdx
    movq %r8, %r10
    movq %r9, %r8
    movq 8(%rsp), %r9
    syscall
    ret
    .cfi_endproc
    .size tmem_syscall6, . - tmem_syscall6

    # The restorer of our handlers. These exact bytes, and no unwind entry, are what unwinders and debuggers know a signal frame by.
    nop
    .p2align 4
    nop
    .globl tmem_restore_rt
    .hidden tmem_restore_rt
    .globl tmem_sigreturn_call
    .hidden tmem_sigreturn_call
tmem_restore_rt:
    movq $15, %rax
tmem_sigreturn_call:
    syscall
    ud2

    # isize tmem_own_thread(flags, stack, thread_pointer): the new thread's number, or the kernel's error. The thread finds on
    # its stack what it is to be given and what it is to call, which never returns.
    .p2align 4
    .globl tmem_own_thread
    .hidden tmem_own_thread
    .type tmem_own_thread,@function
tmem_own_thread:
    .cfi_startproc
    movq %rdx, %r8
    xorl %edx, %edx
    xorl %r10d, %r10d
    movl $56, %eax                      # clone
    syscall
    testq %rax, %rax
    jz 1f
    ret
    .cfi_undefined %rip
1:  xorl %ebp, %ebp
    popq %rdi
    popq %rax
    call *%rax
    ud2
    .cfi_endproc
    .size tmem_own_thread, . - tmem_own_thread

    # tmem_end_thread(start, len): unmaps the stack that it runs on, and the thread ends. No signal may come in between.
    .globl tmem_end_thread
    .hidden tmem_end_thread
    .type tmem_end_thread,@function
tmem_end_thread:
    .cfi_startproc
    movl $11, %eax                      # munmap
    syscall
    xorl %edi, %edi
    movl $60, %eax                      # exit
    syscall
    ud2
    .cfi_endproc
    .size tmem_end_thread, . - tmem_end_thread

    # A process that borrows this memory is born, with signal actions of its own: ours are put in force first, since its maker
    # may have asked for none (CLONE_CLEAR_SIGHAND). The registers that the next part keeps are kept here.
    .p2align 4
tmem_clone_borrower:
    leaq -128(%rsp), %rsp
    pushq %r11
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %r10
    pushq %r8
    leaq tmem_clone_actions(%rip), %r8
78: movq (%r8), %rcx                    # the signal, or 0 at the end
    jrcxz tmem_clone_arm
    movq %rcx, %rdi
    leaq 8(%r8), %rsi
    movl $0, %edx
    movl $8, %r10d
    movl $13, %eax                      # rt_sigaction
    syscall
    leaq 40(%r8), %r8
    jmp 78b

    # A thread is born: arm it before it runs anything else, then let it report. %r11 is where it goes on. Flags and every
    # register but %rcx and %r11 come out as the kernel left them, as after any system call.
    .p2align 4
tmem_clone_child:
    leaq -128(%rsp), %rsp
    pushq %r11
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %r10
    pushq %r8
tmem_clone_arm:
    movl $157, %eax                     # prctl
    movl $59, %edi                      # PR_SET_SYSCALL_USER_DISPATCH
    movl $1, %esi                       # PR_SYS_DISPATCH_ON
    leaq tmem_stub_begin(%rip), %rdx
    movl $(tmem_stub_end - tmem_stub_begin), %r10d
    movl $0, %r8d
    syscall
    movl $0x7d3e0001, %eax              # HELLO
    jmp tmem_hello

    # The borrower in %rax has gone, or there is none: its maker goes on at %r11, and reports first.
    .p2align 4
tmem_clone_over:
    leaq -128(%rsp), %rsp
    pushq %r11
    pushq %rdi
    pushq %rax
    movq %rax, %rdi
    movl $0x7d3e0002, %eax              # GOODBYE
    jmp tmem_goodbye

    # Landing places: one per return address of the caller, for threads, for processes that borrow this memory while
    # their maker waits, and for those with a copy of it (which run unguarded).
    .p2align 5
    .globl tmem_clone_thread
    .hidden tmem_clone_thread
tmem_clone_thread:
    .set slot, 0
    .rept 32
    .p2align 5
    syscall
    movq %rax, %rcx
    jrcxz 77f
    jmpq *tmem_clone_return+slot(%rip)
77: movq tmem_clone_return+slot(%rip), %r11
    jmp tmem_clone_child
    .set slot, slot+8
    .endr

    .p2align 5
    .globl tmem_clone_shared
    .hidden tmem_clone_shared
tmem_clone_shared:
    .set slot, 0
    .rept 32
    .p2align 5
    syscall
    movq %rax, %rcx
    movq tmem_clone_return+slot(%rip), %r11
    jrcxz 77f
    jmp tmem_clone_over
77: jmp tmem_clone_borrower
    .set slot, slot+8
    .endr

    .p2align 5
    .globl tmem_clone_plain
    .hidden tmem_clone_plain
tmem_clone_plain:
    .set slot, 0
    .rept 32
    .p2align 5
    syscall
    jmpq *tmem_clone_return+slot(%rip)
    .set slot, slot+8
    .endr

    .p2align 4
    .globl tmem_stub_end
    .hidden tmem_stub_end
tmem_stub_end:

    # Outside the range on purpose: these calls trap, and the guard notes the new thread, or the end of a borrower.
tmem_hello:
    syscall
    popq %r8
    popq %r10
    popq %rdx
    popq %rsi
    popq %rdi
    popq %r11
    leaq 128(%rsp), %rsp
    movl $0, %eax
    jmpq *%r11

tmem_goodbye:
    syscall
    popq %rax
    popq %rdi
    popq %r11
    leaq 128(%rsp), %rsp
    jmpq *%r11
    .popsection

    .pushsection .data.tmem_stub,"aw",@progbits
    .p2align 6
    .globl tmem_clone_return
    .hidden tmem_clone_return
tmem_clone_return:
    .fill 32, 8, 0
    # Signal number and action, three at most, then a zero.
    .globl tmem_clone_actions
    .hidden tmem_clone_actions
tmem_clone_actions:
    .fill 16, 8, 0
    .popsection
"#,
    options(att_syntax)
);

unsafe extern "C" {
    /// The raw system call; `syscall::raw6` is its caller.
    pub fn tmem_syscall6(
        nr: usize,
        a0: usize,
        a1: usize,
        a2: usize,
        a3: usize,
        a4: usize,
        a5: usize,
    ) -> isize;
    /// `clone` onto another stack; `own` is its caller.
    pub fn tmem_own_thread(flags: usize, stack: usize, thread_pointer: usize) -> isize;
    /// Ends the calling thread and unmaps its stack; `own` is its caller.
    pub fn tmem_end_thread(start: usize, len: usize) -> !;
    /// What a handler of ours returns to (`sa_restorer`). Never called.
    pub fn tmem_restore_rt();
    static tmem_stub_begin: u8;
    static tmem_stub_end: u8;
    static tmem_sigreturn_call: u8;
    static tmem_clone_thread: u8;
    static tmem_clone_shared: u8;
    static tmem_clone_plain: u8;
    static tmem_clone_return: [AtomicUsize; CLONE_SLOTS];
    static tmem_clone_actions: [AtomicUsize; ACTION_WORDS * MOST_ACTIONS + 1];
}

/// Bytes between two landing places.
const LANDING: usize = 32;

/// The addresses whose system calls the kernel lets through.
#[must_use]
pub fn range() -> Range<usize> {
    (&raw const tmem_stub_begin as usize)..(&raw const tmem_stub_end as usize)
}

/// The restorer's address, for `sa_restorer`.
#[must_use]
pub fn restorer() -> usize {
    tmem_restore_rt as *const () as usize
}

/// The address of a bare `syscall` instruction for `rt_sigreturn` (number already in RAX).
#[must_use]
pub fn sigreturn_call() -> usize {
    &raw const tmem_sigreturn_call as usize
}

/// What a `clone` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Born {
    /// A thread, or a process that shares this memory for longer.
    Thread,
    /// A process that borrows this memory while its maker waits (`vfork`).
    Borrower,
    /// A process with a copy of this memory.
    Copy,
}

/// Where a `clone` of slot `i` lands: it makes the call and jumps to the return address kept in the slot.
#[must_use]
pub fn landing(i: usize, born: Born) -> usize {
    debug_assert!(i < CLONE_SLOTS);
    let first = match born {
        Born::Thread => &raw const tmem_clone_thread,
        Born::Borrower => &raw const tmem_clone_shared,
        Born::Copy => &raw const tmem_clone_plain,
    };
    first as usize + i * LANDING
}

/// Signal number, then the kernel's `struct sigaction`.
pub const ACTION_WORDS: usize = 5;
const MOST_ACTIONS: usize = 3;

/// Has processes that borrow this memory begin with this action too. For no more than three signals; the newest action counts.
///
/// # Panics
/// On a fourth signal.
pub fn set_borrowers_action(words: [usize; ACTION_WORDS]) {
    // SAFETY: the symbol is 16 zeroed words in writable data, aligned, and this side only ever accesses them as atomics.
    let table = unsafe { &tmem_clone_actions };
    let place = (0..MOST_ACTIONS)
        .map(|i| &table[i * ACTION_WORDS..][..ACTION_WORDS])
        .find(|place| matches!(place[0].load(Ordering::Relaxed), n if n == 0 || n == words[0]))
        .expect("more than three signals are ours");
    for (place, &word) in place.iter().zip(&words).skip(1) {
        place.store(word, Ordering::Relaxed);
    }
    // Last: what makes the entry count.
    place[0].store(words[0], Ordering::Release);
}

/// The return addresses the landing places jump to; a slot is written once and never changed.
#[must_use]
pub fn return_slots() -> &'static [AtomicUsize; CLONE_SLOTS] {
    // SAFETY: the symbol is 32 zeroed words in writable data, aligned to 64 bytes, and only ever accessed as atomics.
    unsafe { &tmem_clone_return }
}
