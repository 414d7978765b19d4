// SPDX-License-Identifier: Apache-2.0
//! Owns: one probe at run time of what this machine lets this process do. Callers: construction, `tmem doctor`.
//! Nothing is chosen at build time.

use crate::entry::Entry;
use crate::errno::Errno;
use crate::syscall::{call, close};
use crate::uffd::{self, Reach, abi};

/// What was found. Each field is the answer of a trial, not of a version number.
#[derive(Clone, Debug)]
pub struct Caps {
    pub page_size: usize,
    pub uffd_full: Result<(), Errno>,
    pub uffd_user: Result<(), Errno>,
    pub uffd_device: bool,
    pub moves: bool,
    pub sigbus: bool,
    pub thread_id: bool,
    pub dispatch: Result<(), Errno>,
}

impl Caps {
    pub fn probe() -> Caps {
        let features = uffd::features().unwrap_or(0);
        let try_open = |reach| uffd::open(reach, 0).map(close);
        Caps {
            page_size: page_size(),
            uffd_full: try_open(Reach::Kernel),
            uffd_user: try_open(Reach::UserOnly),
            uffd_device: uffd::device_works(),
            moves: features & abi::FEATURE_MOVE != 0,
            sigbus: features & abi::FEATURE_SIGBUS != 0,
            thread_id: features & abi::FEATURE_THREAD_ID != 0,
            dispatch: dispatch_works(),
        }
    }

    /// Whether the entry needs the system call guard here.
    pub fn guarded(&self, entry: Entry) -> bool {
        entry == Entry::Signal || self.uffd_full.is_err()
    }

    /// Why an entry cannot be used here, with the remedy; `None` when it can.
    pub fn refusal(&self, entry: Entry) -> Option<String> {
        if self.page_size != crate::PAGE_SIZE {
            return Some(format!(
                "pages are {} bytes here; tmem serves 4096-byte pages only",
                self.page_size
            ));
        }
        if let (Err(full), Err(_)) = (self.uffd_full, self.uffd_user) {
            return Some(format!(
                "userfaultfd is not permitted ({full}). In a container, pass --device /dev/userfaultfd or a seccomp \
                 profile that allows userfaultfd; elsewhere use a kernel built with CONFIG_USERFAULTFD"
            ));
        }
        if !self.moves {
            return Some("this kernel has no UFFDIO_MOVE; Linux 6.8 or later is needed".into());
        }
        if entry == Entry::Signal && !self.sigbus {
            return Some(
                "this kernel's userfaultfd cannot signal (UFFD_FEATURE_SIGBUS); use faults=\"thread\"".into(),
            );
        }
        if let (true, Err(e)) = (self.guarded(entry), self.dispatch) {
            return Some(format!(
                "system calls on paged memory could not be guarded: no system call dispatch here ({e}). Use \
                 faults=\"thread\" with privilege: access to /dev/userfaultfd, or sysctl vm.unprivileged_userfaultfd=1"
            ));
        }
        None
    }
}

fn page_size() -> usize {
    // SAFETY: a pure query.
    let n = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(n).unwrap_or(0)
}

/// Tries the call in the state it leaves alone: switching dispatch off when it is off changes nothing. When this
/// thread is under the guard already, the answer is known.
fn dispatch_works() -> Result<(), Errno> {
    if crate::guard::is_armed() {
        return Ok(());
    }
    // SAFETY: no pointers.
    unsafe { call(libc::SYS_prctl, [crate::guard::PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0]) }.map(drop)
}
