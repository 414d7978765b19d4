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

/// Arguments, all in the arena, that end a shell with this code.
fn paged_arguments(code: u8) -> (arena::Paged, arena::Paged, arena::Paged) {
    let path = at(4090, 20).set(b"/bin/sh\0");
    let flag = at(8190, 20).set(b"-c\0");
    let script = at(12280, 100).set(format!("test \"$A\" = b && exit {code}\0").as_bytes());
    let argv = at(2 * MIB - 16, 64).put([path.addr, flag.addr, script.addr, 0]);
    let envp = at(3 * MIB - 12, 20).put([at(3 * MIB + 5000, 10).set(b"A=b\0").addr, 0]);
    (path, argv, envp)
}

fn close(fds: [i32; 2]) {
    for fd in fds {
        ok(unsafe { libc::close(fd) });
    }
}

/// `posix_spawn` with its strings in paged memory (it counts the arguments itself, here in plain memory); and one that fails.
pub fn spawn_with_paged_strings() {
    arena::arm();
    let spawn = |path: arena::Paged, argv: arena::Paged, envp: arena::Paged| unsafe {
        let argv: [usize; 4] = argv.get();
        let mut child = 0;
        let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
        ok(libc::posix_spawn_file_actions_init(&raw mut actions));
        ok(libc::posix_spawn_file_actions_addopen(
            &raw mut actions,
            5,
            c"/dev/null".as_ptr(),
            libc::O_RDWR,
            0,
        ));
        ok(libc::posix_spawn_file_actions_adddup2(&raw mut actions, 5, 6));
        let answer = libc::posix_spawn(
            &raw mut child,
            path.ptr(),
            &raw const actions,
            std::ptr::null(),
            argv.as_ptr().cast(),
            envp.ptr(),
        );
        ok(libc::posix_spawn_file_actions_destroy(&raw mut actions));
        (answer, child)
    };
    for code in 1..60 {
        let (path, argv, envp) = paged_arguments(code);
        let (answer, child) = spawn(path, argv, envp);
        assert_eq!(answer, 0);
        assert_eq!(wait_for(child), i32::from(code) << 8);
        let nowhere = at(5 * MIB - 3, 20).set(b"/nowhere\0");
        assert_eq!(spawn(nowhere, argv, envp).0, libc::ENOENT);
        arena::assert_nothing_held();
    }
    guard::all_covered().unwrap();
}

/// The child of `vfork` is guarded as its parent is; an `execve` that fails comes back, and one that does not leaves nothing held.
#[allow(deprecated)]
pub fn vfork_with_paged_strings() {
    arena::arm();
    let nowhere = at(5 * MIB - 3, 20).set(b"/nowhere\0");
    for code in 1..60 {
        let (path, argv, envp) = paged_arguments(code);
        let pid = unsafe { libc::vfork() };
        if pid == 0 {
            unsafe {
                let failed = libc::execve(nowhere.ptr(), argv.ptr(), envp.ptr());
                if failed == -1 && *libc::__errno_location() == libc::ENOENT {
                    libc::execve(path.ptr(), argv.ptr(), envp.ptr());
                }
                libc::_exit(99)
            };
        }
        assert_eq!(wait_for(ok(pid) as i32), i32::from(code) << 8);
        arena::assert_nothing_held();
    }
    guard::all_covered().unwrap();
}

/// A child that is killed in the middle of a call lets go of what the call held.
#[allow(deprecated)]
pub fn borrower_is_killed_in_a_call() {
    arena::arm();
    for _ in 0..3 {
        let mut fds = [0; 2];
        ok(unsafe { libc::pipe(fds.as_mut_ptr()) });
        let told = at(MIB, 4).put(0i32);
        let killer = std::thread::spawn(move || {
            while told.get::<i32>() == 0 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            ok(unsafe { libc::kill(told.get::<i32>(), libc::SIGKILL) });
        });
        let buffer = at(4094, 10);
        let pid = unsafe { libc::vfork() };
        if pid == 0 {
            unsafe {
                told.put(libc::getpid());
                libc::read(fds[0], buffer.ptr(), 10);
                libc::_exit(1)
            };
        }
        killer.join().unwrap();
        assert_eq!(wait_for(ok(pid) as i32), libc::SIGKILL);
        arena::assert_nothing_held();
        close(fds);
    }
}

