// SPDX-License-Identifier: Apache-2.0
//! Owns: what stands in for the C library's functions that map memory: their arguments, their answers, `errno`. Called by: the
//! program and the C library itself, in any thread, from anywhere. Calls `space` with signals blocked, so that a handler of the
//! program's that maps memory does not meet a lock of ours held by its own thread.

use crate::altstack::{self, Stack};
use crate::patch::Patch;
use crate::{brk, exec, masks, report, rlimit, space};
use core::ffi::{c_int, c_long, c_void};
use tmem_sys::Errno;
use tmem_sys::guard::close_call;
use tmem_sys::signals::Blocked;

macro_rules! patches {
    ($($name:literal $ours:path $(, $optional:ident)?;)*) => {
        [$(Patch { name: $name, ours: $ours as *const () as usize, optional: false $(|| $optional)? }),*]
    };
}

const OPTIONAL: bool = true;

/// What is to be replaced, and by what.
pub fn patches() -> [Patch; 28] {
    patches! {
        c"mmap" mmap;
        c"munmap" munmap;
        c"mremap" mremap;
        c"madvise" madvise;
        c"posix_madvise" posix_madvise;
        c"mprotect" mprotect;
        c"pkey_mprotect" pkey_mprotect, OPTIONAL;
        c"brk" change_brk;
        c"sbrk" tmem_sbrk;
        c"mincore" mincore;
        c"mlock" mlock;
        c"mlock2" mlock2, OPTIONAL;
        c"munlock" munlock;
        c"mlockall" mlockall;
        c"munlockall" munlockall;
        c"getrlimit" getrlimit;
        c"setrlimit" setrlimit;
        c"prlimit" prlimit;
        c"syscall" tmem_any_call;
        c"execve" exec::tmem_execve;
        c"sigaltstack" sigaltstack;
        c"close" close;
        c"dup2" dup2;
        c"dup3" dup3;
        c"close_range" close_range, OPTIONAL;
        c"_exit" exit;
        c"pthread_sigmask" pthread_sigmask;
        // The last: it is left out where `forks` could not take it over.
        c"_Fork" fork, OPTIONAL;
    }
}

fn set_errno(e: Errno) {
    // SAFETY: the C library's own place for it, this thread's.
    unsafe { *libc::__errno_location() = e.0 };
}

/// Does with signals blocked what may take a lock.
fn quietly<R>(work: impl FnOnce() -> R) -> R {
    let _blocked = Blocked::new();
    work()
}

/// 0, or -1 and `errno`.
fn status(done: Result<(), Errno>) -> c_int {
    match done {
        Ok(()) => 0,
        Err(e) => {
            set_errno(e);
            -1
        }
    }
}

/// An address, or `MAP_FAILED` and `errno`.
fn address(got: Result<usize, Errno>) -> *mut c_void {
    match got {
        Ok(at) => at as *mut c_void,
        Err(e) => {
            set_errno(e);
            libc::MAP_FAILED
        }
    }
}

extern "C" fn mmap(at: usize, len: usize, prot: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void {
    address(quietly(|| space::map(&space::Wish { at, len, prot, flags, fd, offset })))
}

extern "C" fn munmap(at: usize, len: usize) -> c_int {
    status(quietly(|| space::unmap(at, len)))
}

extern "C" fn mremap(at: usize, old: usize, new: usize, flags: c_int, to: usize) -> *mut c_void {
    address(quietly(|| space::remap(at, old, new, flags, to)))
}

extern "C" fn madvise(at: usize, len: usize, advice: c_int) -> c_int {
    status(quietly(|| space::advise(at, len, advice)))
}

/// The number of an error is its answer, and POSIX's advice to forget is one to the C library, too.
extern "C" fn posix_madvise(at: usize, len: usize, advice: c_int) -> c_int {
    if advice == libc::POSIX_MADV_DONTNEED {
        return 0;
    }
    quietly(|| space::advise(at, len, advice)).err().map_or(0, |e| e.0)
}

extern "C" fn mprotect(at: usize, len: usize, prot: c_int) -> c_int {
    status(quietly(|| space::protect(at, len, prot, None)))
}

extern "C" fn pkey_mprotect(at: usize, len: usize, prot: c_int, key: c_int) -> c_int {
    status(quietly(|| space::protect(at, len, prot, (key != -1).then_some(key))))
}

extern "C" fn change_brk(to: usize) -> c_int {
    status(quietly(|| brk::change(to)))
}

/// The break as it was, or `(void *) -1` and `errno`; `caller` is where it will return to.
extern "C" fn sbrk(by: isize, caller: usize) -> *mut c_void {
    address(quietly(|| brk::grow(by, caller)))
}

extern "C" fn mincore(at: usize, len: usize, answer: *mut u8) -> c_int {
    // What is ours is told into the program's memory after all locks are left: that may be paged.
    // SAFETY: the program says that `answer` has a byte for each page.
    status(unsafe { space::resident(at, len, answer) })
}

extern "C" fn mlock(at: usize, len: usize) -> c_int {
    status(quietly(|| space::lock(at, len, 0)))
}

extern "C" fn mlock2(at: usize, len: usize, flags: c_int) -> c_int {
    status(quietly(|| space::lock(at, len, flags)))
}

extern "C" fn munlock(at: usize, len: usize) -> c_int {
    status(quietly(|| space::unlock(at, len)))
}

extern "C" fn mlockall(flags: c_int) -> c_int {
    status(quietly(|| space::lock_all(flags)))
}

extern "C" fn munlockall() -> c_int {
    status(quietly(space::unlock_all))
}

extern "C" fn getrlimit(resource: c_int, old: *mut rlimit::Limit) -> c_int {
    // SAFETY: the program's pointers, as the C library would have used them.
    status(unsafe { rlimit::change(0, resource, core::ptr::null(), old) })
}

extern "C" fn setrlimit(resource: c_int, new: *const rlimit::Limit) -> c_int {
    // SAFETY: as in `getrlimit`.
    status(unsafe { rlimit::change(0, resource, new, core::ptr::null_mut()) })
}

extern "C" fn prlimit(
    pid: c_int,
    resource: c_int,
    new: *const rlimit::Limit,
    old: *mut rlimit::Limit,
) -> c_int {
    // SAFETY: as in `getrlimit`.
    status(unsafe { rlimit::change(pid, resource, new, old) })
}

extern "C" fn sigaltstack(new: *const Stack, old: *mut Stack) -> c_int {
    // SAFETY: the program's pointers, as the kernel would have used them.
    status(quietly(|| unsafe { altstack::change(new, old) }))
}

/// The kernel's answer, where tmem's own descriptors are not open: daemons begin by closing all there may be.
fn closed(nr: c_long, a: [usize; 3]) -> c_int {
    let answer = close_call(nr, a);
    if answer < 0 { fail(answer) as c_int } else { answer as c_int }
}

extern "C" fn close(fd: c_int) -> c_int {
    closed(libc::SYS_close, [fd as usize, 0, 0])
}

extern "C" fn dup2(fd: c_int, to: c_int) -> c_int {
    closed(libc::SYS_dup2, [fd as usize, to as usize, 0])
}

extern "C" fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    closed(libc::SYS_dup3, [fd as usize, to as usize, flags as usize])
}

