// SPDX-License-Identifier: Apache-2.0
//! Which arguments of which system call point to memory, and how much of it. Pure data; read by `ordinary`.
//!
//! Calls that take no address are in `numbers`. Calls that are listed nowhere are not forgotten: each of their arguments that lies in paged memory gets two pages held. Listed as
//! empty are those whose arguments are addresses but not buffers. Transfers of data, messages, masks, new processes and changes
//! of mappings have their own files.

use super::numbers::NUMBERS;

/// How long a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Len {
    /// This many bytes.
    Bytes(u32),
    /// As many bytes as another argument says, times the second, plus the third.
    Arg(u8, u16, u8),
    /// One bit for each of another argument, in whole words.
    Bits(u8),
    /// One byte for each page of another argument.
    Pages(u8),
    /// The `u32` that another argument points to.
    At(u8),
    /// A C string: a path or a name.
    Text,
    /// An array of `struct iovec`, as many as another argument says, and all they point to.
    Vector(u8),
}

/// One buffer of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buf {
    /// Which argument points to it.
    pub(super) arg: u8,
    /// Whether the kernel writes to it.
    pub(super) write: bool,
    /// Its length.
    pub(super) len: Len,
}

const fn r(arg: u8, bytes: u32) -> Buf {
    Buf { arg, write: false, len: Len::Bytes(bytes) }
}
const fn w(arg: u8, bytes: u32) -> Buf {
    Buf { arg, write: true, len: Len::Bytes(bytes) }
}
/// Read, `size` bytes for each of argument `n`.
const fn rn(arg: u8, n: u8, size: u16) -> Buf {
    Buf { arg, write: false, len: Len::Arg(n, size, 0) }
}
/// Written, `size` bytes for each of argument `n`.
const fn wn(arg: u8, n: u8, size: u16) -> Buf {
    Buf { arg, write: true, len: Len::Arg(n, size, 0) }
}
/// A message of System V: a `long` and as many bytes as argument `n` says.
const fn message(arg: u8, n: u8, write: bool) -> Buf {
    Buf { arg, write, len: Len::Arg(n, 1, 8) }
}
/// Written, as long as argument `n` points out.
const fn at(arg: u8, n: u8) -> Buf {
    Buf { arg, write: true, len: Len::At(n) }
}
const fn bits(arg: u8, n: u8, write: bool) -> Buf {
    Buf { arg, write, len: Len::Bits(n) }
}
const fn text(arg: u8) -> Buf {
    Buf { arg, write: false, len: Len::Text }
}
const fn vector(arg: u8, n: u8, write: bool) -> Buf {
    Buf { arg, write, len: Len::Vector(n) }
}

const TEXT0: &[Buf] = &[text(0)];
const TEXT1: &[Buf] = &[text(1)];
const TEXT01: &[Buf] = &[text(0), text(1)];
const TEXT13: &[Buf] = &[text(1), text(3)];
const STAT: &[Buf] = &[text(0), w(1, 144)];
const NAME: &[Buf] = &[at(1, 2), w(2, 4)];
const ADDRESS: &[Buf] = &[rn(1, 2, 1)];
const READ: &[Buf] = &[wn(1, 2, 1)];
const SIZED0: &[Buf] = &[rn(0, 1, 1)];
const XATTR_SET: &[Buf] = &[text(0), text(1), rn(2, 3, 1)];
const XATTR_GET: &[Buf] = &[text(0), text(1), wn(2, 3, 1)];
const XATTR_LIST: &[Buf] = &[text(0), wn(1, 2, 1)];
const IDS: &[Buf] = &[w(0, 4), w(1, 4), w(2, 4)];
const OFFSETS: &[Buf] = &[w(1, 8), w(3, 8)];
const NONE: &[Buf] = &[];
const PAIR: &[Buf] = &[w(0, 8)];
const EPOLL: &[Buf] = &[wn(1, 2, 12)];

const SELECT: &[Buf] = &[bits(1, 0, true), bits(2, 0, true), bits(3, 0, true), w(4, 16)];

