// SPDX-License-Identifier: Apache-2.0
//! Calls that are given numbers only. What stands in their other registers is left over from something else, and where the heap is
//! paged it often points there: nothing is brought in for it, and no call is refused for it. Pure data; read by `table`.

#[allow(clippy::wildcard_imports, reason = "a list of their names is what this file is")]
use libc::*;

#[rustfmt::skip]
pub(super) const NUMBERS: &[c_long] = &[
    SYS_lseek, SYS_close, SYS_dup, SYS_dup2, SYS_dup3, SYS_sched_yield, SYS_pause, SYS_alarm, SYS_getpid,
    SYS_gettid, SYS_getppid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_setuid, SYS_setgid,
    SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid, SYS_setfsuid, SYS_setfsgid, SYS_getpgrp,
    SYS_getpgid, SYS_setpgid, SYS_getsid, SYS_setsid, SYS_kill, SYS_tkill, SYS_tgkill, SYS_socket,
    SYS_shutdown, SYS_listen, SYS_fsync, SYS_fdatasync, SYS_sync, SYS_syncfs, SYS_ftruncate, SYS_fchmod,
    SYS_fchown, SYS_fchdir, SYS_flock, SYS_umask, SYS_fallocate, SYS_fadvise64, SYS_readahead,
    SYS_sync_file_range, SYS_inotify_init, SYS_inotify_init1, SYS_inotify_rm_watch, SYS_epoll_create,
    SYS_epoll_create1, SYS_eventfd, SYS_eventfd2, SYS_timerfd_create, SYS_timer_getoverrun,
    SYS_timer_delete, SYS_personality, SYS_getpriority, SYS_setpriority, SYS_sched_get_priority_max,
    SYS_sched_get_priority_min, SYS_sched_getscheduler, SYS_ioprio_set, SYS_ioprio_get, SYS_unshare,
    SYS_setns, SYS_vhangup, SYS_iopl, SYS_ioperm, SYS_tee, SYS_userfaultfd, SYS_pidfd_open, SYS_pidfd_getfd,
    SYS_membarrier, SYS_pkey_alloc, SYS_pkey_free, SYS_msgget, SYS_semget, SYS_shmget, SYS_fanotify_init,
    SYS_restart_syscall, SYS_munlockall, SYS_io_destroy,
];
