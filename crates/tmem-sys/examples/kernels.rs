// SPDX-License-Identifier: Apache-2.0
//! What each kernel over a page costs in each form, hot: nanoseconds, the least of many rounds.
//!
//! `cargo run --release -p tmem-sys --example kernels`

use std::hint::black_box;
use std::time::Instant;
use tmem_sys::hash::PageHash;
use tmem_sys::pack::frame::{self, Frame};
use tmem_sys::pack::{Form, WORDS, planes, records, shuffle, sketch};
use tmem_sys::page::AlignedPage;
use tmem_sys::{PAGE_SIZE, Page};

const REPEATS: u32 = 2000;

fn time(name: &str, form: Form, mut run: impl FnMut()) {
    let round = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..REPEATS).for_each(|_| run());
        start.elapsed().as_nanos() as f64 / f64::from(REPEATS)
    };
    let least = (0..20).map(|_| round(&mut run)).fold(f64::INFINITY, f64::min);
    println!("{name:28} {form:?}: {least:.0} ns");
}

fn page_of(word: impl Fn(u64) -> u64) -> Page {
    let mut page = [0; PAGE_SIZE];
    for n in 0..WORDS {
        page[n * 8..n * 8 + 8].copy_from_slice(&word(n as u64).to_le_bytes());
    }
    page
}

fn main() {
    let noise = |n: u64| {
        (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    };
    let thousand = page_of(|n| noise(n) % 1000);
    let steps = page_of(|n| 1_700_000_000 * (n + 5) + noise(n) % 1000);
    let floats = page_of(|n| (1.0 + (noise(n) >> 12) as f64 / (1u64 << 52) as f64).to_bits());
    let (mut out, mut back) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    let hash = PageHash::new().expect("random bytes");
    let floats = Box::new(AlignedPage(floats));
    let floats = &floats.0;
    time("hash", Form::best(), || _ = black_box(hash.hash(black_box(floats))));
    for form in Form::all() {
        time("copy", form, || black_box(&mut back).copy_from_slice(black_box(floats)));
        time("sketch", form, || _ = black_box(sketch(form, black_box(floats))));
        time("extent", form, || _ = black_box(frame::extent(form, black_box(floats))));
        let arange = page_of(|n| 7 * n);
        time("arithmetic", form, || _ = black_box(frame::arithmetic(form, black_box(&arange))));
        for (name, page) in [("thousand", &thousand), ("floats", floats)] {
            let seen = sketch(form, page);
            let n = planes::pack(form, page, &seen, &mut out).unwrap_or(0);
            time(&format!("planes pack {name} {n}"), form, || {
                _ = black_box(planes::pack(form, black_box(page), &seen, &mut out));
            });
            time(&format!("planes unpack {name} {n}"), form, || {
                _ = black_box(planes::unpack(form, black_box(&out[..n]), &mut back));
            });
        }
        let range = Frame::range(&frame::extent(form, &thousand), sketch(form, &thousand).differ());
        let n = frame::pack(form, &thousand, range, &mut out).unwrap_or(0);
        time("range pack", form, || _ = black_box(frame::pack(form, black_box(&thousand), range, &mut out)));
        time("range unpack", form, || {
            _ = black_box(frame::unpack_range(form, black_box(&out[..n]), &mut back))
        });
        let walk = Frame::steps(&frame::extent(form, &steps), &steps);
        let n = frame::pack(form, &steps, walk, &mut out).unwrap_or(0);
        time("steps pack", form, || _ = black_box(frame::pack(form, black_box(&steps), walk, &mut out)));
        time("steps unpack", form, || {
            _ = black_box(frame::unpack_steps(form, black_box(&out[..n]), &mut back))
        });
        let line = Frame::steps(&frame::extent(form, &arange), &arange);
        let n = frame::pack(form, &arange, line, &mut out).unwrap_or(0);
        time("sequence unpack", form, || {
            _ = black_box(frame::unpack_steps(form, black_box(&out[..n]), &mut back))
        });
        measure_records(form, &page_of(|n| if n % 15 < 12 { (n % 15) << 40 } else { noise(n) >> 40 }));
        time("shuffle", form, || shuffle::shuffle(form, black_box(floats), &mut out));
        time("unshuffle", form, || shuffle::unshuffle(form, black_box(&out), &mut back));
    }
}

/// Of rows of fifteen words, three of which change.
fn measure_records(form: Form, page: &Page) {
    let (mut out, mut back) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    let Some(plan) = records::plan(form, page, PAGE_SIZE) else { return };
    time("records plan", form, || _ = black_box(records::plan(form, black_box(page), PAGE_SIZE)));
    let n = records::pack(form, page, &plan, &mut out).unwrap_or(0);
    time(&format!("records pack {n}"), form, || {
        _ = black_box(records::pack(form, black_box(page), &plan, &mut out))
    });
    time("records unpack", form, || _ = black_box(records::unpack(form, black_box(&out[..n]), &mut back)));
}
