// SPDX-License-Identifier: Apache-2.0
//! `tmem._preload`: what `tmem run` loads into a program before everything else. It exports no symbol, so that nothing of the
//! program's is bound to it, and takes no memory from the program's own heap: see `heap`.
//!
//! Start reading at `start`, which puts jumps into the C library (`patch`) to what stands in for its functions (`hooks`). Those
//! decide in `space` what is managed; the pager does the rest.

mod start;

mod elf;
mod hooks;
mod patch;

mod advice;
mod altstack;
mod brk;
mod early;
mod marks;
mod masks;
mod remap;
mod space;

mod door;
mod exec;
mod forks;
mod guest;
mod ledger;
mod refusal;
mod report;
mod rlimit;
mod settings;
mod share;
mod shared;
mod usage;

mod cnames;
pub mod heap;
mod procfs;
mod unwind;

#[global_allocator]
static HEAP: heap::Heap = heap::Heap::new();
