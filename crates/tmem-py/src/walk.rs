// SPDX-License-Identifier: Apache-2.0
//! Owns: the one loop that `tmem bench` walks memory with, whoever's memory it is, and the check of every byte behind it.
//! Callers: `python/tmem/bench/walk.py`. It takes no lock and runs without the GIL, so that threads may walk the same memory.
//! Law: what a page must hold is known before it is touched, and a wrong word is counted, never passed over.
//!
//! Each page has one word that is read and written, at a place that depends on the page and the seed ([`place`]). `expected`
//! holds what that word must be; it is small, so the loop's own data stay in the caches for every peer alike.
//! The time of each access goes into a histogram of the processor's ticks. One reading of the counter stands between two
//! accesses: a load that faults is executed again when its page has come, and the reading behind it too.

use crate::buffer::Buffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::arch::x86_64::_rdtsc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PAGE: usize = 4096;
const WORD: usize = 8;
/// Each octave of ticks has this many steps: percentiles are right to a sixteenth.
const STEPS: usize = 16;
const BUCKETS: usize = 64 * STEPS;

/// What is done with each page.
#[derive(Clone, Copy)]
enum Access {
    /// Copies the page from here.
    Fill(usize),
    Read,
    /// Writes the expected word and this much more, as a counter does.
    Write(u64),
}

struct Walk {
    time: Duration,
    ticks: u64,
    wrong: u64,
    first: Option<(u32, u64)>,
    counts: Box<[u64; BUCKETS]>,
    longest: u64,
}

/// Visits the pages of `memory` in `order`. `mode` is `fill` (whole pages from `source`), `read` or `write`.
#[pyfunction]
#[pyo3(signature = (memory, order, expected, *, mode, seed, add = 0, source = None))]
#[allow(clippy::too_many_arguments)] // one call is one measured pass, and each of these is part of it
pub fn walk<'py>(
    py: Python<'py>,
    memory: &Bound<'py, PyAny>,
    order: &Bound<'py, PyAny>,
    expected: &Bound<'py, PyAny>,
    mode: &str,
    seed: u64,
    add: u64,
    source: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let memory = whole_pages(Buffer::write(memory)?, "memory")?;
    let pages = memory.len() / PAGE;
    let source = source.map(|s| whole_pages(Buffer::read(s)?, "source")).transpose()?;
    let access = match (mode, &source) {
        ("fill", Some(source)) if source.len() == memory.len() => Access::Fill(source.addr()),
        ("fill", _) => return Err(PyValueError::new_err("fill needs a source as large as the memory")),
        ("read", _) => Access::Read,
        ("write", _) => Access::Write(add),
        _ => return Err(PyValueError::new_err(format!("mode is fill, read or write, not {mode:?}"))),
    };
    let (order, expected) = (Buffer::read(order)?, Buffer::read(expected)?);
    let order = order.numbers::<u32>(order.len() / size_of::<u32>())?;
    let expected = expected.numbers::<u64>(pages)?;
    if let Some(page) = order.iter().find(|&&page| page as usize >= pages) {
        return Err(PyValueError::new_err(format!("page {page} of a memory of {pages}")));
    }
    let at = memory.addr();
    let walk = py.detach(|| pass(at, order, expected, access, seed));
    told(py, &walk, expected)
}

/// Compares every byte of `memory` with `source`, but for each page's one word, which must be as `expected` says.
/// Returns how many pages are wrong, and the first of them.
#[pyfunction]
#[pyo3(signature = (memory, source, expected, *, seed))]
pub fn walk_verify(
    py: Python<'_>,
    memory: &Bound<'_, PyAny>,
    source: &Bound<'_, PyAny>,
    expected: &Bound<'_, PyAny>,
    seed: u64,
) -> PyResult<(u64, Option<usize>)> {
    let memory = whole_pages(Buffer::read(memory)?, "memory")?;
    let source = whole_pages(Buffer::read(source)?, "source")?;
    let expected = Buffer::read(expected)?;
    let pages = memory.len() / PAGE;
    let (memory, source) = (memory.pages(pages)?, source.pages(pages)?);
    let expected = expected.numbers::<u64>(pages)?;
    let wrong = py.detach(|| {
        let is_wrong = |&page: &usize| {
            let (found, from, at) = (&memory[page], &source[page], place(page, seed) * WORD);
            found[..at] != from[..at]
                || found[at..at + WORD] != expected[page].to_ne_bytes()
                || found[at + WORD..] != from[at + WORD..]
        };
        let mut wrong = (0..pages).filter(is_wrong);
        let first = wrong.next();
        (first.map_or(0, |_| 1 + wrong.count() as u64), first)
    });
    Ok(wrong)
}