/// Call numbers below this are looked up; those above are unknown.
const CALLS: usize = 470;
/// What fits most structures: for arguments whose meaning hangs on another one.
const SOME: u32 = 8192;

static TABLE: [Option<&[Buf]>; CALLS] = build();

/// The buffers of call `nr`, or None where it is not known.
pub(super) fn buffers(nr: usize) -> Option<&'static [Buf]> {
    TABLE.get(nr).copied().flatten()
}

const fn build() -> [Option<&'static [Buf]>; CALLS] {
    let mut table: [Option<&'static [Buf]>; CALLS] = [None; CALLS];
    let lists = [FILES, SOCKETS, TIME, PROCESS, OTHERS, NUMBERED];
    let mut none = 0;
    while none < NUMBERS.len() {
        assert!(table[NUMBERS[none] as usize].is_none(), "a call is listed twice");
        table[NUMBERS[none] as usize] = Some(NONE);
        none += 1;
    }
    let mut i = 0;
    while i < lists.len() {
        let mut j = 0;
        while j < lists[i].len() {
            let (nr, bufs) = lists[i][j];
            assert!(table[nr as usize].is_none(), "a call is listed twice");
            table[nr as usize] = Some(bufs);
            j += 1;
        }
        i += 1;
    }
    table
}

type List = &'static [(libc::c_long, &'static [Buf])];

