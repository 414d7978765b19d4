// SPDX-License-Identifier: Apache-2.0
//! Why the guard could not cover the process, with the remedy in the text. Made by `threads` and `procfs`, shown to the user.

use core::fmt;

/// What stands outside the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The thread blocks SIGSYS, by which calls reach the guard.
    BlocksSigsys,
    /// A kernel worker of io_uring, which reads and writes memory without system calls.
    KernelWorker,
    /// An io_uring instance is open at this descriptor.
    IoUring(i32),
    /// A Linux AIO context exists.
    AioContext,
    /// The thread did not answer in time; its scheduler state as in `/proc`.
    NoAnswer(char),
    /// More threads than the guard keeps track of, which is this many.
    TooManyThreads(usize),
    /// The kernel refuses Syscall User Dispatch or the handler, with this error number.
    Refused(i32),
    /// `/proc/self` cannot be read, with this error number.
    NoProc(i32),
}

/// The guard is incomplete: this thread or object is outside it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Uncovered {
    /// The thread, or 0 where it is not about one.
    pub tid: i32,
    /// The thread's name, padded with zeros.
    pub comm: [u8; 16],
    /// The reason.
    pub why: Why,
}

impl Uncovered {
    pub(super) fn process(why: Why) -> Uncovered {
        Uncovered { tid: 0, comm: [0; 16], why }
    }
}

/// The remedy that always works: let the kernel serve faults by itself, so that no guard is needed.
const PRIVILEGE: &str = "or let the kernel serve the faults (grant access to /dev/userfaultfd, or CAP_SYS_PTRACE), which needs no guard";

impl fmt::Display for Uncovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tid != 0 {
            let len = self.comm.iter().position(|&b| b == 0).unwrap_or(self.comm.len());
            write!(f, "thread {} ({}) ", self.tid, core::str::from_utf8(&self.comm[..len]).unwrap_or("?"))?;
        }
        match self.why {
            Why::BlocksSigsys => write!(
                f,
                "blocks the signal SIGSYS, so its system calls cannot be guarded; unblock SIGSYS in it, start it after memory is paged, {PRIVILEGE}"
            ),
            Why::KernelWorker => {
                write!(
                    f,
                    "is an io_uring worker, which uses memory without system calls; turn io_uring off in that library, {PRIVILEGE}"
                )
            }
            Why::IoUring(fd) => {
                write!(
                    f,
                    "an io_uring is open (descriptor {fd}), which uses memory without system calls; turn io_uring off in that library, {PRIVILEGE}"
                )
            }
            Why::AioContext => {
                write!(
                    f,
                    "a Linux AIO context (io_setup) is open, which uses memory without system calls; turn it off in that library, {PRIVILEGE}"
                )
            }
            Why::NoAnswer(state) => write!(
                f,
                "did not come under the system call guard in time (state {state}); try again when it runs, {PRIVILEGE}"
            ),
            Why::TooManyThreads(most) => {
                write!(f, "more than {most} threads cannot be guarded; use fewer, {PRIVILEGE}")
            }
            Why::Refused(e) => write!(
                f,
                "the kernel refuses Syscall User Dispatch ({}); it needs Linux 5.11 and a seccomp profile that lets prctl through, {PRIVILEGE}",
                crate::Errno(e)
            ),
            Why::NoProc(e) => write!(
                f,
                "/proc/self cannot be read ({}), so threads cannot be counted; mount /proc, {PRIVILEGE}",
                crate::Errno(e)
            ),
        }
    }
}

impl fmt::Debug for Uncovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uncovered({self})")
    }
}

impl std::error::Error for Uncovered {}