/// What a borrower sets for our signals does not reach its parent, and ours stay in force in it.
#[allow(deprecated)]
pub fn borrower_resets_its_signals() {
    arena::arm();
    let handler = |signal| unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        ok(libc::sigaction(signal, std::ptr::null(), &raw mut now));
        now.sa_sigaction
    };
    unsafe { libc::signal(libc::SIGSYS, libc::SIG_IGN) };
    at(MIB, 30).set(b"/proc/self/stat\0");
    let path = at(MIB, 1);
    let pid = unsafe { libc::vfork() };
    if pid == 0 {
        unsafe {
            for signal in 1..32 {
                libc::signal(signal, libc::SIG_DFL);
            }
            libc::_exit(if libc::access(path.ptr(), libc::R_OK) == 0 { 3 } else { 4 })
        };
    }
    assert_eq!(wait_for(ok(pid) as i32), 3 << 8);
    assert_eq!(handler(libc::SIGSYS), libc::SIG_IGN);
}

const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;

/// A child without its parent's handlers, as newer C libraries make it, on a stack of its own: two calls from there.
unsafe fn cleared_child(flags: u64, path: usize) -> i64 {
    let stack = vec![0u8; 64 << 10];
    let (base, len) = (stack.as_ptr() as u64, stack.len() as u64);
    let args: [u64; 11] = [flags | CLONE_CLEAR_SIGHAND, 0, 0, 0, libc::SIGCHLD as u64, base, len, 0, 0, 0, 0];
    let answer: i64;
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov eax, 21", // access
            "mov rdi, r12",
            "mov esi, 4",
            "syscall",
            "lea rdi, [rax + 7]",
            "mov eax, 231", // exit_group
            "syscall",
            "2:",
            inlateout("rax") libc::SYS_clone3 => answer,
            in("rdi") args.as_ptr(), in("rsi") size_of_val(&args), in("r12") path,
            out("rcx") _, out("r11") _,
        );
    }
    answer
}

pub fn borrower_without_handlers() {
    arena::arm();
    let path = at(MIB, 30).set(b"/proc/self/stat\0").addr;
    let both = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    for _ in 0..10 {
        let pid = unsafe { cleared_child(both, path) };
        assert_eq!(wait_for(ok(pid) as i32), 7 << 8);
    }
    assert_eq!(unsafe { cleared_child(libc::CLONE_VM as u64, path) }, -i64::from(libc::EINVAL));
    assert!(arena::last_notice().contains("CLONE_VFORK"));
    guard::all_covered().unwrap();
}

/// More arguments than there are records of holds, each on a page of its own, and more than a kernel takes.
pub fn exec_with_many_arguments() {
    arena::arm();
    const COUNT: usize = 6000;
    let all = at(MIB, COUNT * 8192);
    let text = [c"sh", c"-c", c"test $# = 5999 && exit 7"].map(|t| t.as_ptr() as usize);
    let mut words: Vec<usize> =
        text.into_iter().chain((0..COUNT).map(|i| all.addr + i * 8192)).chain([0]).collect();
    all.with(|bytes| (0..COUNT).for_each(|i| bytes[i * 8192..][..2].copy_from_slice(b"x\0")));
    let spawn = |words: &[usize]| {
        let mut child = 0;
        let path = c"/bin/sh".as_ptr();
        let none = std::ptr::null::<u8>();
        let no_words = [std::ptr::null_mut()];
        let answer = unsafe {
            libc::posix_spawn(
                &raw mut child,
                path,
                none.cast(),
                none.cast(),
                words.as_ptr().cast(),
                no_words.as_ptr(),
            )
        };
        (answer, child)
    };
    let (answer, child) = spawn(&words);
    assert_eq!((answer, wait_for(child)), (0, 7 << 8));
    all.with(|bytes| bytes[..200_000].fill(b'y'));
    assert_eq!(spawn(&words).0, libc::E2BIG);
    words[5] = 1;
    all.with(|bytes| bytes[..200_000].fill(0));
    assert_eq!(spawn(&words).0, libc::EFAULT);
    arena::assert_nothing_held();
}

pub fn shell() {
    arena::arm();
    assert_eq!(ok(unsafe { libc::system(c"exit 9".as_ptr()) }), 9 << 8);
    let file = unsafe { libc::popen(c"echo popen".as_ptr(), c"r".as_ptr()) };
    let mut line = [0u8; 100];
    assert!(!unsafe { libc::fgets(line.as_mut_ptr().cast(), 100, file) }.is_null());
    assert!(line.starts_with(b"popen\n"));
    assert_eq!(ok(unsafe { libc::pclose(file) }), 0);
}