const FILES: List = &[
    (libc::SYS_open, TEXT0),
    (libc::SYS_stat, STAT),
    (libc::SYS_lstat, STAT),
    (libc::SYS_fstat, &[w(1, 144)]),
    (libc::SYS_access, TEXT0),
    (libc::SYS_pipe, PAIR),
    (libc::SYS_pipe2, PAIR),
    (libc::SYS_sendfile, &[w(2, 8)]),
    (libc::SYS_truncate, TEXT0),
    (libc::SYS_getdents, READ),
    (libc::SYS_getdents64, READ),
    (libc::SYS_getcwd, &[wn(0, 1, 1)]),
    (libc::SYS_chdir, TEXT0),
    (libc::SYS_rename, TEXT01),
    (libc::SYS_mkdir, TEXT0),
    (libc::SYS_rmdir, TEXT0),
    (libc::SYS_creat, TEXT0),
    (libc::SYS_link, TEXT01),
    (libc::SYS_unlink, TEXT0),
    (libc::SYS_symlink, TEXT01),
    (libc::SYS_readlink, XATTR_LIST),
    (libc::SYS_chmod, TEXT0),
    (libc::SYS_chown, TEXT0),
    (libc::SYS_lchown, TEXT0),
    (libc::SYS_utime, &[text(0), r(1, 16)]),
    (libc::SYS_utimes, &[text(0), r(1, 32)]),
    (libc::SYS_mknod, TEXT0),
    (libc::SYS_ustat, &[w(1, 32)]),
    (libc::SYS_statfs, &[text(0), w(1, 120)]),
    (libc::SYS_fstatfs, &[w(1, 120)]),
    (libc::SYS_pivot_root, TEXT01),
    (libc::SYS_chroot, TEXT0),
    (libc::SYS_mount, &[text(0), text(1), text(2), text(4)]),
    (libc::SYS_umount2, TEXT0),
    (libc::SYS_swapon, TEXT0),
    (libc::SYS_swapoff, TEXT0),
    (libc::SYS_acct, TEXT0),
    (libc::SYS_quotactl, &[text(1), w(3, 4096)]),
    (libc::SYS_setxattr, XATTR_SET),
    (libc::SYS_lsetxattr, XATTR_SET),
    (libc::SYS_fsetxattr, &[text(1), rn(2, 3, 1)]),
    (libc::SYS_getxattr, XATTR_GET),
    (libc::SYS_lgetxattr, XATTR_GET),
    (libc::SYS_fgetxattr, &[text(1), wn(2, 3, 1)]),
    (libc::SYS_listxattr, XATTR_LIST),
    (libc::SYS_llistxattr, XATTR_LIST),
    (libc::SYS_flistxattr, READ),
    (libc::SYS_removexattr, TEXT01),
    (libc::SYS_lremovexattr, TEXT01),
    (libc::SYS_fremovexattr, TEXT1),
    (libc::SYS_openat, TEXT1),
    (libc::SYS_mkdirat, TEXT1),
    (libc::SYS_mknodat, TEXT1),
    (libc::SYS_fchownat, TEXT1),
    (libc::SYS_futimesat, &[text(1), r(2, 32)]),
    (libc::SYS_newfstatat, &[text(1), w(2, 144)]),
    (libc::SYS_unlinkat, TEXT1),
    (libc::SYS_renameat, TEXT13),
    (libc::SYS_renameat2, TEXT13),
    (libc::SYS_linkat, TEXT13),
    (libc::SYS_symlinkat, &[text(0), text(2)]),
    (libc::SYS_readlinkat, &[text(1), wn(2, 3, 1)]),
    (libc::SYS_fchmodat, TEXT1),
    (libc::SYS_faccessat, TEXT1),
    (libc::SYS_faccessat2, TEXT1),
    (libc::SYS_utimensat, &[text(1), r(2, 32)]),
    (libc::SYS_splice, OFFSETS),
    (libc::SYS_copy_file_range, OFFSETS),
    (libc::SYS_vmsplice, &[vector(1, 2, false)]),
    (libc::SYS_inotify_add_watch, TEXT1),
    (libc::SYS_fanotify_mark, &[text(4)]),
    (libc::SYS_name_to_handle_at, &[text(1), w(2, 136), w(3, 4)]),
    (libc::SYS_open_by_handle_at, &[r(1, 136)]),
    (libc::SYS_statx, &[text(1), w(4, 256)]),
    (libc::SYS_memfd_create, TEXT0),
    (libc::SYS_openat2, &[text(1), rn(2, 3, 1)]),
    (libc::SYS_open_tree, TEXT1),
    (libc::SYS_move_mount, TEXT13),
    (libc::SYS_fsopen, TEXT0),
    (libc::SYS_fsconfig, &[text(2), r(3, SOME)]),
    (libc::SYS_fspick, TEXT1),
    (libc::SYS_mount_setattr, &[text(1), rn(3, 4, 1)]),
    (libc::SYS_fcntl, &[w(2, 64)]),
    (libc::SYS_epoll_wait, EPOLL),
    (libc::SYS_epoll_ctl, &[r(3, 12)]),
    (libc::SYS_epoll_pwait, EPOLL),
    (libc::SYS_epoll_pwait2, &[wn(1, 2, 12), r(3, 16)]),
    (libc::SYS_poll, &[wn(0, 1, 8)]),
    (libc::SYS_ppoll, &[wn(0, 1, 8), w(2, 16)]),
    (libc::SYS_pselect6, SELECT),
    (libc::SYS_select, SELECT),
];

const SOCKETS: List = &[
    (libc::SYS_connect, ADDRESS),
    (libc::SYS_bind, ADDRESS),
    (libc::SYS_accept, NAME),
    (libc::SYS_accept4, NAME),
    (libc::SYS_getsockname, NAME),
    (libc::SYS_getpeername, NAME),
    (libc::SYS_socketpair, &[w(3, 8)]),
    (libc::SYS_setsockopt, &[rn(3, 4, 1)]),
    (libc::SYS_getsockopt, &[at(3, 4), w(4, 4)]),
    (libc::SYS_sethostname, SIZED0),
    (libc::SYS_setdomainname, SIZED0),
];