fn whole_pages(buffer: Buffer, what: &str) -> PyResult<Buffer> {
    if buffer.len() == 0 || !buffer.len().is_multiple_of(PAGE) || !buffer.addr().is_multiple_of(PAGE) {
        return Err(PyValueError::new_err(format!("the {what} must be whole pages, aligned to pages")));
    }
    Ok(buffer)
}

/// Which of the 512 words of a page is the one that is read and written.
fn place(page: usize, seed: u64) -> usize {
    ((page as u64).wrapping_add(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 55) as usize
}

fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the counter, and Linux leaves it to its programs.
    unsafe { _rdtsc() }
}

fn pass(memory: usize, order: &[u32], expected: &[u64], access: Access, seed: u64) -> Walk {
    let (mut wrong, mut first, mut longest) = (0, None, 0);
    let mut counts = Box::new([0; BUCKETS]);
    let start = Instant::now();
    let begin = ticks();
    let mut last = begin;
    for &page in order {
        let (index, start) = (page as usize, memory + page as usize * PAGE);
        let word = (start + place(index, seed) * WORD) as *mut u64;
        // SAFETY: the page is inside the caller's writable buffer (checked before the pass), the word is aligned in it,
        // and whoever else touches it meanwhile does so by this same loop.
        let word = unsafe { AtomicU64::from_ptr(word) };
        match access {
            Access::Read => {
                let found = word.load(Ordering::Relaxed);
                if found != expected[index] {
                    wrong += 1;
                    first.get_or_insert((page, found));
                }
            }
            Access::Write(add) => word.store(expected[index].wrapping_add(add), Ordering::Relaxed),
            Access::Fill(source) => {
                let from = (source + index * PAGE) as *const u8;
                // SAFETY: both buffers have that page whole; threads that fill are given different pages.
                unsafe { std::ptr::copy_nonoverlapping(from, start as *mut u8, PAGE) };
            }
        }
        let now = ticks();
        let took = now.wrapping_sub(last);
        counts[bucket(took)] += 1;
        longest = longest.max(took);
        last = now;
    }
    Walk { time: start.elapsed(), ticks: last.wrapping_sub(begin), wrong, first, counts, longest }
}

/// The histogram's bucket of a number of ticks: exact up to [`STEPS`], then `STEPS` to each octave.
fn bucket(ticks: u64) -> usize {
    let octave = (ticks | 1).ilog2() as usize;
    if octave < 4 { ticks as usize } else { (octave - 3) * STEPS + (ticks >> (octave - 4)) as usize % STEPS }
}

/// The middle of a bucket, in ticks.
fn middle(bucket: usize) -> f64 {
    if bucket < STEPS {
        return bucket as f64;
    }
    let width = (1u64 << (bucket / STEPS - 1)) as f64;
    (STEPS + bucket % STEPS) as f64 * width + width / 2.0
}

fn told<'py>(py: Python<'py>, walk: &Walk, expected: &[u64]) -> PyResult<Bound<'py, PyDict>> {
    let scale = walk.time.as_nanos() as f64 / walk.ticks.max(1) as f64;
    let latencies: Vec<(f64, u64)> =
        (0..BUCKETS).filter(|&n| walk.counts[n] > 0).map(|n| (middle(n) * scale, walk.counts[n])).collect();
    let first = walk.first.map(|(page, found)| (page, found, expected[page as usize]));
    let said = PyDict::new(py);
    said.set_item("seconds", walk.time.as_secs_f64())?;
    said.set_item("wrong", walk.wrong)?;
    said.set_item("first_wrong", first)?;
    said.set_item("latencies", latencies)?;
    said.set_item("longest_ns", walk.longest as f64 * scale)?;
    Ok(said)
}
