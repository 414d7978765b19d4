// SPDX-License-Identifier: Apache-2.0
//! Owns: what the fault path has to tell the program and cannot say itself: it may call neither Python nor a
//! logger. A notice is kept until somebody asks, and goes to standard error once in a while, never with contents.
//! Callers: `evict`, `arm`, the guard (write); `verbs` (drain). Lock: the pager's.

use tmem_sys::syscall::{stderr_has_room, write_stderr};
use tmem_sys::time::now_ns;

/// The quiet time between two lines of one kind on standard error.
const QUIET_NS: u64 = 30_000_000_000;

/// The kinds of notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Notice {
    Overshoot,
    SwapFull,
    SwapError,
    Uncovered,
    Handlers,
    Refused,
    NoBackground,
}

const KINDS: usize = 7;

impl Notice {
    const ALL: [Notice; KINDS] = [
        Notice::Overshoot,
        Notice::SwapFull,
        Notice::SwapError,
        Notice::Uncovered,
        Notice::Handlers,
        Notice::Refused,
        Notice::NoBackground,
    ];

    /// The text: what is so, what follows, what to do.
    fn text(self) -> &'static str {
        match self {
            Notice::Overshoot => {
                "the RAM budget is overshot: pages can neither be packed nor swapped out, so they stay resident and \
                 new allocations are refused. Free arrays, raise ram=, or give a swap device"
            }
            Notice::SwapFull => {
                "the swap device is full: what the store has no room for stays resident. Free arrays, or give a larger swap="
            }
            Notice::SwapError => {
                "writing to the swap device failed: the pages stay resident. Check the disk, or name another \
                 directory in swap="
            }
            Notice::Uncovered => {
                "eviction has stopped: a thread cannot be covered by the system call guard. Use faults=\"thread\" with \
                 privilege, or do not block SIGSYS in that thread"
            }
            Notice::Handlers => {
                "eviction has stopped: the SIGBUS handler could not be put back in front. Use faults=\"thread\""
            }
            Notice::Refused => {
                "a system call on paged memory was refused before it started, because it cannot be guarded (io_uring, \
                 kernel AIO, or a message larger than may be held). Use faults=\"thread\" with privilege, or a plain buffer"
            }
            Notice::NoBackground => {
                "cold pages stay as they are: the thread that packs them tighter could not be started. Raise the limit on \
                 threads (ulimit -u), or call settle() now and then"
            }
        }
    }
}

#[derive(Default)]
pub struct Notices {
    pending: [bool; KINDS],
    detail: [Option<&'static str>; KINDS],
    last_line: [u64; KINDS],
}

impl Notices {
    pub fn tell(&mut self, notice: Notice) {
        let now = now_ns();
        let i = notice as usize;
        self.pending[i] = true;
        if self.last_line[i] == 0 || now - self.last_line[i] > QUIET_NS {
            self.last_line[i] = now;
            // The pager's lock is held, and perhaps the GIL: whoever empties a full pipe may need either.
            if stderr_has_room() {
                write_stderr("tmem: warning: ");
                write_stderr(notice.text());
                write_stderr("\n");
            }
        }
    }

    /// As `tell`, with a text of the guard's that says more.
    pub fn tell_more(&mut self, notice: Notice, detail: &'static str) {
        self.detail[notice as usize] = Some(detail);
        self.tell(notice);
    }

    pub fn drain(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        for notice in Notice::ALL {
            if std::mem::take(&mut self.pending[notice as usize]) {
                let detail = self.detail[notice as usize].take();
                texts.push(detail.unwrap_or(notice.text()).to_owned());
            }
        }
        texts
    }
}
