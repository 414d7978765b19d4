// SPDX-License-Identifier: Apache-2.0
//! `tmem._preload`: what `tmem run` loads into a program before everything else. It exports no symbol, so that nothing of the
//! program's is bound to it, and takes no memory from the program's own heap: see `heap`.

mod cnames;
pub mod heap;

#[global_allocator]
static HEAP: heap::Heap = heap::Heap::new();
mod unwind;
