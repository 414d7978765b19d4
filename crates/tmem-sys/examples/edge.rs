// SPDX-License-Identifier: Apache-2.0
//! What the kernel's interface itself costs: a fault through SIGBUS, transfers of one page and of runs, alone and while another
//! thread of the process runs. Nothing is packed, and nothing is looked up.
//!
//! `cargo run --release -p tmem-sys --example edge -- [--json]`
//!
//! Five rounds, each of every step over all pages; single pages in a shuffled order. The median counts, the spread is shown. Each
//! page's number is compared when it is read.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tmem_sys::entry::{self, Entry, Served};
use tmem_sys::frames::{Access, Frames, whole};
use tmem_sys::{Lock, PAGE_SIZE, Page, ThreadKey};

const PAGES: usize = 4096;
const RUN: usize = 64;
const ROUNDS: usize = 5;
const STEPS: [&str; 8] = [
    "copy of a page",
    "fault and move in, one page",
    "move in, one page",
    "move out, one page",
    "move in, a run of 64",
    "move out, a run of 64",
    "copy in, one page",
    "copy in, a run of 64",
];

/// The arena and the staging area; a page's slot has its number.
static FRAMES: Lock<Option<Frames>> = Lock::new(None);

/// Does something with the frames, as the fault function may at any time.
fn with<T>(work: impl FnOnce(&mut Frames) -> T) -> T {
    work(FRAMES.lock().as_mut().expect("made at the start"))
}

fn serve(addr: usize, _who: ThreadKey) -> Served {
    with(|frames| {
        let page = (addr - frames.arena_addr()) / PAGE_SIZE;
        assert_eq!(frames.put_in(page, 1, page).pages, 1);
    });
    Served::Yes
}

fn runs() -> impl Iterator<Item = usize> {
    (0..PAGES).step_by(RUN)
}

/// All numbers below `PAGES`, in an order that no read-ahead of the processor follows.
fn shuffled() -> Vec<usize> {
    let mut order: Vec<usize> = (0..PAGES).collect();
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    for i in (1..PAGES).rev() {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (x >> 33) as usize % (i + 1));
    }
    order
}

fn numbered(pages: Range<usize>) -> Vec<Page> {
    pages
        .map(|n| {
            let mut page = [0; PAGE_SIZE];
            page[..8].copy_from_slice(&n.to_le_bytes());
            page
        })
        .collect()
}

fn out_all() {
    runs().for_each(|at| assert_eq!(with(|f| f.take_out(at, RUN, at)).pages, RUN));
}

fn in_all() {
    runs().for_each(|at| assert_eq!(with(|f| f.put_in(at, RUN, at)).pages, RUN));
}

fn drop_all() {
    out_all();
    with(|f| f.discard_frames(0..PAGES));
}

fn read_all(order: &[usize]) {
    let base = with(|f| f.arena_addr());
    for &page in order {
        // SAFETY: the page lies in the arena, which stays mapped; whatever is missing, the fault function brings.
        let found = unsafe { std::ptr::read_volatile((base + page * PAGE_SIZE) as *const usize) };
        assert_eq!(found, page);
    }
}

/// Nanoseconds a page of what `work` does to all pages.
fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64 / PAGES as f64
}

/// One round: every step, in the order of [`STEPS`].
fn round(order: &[usize], pages: &[Page]) -> [f64; STEPS.len()] {
    let one = |what: &dyn Fn(&mut Frames, usize) -> usize| {
        order.iter().for_each(|&page| assert_eq!(with(|f| what(f, page)), 1));
    };
    let copy_run = timed(|| {
        runs().for_each(|at| assert_eq!(with(|f| f.copy_in(at, &pages[at..at + RUN])).pages, RUN));
    });
    let out_run = timed(out_all);
    let mut beside = [0; PAGE_SIZE];
    let copy = timed(|| {
        order.iter().for_each(|&n| std::hint::black_box(&mut beside).copy_from_slice(&with(|f| *f.frame(n))));
    });
    let in_run = timed(in_all);
    let out_one = timed(|| one(&|f, page| f.take_out(page, 1, page).pages));
    let fault = timed(|| read_all(order));
    out_all();
    let in_one = timed(|| one(&|f, page| f.put_in(page, 1, page).pages));
    drop_all();
    let copy_one = timed(|| one(&|f, page| f.copy_in(page, &pages[page..=page]).pages));
    read_all(order);
    drop_all();
    [copy, fault, in_one, out_one, in_run, out_run, copy_one, copy_run]
}

/// All rounds, sorted for each step; with another thread that runs all the while, or alone.
fn rounds(other: bool) -> Vec<Vec<f64>> {
    let (order, pages) = (shuffled(), numbered(0..PAGES));
    let stop = Arc::new(AtomicBool::new(!other));
    let seen = stop.clone();
    let thread = std::thread::spawn(move || {
        while !seen.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    round(&order, &pages);
    let mut steps = vec![Vec::new(); STEPS.len()];
    for _ in 0..ROUNDS {
        steps.iter_mut().zip(round(&order, &pages)).for_each(|(step, ns)| step.push(ns));
    }
    stop.store(true, Ordering::Relaxed);
    thread.join().expect("it only waits");
    steps.iter_mut().for_each(|step| step.sort_by(f64::total_cmp));
    steps
}

fn main() -> Result<(), String> {
    let json = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [arg] if arg == "--json" => true,
        other => return Err(format!("{other:?}: only --json is known")),
    };
    let failed = |what: &'static str| move |e: tmem_sys::Errno| format!("{what}: {e}");
    *FRAMES.lock() = Some(Frames::new(PAGES, PAGES, Access::Everywhere).map_err(failed("reserving memory"))?);
    entry::set_hooks(serve, |_| true);
    entry::start(Entry::Signal).map_err(failed("opening userfaultfd (tmem doctor tells the remedy)"))?;
    with(|f| f.register(Entry::Signal.uffd())).map_err(failed("registering memory"))?;
    let mut rows = Vec::new();
    for (threads, other) in [(1, false), (2, true)] {
        for (step, ns) in STEPS.iter().zip(rounds(other)) {
            let each: Vec<String> = ns.iter().map(|ns| format!("{ns:.1}")).collect();
            let median = &each[ROUNDS / 2];
            if !json {
                println!("{step:28} {threads} running: {median:>8} ns ({} to {})", each[0], each[ROUNDS - 1]);
            }
            rows.push(format!(
                "{{\"step\": \"{step}\", \"running\": {threads}, \"ns\": {median}, \"ns_rounds\": [{}]}}",
                each.join(", ")
            ));
        }
    }
    if json {
        println!("{{\"pages\": {PAGES}, \"rows\": [{}]}}", rows.join(", "));
    }
    Ok(())
}