const TIME: List = &[
    (libc::SYS_nanosleep, &[r(0, 16), w(1, 16)]),
    (libc::SYS_getitimer, &[w(1, 32)]),
    (libc::SYS_setitimer, &[r(1, 32), w(2, 32)]),
    (libc::SYS_gettimeofday, &[w(0, 16), w(1, 8)]),
    (libc::SYS_settimeofday, &[r(0, 16), r(1, 8)]),
    (libc::SYS_adjtimex, &[w(0, 208)]),
    (libc::SYS_clock_adjtime, &[w(1, 208)]),
    (libc::SYS_time, &[w(0, 8)]),
    (libc::SYS_times, &[w(0, 32)]),
    (libc::SYS_timer_create, &[r(1, 64), w(2, 4)]),
    (libc::SYS_timer_settime, &[r(2, 32), w(3, 32)]),
    (libc::SYS_timer_gettime, &[w(1, 32)]),
    (libc::SYS_clock_settime, &[r(1, 16)]),
    (libc::SYS_clock_gettime, &[w(1, 16)]),
    (libc::SYS_clock_getres, &[w(1, 16)]),
    (libc::SYS_clock_nanosleep, &[r(2, 16), w(3, 16)]),
    (libc::SYS_timerfd_settime, &[r(2, 32), w(3, 32)]),
    (libc::SYS_timerfd_gettime, &[w(1, 32)]),
];

const PROCESS: List = &[
    (libc::SYS_wait4, &[w(1, 4), w(3, 144)]),
    (libc::SYS_waitid, &[w(2, 128), w(4, 144)]),
    (libc::SYS_uname, &[w(0, 390)]),
    (libc::SYS_getrlimit, &[w(1, 16)]),
    (libc::SYS_setrlimit, &[r(1, 16)]),
    (libc::SYS_prlimit64, &[r(2, 16), w(3, 16)]),
    (libc::SYS_getrusage, &[w(1, 144)]),
    (libc::SYS_sysinfo, &[w(0, 112)]),
    (libc::SYS_syslog, READ),
    (libc::SYS_getgroups, &[wn(1, 0, 4)]),
    (libc::SYS_setgroups, &[rn(1, 0, 4)]),
    (libc::SYS_getresuid, IDS),
    (libc::SYS_getresgid, IDS),
    (libc::SYS_capget, &[w(0, 8), w(1, 24)]),
    (libc::SYS_capset, &[w(0, 8), r(1, 24)]),
    (libc::SYS_rt_sigsuspend, NONE),
    (libc::SYS_rt_sigpending, &[wn(0, 1, 1)]),
    (libc::SYS_rt_sigtimedwait, &[r(0, 8), w(1, 128), r(2, 16)]),
    (libc::SYS_rt_sigqueueinfo, &[r(2, 128)]),
    (libc::SYS_rt_tgsigqueueinfo, &[r(3, 128)]),
    (libc::SYS_pidfd_send_signal, &[r(2, 128)]),
    (libc::SYS_signalfd, &[rn(1, 2, 1)]),
    (libc::SYS_signalfd4, &[rn(1, 2, 1)]),
    (libc::SYS_sched_setparam, &[r(1, 4)]),
    (libc::SYS_sched_getparam, &[w(1, 4)]),
    (libc::SYS_sched_setscheduler, &[r(2, 4)]),
    (libc::SYS_sched_rr_get_interval, &[w(1, 16)]),
    (libc::SYS_sched_setaffinity, &[rn(2, 1, 1)]),
    (libc::SYS_sched_getaffinity, &[wn(2, 1, 1)]),
    (libc::SYS_sched_setattr, &[r(1, 56)]),
    (libc::SYS_sched_getattr, &[wn(1, 2, 1)]),
    (libc::SYS_modify_ldt, READ),
    (libc::SYS_getcpu, &[w(0, 4), w(1, 4)]),
    (libc::SYS_futex, &[w(0, 4), r(3, 16), w(4, 4)]),
    (libc::SYS_futex_waitv, &[rn(0, 1, 24), r(3, 16)]),
    (libc::SYS_get_robust_list, &[w(1, 8), w(2, 8)]),
    (libc::SYS_ptrace, &[w(3, SOME)]),
];