extern "C" fn close_range(first: u32, last: u32, flags: c_int) -> c_int {
    closed(libc::SYS_close_range, [first as usize, last as usize, flags as usize])
}

/// Also the second half of the C library's `fork`.
extern "C" fn fork() -> c_int {
    match tmem_sys::fork::fork() {
        Ok(pid) => pid,
        Err(e) => status(Err(e)),
    }
}

/// The number of an error is its answer.
extern "C" fn pthread_sigmask(how: c_int, set: *const u64, old: *mut u64) -> c_int {
    // SAFETY: the program's pointers, as the C library would have used them.
    unsafe { masks::change(how, set, old) }.err().map_or(0, |e| e.0)
}

extern "C" fn exit(code: c_int) -> ! {
    report::at_exit();
    space::end_process(code)
}

/// `syscall(2)` for the calls that `tmem_any_call` does not make itself.
extern "C" fn memory_call(nr: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long {
    let code = |answer: c_int| c_long::from(answer);
    match nr {
        libc::SYS_mmap => mmap(a, b, c as c_int, d as c_int, e as c_int, f as i64) as c_long,
        libc::SYS_munmap => code(munmap(a, b)),
        libc::SYS_mremap => mremap(a, b, c, d as c_int, e) as c_long,
        libc::SYS_madvise => code(madvise(a, b, c as c_int)),
        libc::SYS_mprotect => code(mprotect(a, b, c as c_int)),
        libc::SYS_mincore => code(mincore(a, b, c as *mut u8)),
        libc::SYS_mlock => code(mlock(a, b)),
        libc::SYS_mlock2 => code(mlock2(a, b, c as c_int)),
        libc::SYS_munlock => code(munlock(a, b)),
        _ => {
            set_errno(Errno(libc::ENOSYS));
            -1
        }
    }
}

/// -1, and `errno` by the kernel's answer.
pub extern "C" fn fail(answer: isize) -> c_long {
    set_errno(Errno(-answer as i32));
    -1
}

unsafe extern "C" {
    fn tmem_any_call();
    fn tmem_sbrk();
}

// It matters who asks: see `brk`.
core::arch::global_asm!(
    r#"
    .pushsection .text.tmem_sbrk,"ax",@progbits
    .p2align 4
    .globl tmem_sbrk
    .hidden tmem_sbrk
    .type tmem_sbrk,@function
tmem_sbrk:
    movq (%rsp), %rsi
    jmp {sbrk}
    .size tmem_sbrk, . - tmem_sbrk
    .popsection
"#,
    sbrk = sym sbrk,
    options(att_syntax)
);

// The C library's `syscall`, with the calls that concern memory sent to ours. It is written out because it may return twice
// (fork) and so has no frame of its own, and because its instruction must not be the stub's: the guard has to see the call.
core::arch::global_asm!(
    r#"
    .pushsection .text.tmem_any_call,"ax",@progbits
    .p2align 4
    .globl tmem_any_call
    .hidden tmem_any_call
    .type tmem_any_call,@function
tmem_any_call:
    cmpq $9, %rdi       # mmap
    je {memory_call}
    cmpq $10, %rdi      # mprotect
    je {memory_call}
    cmpq $11, %rdi      # munmap
    je {memory_call}
    cmpq $25, %rdi      # mremap
    je {memory_call}
    cmpq $27, %rdi      # mincore
    je {memory_call}
    cmpq $28, %rdi      # madvise
    je {memory_call}
    cmpq $149, %rdi     # mlock
    je {memory_call}
    cmpq $150, %rdi     # munlock
    je {memory_call}
    cmpq $325, %rdi     # mlock2
    je {memory_call}
    movq %rdi, %rax
    movq %rsi, %rdi
    movq %rdx, %rsi
    movq %rcx, %rdx
    movq %r8, %r10
    movq %r9, %r8
    movq 8(%rsp), %r9
    syscall
    cmpq $-4095, %rax
    jae 1f
    ret
1:  movq %rax, %rdi
    jmp {fail}
    .size tmem_any_call, . - tmem_any_call
    .popsection
"#,
    memory_call = sym memory_call,
    fail = sym fail,
    options(att_syntax)
);
