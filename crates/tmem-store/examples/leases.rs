// SPDX-License-Identifier: Apache-2.0
//! What it costs a store to grow by leases, against one that has room of its own, in one run: the same pages into both, by turns.
//! A thread plays host and client: it makes each extent as a host does, when it is asked for.
//!
//! `cargo run --release -p tmem-store --example leases -- [--json] [--mib N] [--extent MIB]`
//!
//! Three rounds each, alternating; the median counts, the spread is shown. What was stored is compared.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;
use tmem_store::lease::{Kind, LinkState};
use tmem_store::{Extent, Loaded, Mailbox, ObjectId, PageStore, PoolConfig, StoreConfig, Vacated};
use tmem_sys::lease::LeaseFd;
use tmem_sys::{PAGE_SIZE, Page, time};

const OBJECT: ObjectId = ObjectId([1, 2, 3]);
const ROUNDS: usize = 3;
const MIB: usize = 1 << 20;
/// Different pages; each packs to some half.
const PAGES: usize = 1024;

struct Options {
    json: bool,
    mib: usize,
    extent: usize,
}

fn options() -> Result<Options, String> {
    let mut options = Options { json: false, mib: 256, extent: 4 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number =
            || args.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).ok_or("a number, at least 1");
        match arg.as_str() {
            "--json" => options.json = true,
            "--mib" => options.mib = number()?,
            "--extent" => options.extent = number()?,
            other => return Err(format!("{other}: not one of --json, --mib N, --extent MIB")),
        }
    }
    Ok(options)
}

fn make_page(n: usize) -> Page {
    let mut x = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|i| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        if i < PAGE_SIZE / 2 { x as u8 } else { n as u8 }
    })
}

/// Grants what is wanted until it is told to stop.
fn serve(mailbox: &Mailbox, bytes: usize, stop: &AtomicBool) {
    let mut id = 0;
    mailbox.set_state(LinkState::Idle);
    while !stop.load(Ordering::Relaxed) {
        mailbox.wait(50);
        mailbox.set_state(LinkState::Asking);
        while mailbox.wanted() > 0 && !stop.load(Ordering::Relaxed) {
            id += 1;
            let fd = LeaseFd::new(bytes).expect("the machine has room for it");
            if mailbox.deposit(Extent { id, fd, bytes }).is_err() {
                break;
            }
        }
        mailbox.set_state(LinkState::Idle);
    }
}

struct Filled {
    fill_ns: f64,
    /// Of these, time for which the storing thread ran.
    ran_ns: f64,
    give_ms: f64,
}

/// Nanoseconds a page of a fill, and of leased memory the milliseconds in which half of it was given back afterwards.
fn fill(options: &Options, pages: &[Page], leased: bool) -> Filled {
    let whole = options.mib * MIB;
    let (capacity, lease_reserve) = if leased { (32 * MIB, 2 * whole) } else { (2 * whole, 0) };
    let config = StoreConfig { lease_reserve, ..StoreConfig::for_pages(whole as u64 / 512, capacity) };
    let mut store = PageStore::new(config).expect("address space");
    let pool = store.new_pool(PoolConfig::default()).expect("the first pool");
    let mailbox = Mailbox::new(Kind::Persistent).expect("a mailbox");
    let stop = AtomicBool::new(false);
    let mut done = Filled { fill_ns: 0.0, ran_ns: 0.0, give_ms: 0.0 };
    thread::scope(|scope| {
        if leased {
            store.set_mailbox(Some(Arc::clone(&mailbox)));
            scope.spawn(|| serve(&mailbox, options.extent * MIB, &stop));
        }
        let (began, ran) = (Instant::now(), time::thread_ns());
        let mut n = 0;
        while (store.stats().slot_bytes as usize) < whole {
            for _ in 0..256 {
                let outcome = store.put(pool, OBJECT, n, &pages[n as usize % PAGES]).expect("the pool lives");
                assert!(outcome.is_stored(), "page {n}: {outcome:?}");
                n += 1;
            }
        }
        done.fill_ns = began.elapsed().as_nanos() as f64 / n as f64;
        done.ran_ns = (time::thread_ns() - ran) as f64 / n as f64;
        stop.store(true, Ordering::Relaxed);
        mailbox.poke();
        let mut into = [0; PAGE_SIZE];
        for n in 0..n {
            assert_eq!(store.get(pool, OBJECT, n, &mut into), Ok(Loaded::Loaded));
            assert!(into == pages[n as usize % PAGES], "page {n}");
        }
        if leased {
            (0..n)
                .filter(|n| n % 2 == 0)
                .for_each(|n| assert_eq!(store.flush_page(pool, OBJECT, n), Ok(true)));
            let began = Instant::now();
            give(&mut store, whole / 2);
            done.give_ms = began.elapsed().as_secs_f64() * 1e3;
        }
    });
    done
}

fn give(store: &mut PageStore, bytes: usize) {
    let mut given = 0;
    while given < bytes {
        let Some(mut vacating) = store.begin_vacating() else { return };
        loop {
            match store.vacate(&mut vacating, 64) {
                Vacated::More => {}
                Vacated::Done(extent) => {
                    given += extent.bytes;
                    break;
                }
                Vacated::Stuck | Vacated::Kept => return store.end_vacating(vacating),
            }
        }
    }
}

fn main() -> Result<(), String> {
    let options = options()?;
    let pages: Vec<Page> = (0..PAGES).map(make_page).collect();
    let [mut own, mut own_ran, mut leased, mut leased_ran, mut give] = [[0.0; ROUNDS]; 5];
    for round in 0..ROUNDS {
        let filled = fill(&options, &pages, false);
        (own[round], own_ran[round]) = (filled.fill_ns, filled.ran_ns);
        let filled = fill(&options, &pages, true);
        (leased[round], leased_ran[round], give[round]) = (filled.fill_ns, filled.ran_ns, filled.give_ms);
    }
    for times in [&mut own, &mut own_ran, &mut leased, &mut leased_ran, &mut give] {
        times.sort_by(f64::total_cmp);
    }
    if options.json {
        println!("{{\"mib\": {}, \"extent_mib\": {}, \"own_ns\": {own:?},", options.mib, options.extent);
        println!(" \"own_ran_ns\": {own_ran:?}, \"leased_ns\": {leased:?},");
        println!(" \"leased_ran_ns\": {leased_ran:?}, \"give_half_ms\": {give:?}}}");
        return Ok(());
    }
    let told = |what: &str, own: &[f64], leased: &[f64]| {
        let (a, b) = (own[ROUNDS / 2], leased[ROUNDS / 2]);
        println!(
            "{what}: {a:.0} ns a page ({:.0} to {:.0}) into memory of its own,",
            own[0],
            own[ROUNDS - 1]
        );
        println!("    {b:.0} ns ({:.0} to {:.0}) into leased memory", leased[0], leased[ROUNDS - 1]);
        println!("    {:+.1} %", (b / a - 1.0) * 100.0);
    };
    told("wall", &own, &leased);
    told("processor", &own_ran, &leased_ran);
    println!("half of it given back in {:.0} ms", give[ROUNDS / 2]);
    Ok(())
}