const OTHERS: List = &[
    (libc::SYS_mincore, &[Buf { arg: 2, write: true, len: Len::Pages(1) }]),
    (libc::SYS_semop, &[rn(1, 2, 6)]),
    (libc::SYS_semtimedop, &[rn(1, 2, 6), r(3, 16)]),
    (libc::SYS_semctl, &[w(3, SOME)]),
    (libc::SYS_shmctl, &[w(2, 112)]),
    (libc::SYS_msgctl, &[w(2, 120)]),
    (libc::SYS_msgsnd, &[message(1, 2, false)]),
    (libc::SYS_msgrcv, &[message(1, 2, true)]),
    (libc::SYS_mq_open, &[text(0), r(3, 64)]),
    (libc::SYS_mq_unlink, TEXT0),
    (libc::SYS_mq_timedsend, &[rn(1, 2, 1), r(4, 16)]),
    (libc::SYS_mq_timedreceive, &[wn(1, 2, 1), w(3, 4), r(4, 16)]),
    (libc::SYS_mq_notify, &[r(1, 64)]),
    (libc::SYS_mq_getsetattr, &[r(1, 64), w(2, 64)]),
    (libc::SYS_init_module, &[rn(0, 1, 1), text(2)]),
    (libc::SYS_finit_module, TEXT1),
    (libc::SYS_delete_module, TEXT0),
    (libc::SYS_add_key, &[text(0), text(1), rn(2, 3, 1)]),
    (libc::SYS_request_key, &[text(0), text(1), text(2)]),
    (libc::SYS_perf_event_open, &[r(0, 136)]),
    (libc::SYS_bpf, &[wn(1, 2, 1)]),
    (libc::SYS_getrandom, &[wn(0, 1, 1)]),
    (libc::SYS_process_vm_readv, &[vector(1, 2, true)]),
    (libc::SYS_process_vm_writev, &[vector(1, 2, false)]),
    (libc::SYS_process_madvise, NONE),
    (libc::SYS_get_mempolicy, &[w(0, 4), bits(1, 2, true)]),
    (libc::SYS_set_mempolicy, &[bits(1, 2, false)]),
    (libc::SYS_migrate_pages, &[bits(2, 1, false), bits(3, 1, false)]),
    (libc::SYS_move_pages, &[rn(2, 1, 8), rn(3, 1, 4), wn(4, 1, 4)]),
    (libc::SYS_landlock_create_ruleset, SIZED0),
    (libc::SYS_landlock_add_rule, &[r(2, 64)]),
    (libc::SYS_msync, NONE),
    (libc::SYS_munlock, NONE),
    (libc::SYS_brk, NONE),
    (libc::SYS_shmat, NONE),
    (libc::SYS_shmdt, NONE),
];

/// Calls newer than the names.
const NUMBERED: List = &[
    (451, &[r(1, 16), w(2, 40)]),    // cachestat
    (452, TEXT1),                    // fchmodat2
    (454, &[r(0, 4)]),               // futex_wake
    (455, &[r(0, 4), r(4, 16)]),     // futex_wait
    (456, &[r(0, 48)]),              // futex_requeue
    (457, &[r(0, 32), wn(1, 2, 1)]), // statmount
    (458, &[r(0, 32), wn(1, 2, 8)]), // listmount
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_named_exists() {
        for buf in (0..CALLS).filter_map(buffers).flatten() {
            let other = match buf.len {
                Len::Arg(n, ..) | Len::Bits(n) | Len::Pages(n) | Len::At(n) | Len::Vector(n) => n,
                Len::Bytes(_) | Len::Text => 0,
            };
            assert!(buf.arg < 6 && other < 6, "{buf:?}");
        }
    }

    #[test]
    fn lengths_that_hang_on_another_argument_do_not_name_themselves() {
        for buf in (0..CALLS).filter_map(buffers).flatten() {
            if let Len::Arg(n, ..) | Len::At(n) | Len::Vector(n) = buf.len {
                assert_ne!(n, buf.arg, "{buf:?}");
            }
        }
    }
}
