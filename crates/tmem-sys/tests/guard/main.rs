// SPDX-License-Identifier: Apache-2.0
//! The system call guard against the kernel. Owns: one process for each scenario, because dispatch cannot be undone for a whole
//! process at once. Law 16.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "every block here is a system call on this test's own memory"
)]

mod arena;
mod cost;
mod data;
mod heap;
mod large;
mod processes;
mod signals;
mod threads;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const VARIABLE: &str = "TMEM_GUARD_SCENARIO";

/// Runs a scenario in a process of its own; its output is shown if it fails or dies.
fn run(name: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "scenario", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, name)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            let _ = child.kill();
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let out = child.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("scenario done"), "{name}: {}\n{text}", out.status);
    for line in text.lines().filter(|line| line.starts_with("measured")) {
        println!("{line}");
    }
}

macro_rules! scenarios {
    ($($module:ident :: $name:ident),* $(,)?) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        #[test]
        fn scenario() {
            let Ok(name) = std::env::var(VARIABLE) else { return };
            match name.as_str() {
                $(stringify!($name) => $module::$name(),)*
                other => panic!("no scenario {other}"),
            }
            arena::assert_nothing_held();
            println!("scenario done");
        }
    };
}

scenarios! {
    data::unguarded_calls_meet_efault,
    data::plain_reads_and_writes,
    data::vectors,
    data::messages,
    data::many_messages,
    data::datagram_is_not_lost,
    data::event_is_not_lost,
    data::inotify_is_not_lost,
    data::names_and_structures,
    data::polls_and_sockets,
    data::bad_pointers_are_answers,
    data::mappings_are_protected,
    data::descriptors_are_protected,
    data::refused_interfaces,
    heap::numbers_hold_nothing,
    heap::many_buffers,
    heap::more_than_can_be_held,
    heap::filters,
    heap::interfaces,
    heap::futexes,
    heap::many_wait_for_a_futex,
    heap::clone_with_paged_arguments,
    heap::places_of_a_thread,
    heap::paged_stack_is_refused,
    large::file_in_windows,
    large::file_vectors_in_windows,
    large::direct_io_in_windows,
    large::pipe_write_takes_all,
    large::stream_read_is_short,
    large::wait_all_fills,
    large::stream_messages,
    large::datagram_too_large_is_refused,
    threads::thread_made_before,
    threads::thread_made_after,
    threads::raw_clone_thread,
    threads::thread_waiting_in_read,
    threads::many_threads_come_and_go,
    threads::blocked_sigsys_is_reported,
    threads::a_thread_that_keeps_to_itself_is_let_be,
    threads::uring_is_reported,
    threads::exempt_thread,
    threads::disarm_and_again,
    threads::stranger_is_found,
    processes::spawn_and_wait,
    processes::spawn_from_many_threads,
    processes::fork_and_exec,
    processes::fork_child_arms,
    processes::vfork_child,
    processes::exec_with_paged_strings,
    processes::exec_with_many_arguments,
    processes::spawn_with_paged_strings,
    processes::vfork_with_paged_strings,
    processes::borrower_is_killed_in_a_call,
    processes::borrower_resets_its_signals,
    processes::borrower_without_handlers,
    processes::shell,
    signals::restart_in_blocking_read,
    signals::interrupt_in_blocking_read,
    signals::many_signals_during_calls,
    signals::masks_are_as_set,
    signals::handler_masks_leave_ours,
    signals::old_handler_with_full_mask,
    signals::masked_waits,
    signals::alternate_stack,
    signals::alternate_stack_in_paged_memory,
    signals::alternate_stack_from_before,
    signals::actions_are_virtual,
    signals::sent_sigsys_reaches_the_program,
    signals::long_jump_out_of_handler,
    cost::intercepted_call,
}
