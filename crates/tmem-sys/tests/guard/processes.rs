// SPDX-License-Identifier: Apache-2.0
//! New processes: spawned, forked, executed, with the guard on in the parent.

use crate::arena::{self, at, ok};
use crate::threads::guarded_call;
use std::process::Command;
use tmem_sys::guard;

fn echo() {
    let out = Command::new("/bin/echo").arg("hello").output().unwrap();
    assert_eq!(out.stdout, b"hello\n");
}

pub fn spawn_and_wait() {
    arena::arm();
    for _ in 0..20 {
        echo();
    }
    assert!(Command::new("/nonexistent/program").spawn().is_err());
    let status = Command::new("/bin/sh").args(["-c", "kill -9 $$"]).status().unwrap();
    assert!(!status.success());
    assert!(guarded_call(0));
}

pub fn spawn_from_many_threads() {
    arena::arm();
    let threads: Vec<_> = (0..8)
        .map(|i| {
            std::thread::spawn(move || {
                for _ in 0..10 {
                    echo();
                    assert!(guarded_call(i << 20));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

fn wait_for(pid: i32) -> i32 {
    let status = at(4094, 4);
    assert_eq!(ok(unsafe { libc::waitpid(pid, status.ptr(), 0) }), pid as usize);
    status.get()
}

/// With a closure before it, `Command` forks instead of spawning.
pub fn fork_and_exec() {
    use std::os::unix::process::CommandExt;
    arena::arm();
    for _ in 0..10 {
        let mut command = Command::new("/bin/echo");
        unsafe { command.arg("hello").pre_exec(|| Ok(())) };
        assert_eq!(command.output().unwrap().stdout, b"hello\n");
    }
}

/// The child runs natively until it is armed, and then like its parent.
pub fn fork_child_arms() {
    arena::arm();
    for _ in 0..10 {
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let native = !guarded_call(0);
            let armed = guard::arm_after_fork().is_ok() && guard::all_covered().is_ok();
            let thread = std::thread::spawn(|| guarded_call(1 << 20)).join().unwrap();
            let nested = unsafe { libc::fork() };
            if nested == 0 {
                unsafe { libc::_exit(3) };
            }
            let good = native && armed && thread && guarded_call(0) && wait_for(nested) == 3 << 8;
            unsafe { libc::_exit(if good { 0 } else { 1 }) };
        }
        assert_eq!(wait_for(ok(pid) as i32), 0);
        assert!(guarded_call(0));
    }
    guard::all_covered().unwrap();
}

/// `vfork` borrows the stack: the child's calls must not touch what the parent keeps below its stack pointer.
#[allow(deprecated)]
pub fn vfork_child() {
    arena::arm();
    for i in 0..20 {
        let argv = [c"sh".as_ptr(), c"-c".as_ptr(), c"exit 5".as_ptr(), std::ptr::null()];
        let pid = unsafe { libc::vfork() };
        if pid == 0 {
            unsafe {
                libc::execv(if i % 2 == 0 { c"/bin/sh" } else { c"/none" }.as_ptr(), argv.as_ptr());
                libc::_exit(6)
            };
        }
        assert_eq!(wait_for(ok(pid) as i32), if i % 2 == 0 { 5 << 8 } else { 6 << 8 });
    }
}

/// `execve` from paged strings: first refused by name, then in place of a child.
pub fn exec_with_paged_strings() {
    arena::arm();
    let long = vec![b'x'; 10_000];
    let script = [b"test ${#1} = 10000 && exit 7\0".as_slice()].concat();
    let path = at(4090, 20).set(b"/bin/sh\0");
    let flag = at(8190, 20).set(b"-c\0");
    let script = at(12280, 100).set(&script);
    let name = at(20_000, 10).set(b"sh\0");
    let arg = at(MIB - 5000, 10_001).set(&[long.as_slice(), b"\0"].concat());
    let argv = at(2 * MIB - 16, 64).put([name.addr, flag.addr, script.addr, name.addr, arg.addr, 0]);
    let envp = at(3 * MIB - 8, 16).put([at(3 * MIB + 5000, 10).set(b"A=b\0").addr, 0]);
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        guard::arm_after_fork().unwrap();
        unsafe { libc::execve(path.ptr(), argv.ptr(), envp.ptr()) };
        unsafe { libc::_exit(arena::errno()) };
    }
    assert_eq!(wait_for(ok(pid) as i32), 7 << 8);
}

const MIB: usize = 1 << 20;

pub fn shell() {
    arena::arm();
    assert_eq!(ok(unsafe { libc::system(c"exit 9".as_ptr()) }), 9 << 8);
    let file = unsafe { libc::popen(c"echo popen".as_ptr(), c"r".as_ptr()) };
    let mut line = [0u8; 100];
    assert!(!unsafe { libc::fgets(line.as_mut_ptr().cast(), 100, file) }.is_null());
    assert!(line.starts_with(b"popen\n"));
    assert_eq!(ok(unsafe { libc::pclose(file) }), 0);
}
