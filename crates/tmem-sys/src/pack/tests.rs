// SPDX-License-Identifier: Apache-2.0
//! Checks the law of `pack`: all forms alike, what is packed comes back, bytes of any kind harm nothing.

use super::*;
use proptest::prelude::*;

/// Words of many kinds: what packers are for, their borders, and noise.
fn pages() -> impl Strategy<Value = Box<Page>> {
    (0u32..9, any::<u64>(), any::<u64>(), 0u32..64, 0u32..64).prop_map(|(kind, seed, start, bits, low)| {
        let mut x = seed | 1;
        let mut noise = move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        };
        let (mut page, mut sum) = (Box::new([0; PAGE_SIZE]), start);
        for n in 0..WORDS {
            let few = noise() >> bits;
            let word = match kind {
                0 => start.wrapping_add((n as u64).wrapping_mul(seed >> bits)),
                1 => start.wrapping_add(few << low),
                2 => few,
                3 => (few as i64 >> 63) as u64 ^ (few >> 1),
                4 => {
                    sum = sum.wrapping_add(few);
                    sum
                }
                5 => ((noise() >> 12) as f64 / 1e9).to_bits(),
                6 if n.is_multiple_of(3) => start ^ few,
                6 => n as u64 % 5,
                7 => start & few,
                _ => noise(),
            };
            page[n * 8..n * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        page
    })
}

/// Words that repeat from record to record but for some bits, of records of any size.
fn record_pages() -> impl Strategy<Value = Box<Page>> {
    (pages(), 1usize..80, 0u32..64).prop_map(|(mut page, record, bits)| {
        for at in record..WORDS {
            let word = word_at(&*page, at * 8) >> bits ^ word_at(&*page, (at - record) * 8);
            page[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        page
    })
}

fn frames(page: &Page) -> [Frame; 2] {
    let extent = frame::extent(Form::Baseline, page);
    [Frame::range(&extent, sketch(Form::Baseline, page).differ()), Frame::steps(&extent, page)]
}
use frame::Frame;

fn unpack_frame(form: Form, frame: Frame, bytes: &[u8], into: &mut Page) -> bool {
    match frame {
        Frame::Range { .. } => frame::unpack_range(form, bytes, into),
        Frame::Steps { .. } => frame::unpack_steps(form, bytes, into),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn sketches_and_extents_are_alike_and_true(page in pages()) {
        let words: Vec<u64> = page.chunks_exact(8).map(|b| word_at(b, 0)).collect();
        let extent = frame::extent(Form::Baseline, &page);
        let steps = words.windows(2).map(|w| w[1].wrapping_sub(w[0]) as i64);
        prop_assert_eq!(extent.max, words.iter().map(|w| *w as i64).max().unwrap());
        prop_assert_eq!(extent.min, words.iter().map(|w| *w as i64).min().unwrap());
        prop_assert_eq!(extent.max_step, steps.clone().max().unwrap());
        prop_assert_eq!(extent.min_step, steps.clone().min().unwrap());
        let step = words[1].wrapping_sub(words[0]);
        let arithmetic = steps.clone().all(|s| s as u64 == step).then_some(step);
        let like = sketch(Form::Baseline, &page);
        for g in 0..GROUPS {
            let vary = words[g * 64..][..64].iter().fold(0, |v, w| v | (w ^ words[g * 64]));
            prop_assert_eq!((like.first[g], like.vary[g]), (words[g * 64], vary));
        }
        for form in Form::all() {
            prop_assert_eq!(sketch(form, &page), like);
            prop_assert_eq!(frame::extent(form, &page), extent);
            prop_assert_eq!(frame::arithmetic(form, &page), arithmetic);
        }
    }

    #[test]
    fn planes_are_alike_and_come_back(page in pages()) {
        let seen = sketch(Form::Baseline, &page);
        let size = planes::size(&seen);
        let mut base = vec![0; size];
        prop_assert_eq!(planes::pack(Form::Baseline, &page, &seen, &mut base), Some(size));
        prop_assert_eq!(planes::pack(Form::best(), &page, &seen, &mut base.clone()[..size - 1]), None);
        for form in Form::all() {
            let mut packed = vec![0xa5; size + 80];
            prop_assert_eq!(planes::pack(form, &page, &seen, &mut packed), Some(size));
            prop_assert_eq!(&packed[..size], &base[..]);
            prop_assert!(packed[size..].iter().all(|b| *b == 0xa5), "{:?} wrote past its end", form);
            let mut back = [0x5a; PAGE_SIZE];
            prop_assert!(planes::unpack(form, &base, &mut back));
            prop_assert_eq!(&back, &*page);
            prop_assert!(!planes::unpack(form, &base[..size - 1], &mut back));
        }
    }

    #[test]
    fn frames_are_alike_and_come_back(page in pages()) {
        for frame in frames(&page) {
            let size = frame.size();
            let mut base = vec![0; size];
            let paid = frame::pack(Form::Baseline, &page, frame, &mut base);
            prop_assert_eq!(paid, (frame.width() <= frame::WIDEST).then_some(size));
            for form in Form::all().filter(|_| paid.is_some()) {
                let mut packed = vec![0xa5; size + 80];
                prop_assert_eq!(frame::pack(form, &page, frame, &mut packed), Some(size));
                prop_assert_eq!(&packed[..size], &base[..]);
                prop_assert!(packed[size..].iter().all(|b| *b == 0xa5), "{:?} wrote past its end", form);
                let mut back = [0x5a; PAGE_SIZE];
                prop_assert!(unpack_frame(form, frame, &base, &mut back));
                prop_assert_eq!(&back, &*page);
                prop_assert!(!unpack_frame(form, frame, &base[..size - 1], &mut back));
            }
        }
    }

    #[test]
    fn records_are_alike_and_come_back(page in record_pages(), other in record_pages()) {
        let Some(plan) = records::plan(Form::Baseline, &page, 2 * PAGE_SIZE) else { return Ok(()) };
        let size = plan.size();
        let mut base = vec![0; size];
        prop_assert_eq!(records::pack(Form::Baseline, &page, &plan, &mut base), Some(size));
        prop_assert_eq!(records::pack(Form::best(), &page, &plan, &mut base.clone()[..size - 1]), None);
        for form in Form::all() {
            // Another page's plan gives other contents, no harm.
            let mut packed = vec![0xa5; size + 80];
            prop_assert_eq!(records::pack(form, &other, &plan, &mut packed), Some(size));
            prop_assert!(packed[size..].iter().all(|b| *b == 0xa5), "{:?} wrote past its end", form);
            let plan = records::plan(form, &page, 2 * PAGE_SIZE).unwrap();
            let mut packed = vec![0xa5; size + 80];
            prop_assert_eq!(records::pack(form, &page, &plan, &mut packed), Some(size));
            prop_assert_eq!(&packed[..size], &base[..]);
            prop_assert!(packed[size..].iter().all(|b| *b == 0xa5), "{:?} wrote past its end", form);
            let mut back = [0x5a; PAGE_SIZE];
            prop_assert!(records::unpack(form, &base, &mut back));
            prop_assert_eq!(&back, &*page);
            prop_assert!(!records::unpack(form, &base[..size - 1], &mut back));
        }
    }

    #[test]
    fn shuffles_are_alike_and_come_back(page in pages()) {
        for form in Form::all() {
            let (mut mixed, mut back) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
            shuffle::shuffle(form, &page, &mut mixed);
            for (n, byte) in mixed.iter().enumerate() {
                prop_assert_eq!(*byte, page[n % WORDS * 8 + n / WORDS]);
            }
            shuffle::unshuffle(form, &mixed, &mut back);
            prop_assert_eq!(&back, &*page);
        }
    }

    /// Any bytes, and packed ones with a byte changed: refused or unpacked to something, by all forms alike. The
    /// source ends where its allocation does, so that a checker of memory sees a read beyond.
    #[test]
    fn hostile_bytes_are_refused_or_harmless(
        page in record_pages(), junk in prop::collection::vec(any::<u8>(), 0..700), at in any::<usize>(), flip in 1u8..
    ) {
        let seen = sketch(Form::best(), &page);
        let mut packed = vec![0; planes::size(&seen)];
        planes::pack(Form::best(), &page, &seen, &mut packed);
        let [range, steps] = frames(&page).map(|frame| {
            let mut packed = vec![0; frame.size()];
            frame::pack(Form::best(), &page, frame, &mut packed);
            packed
        });
        let recorded = records::plan(Form::best(), &page, 2 * PAGE_SIZE).map_or(vec![], |plan| {
            let mut packed = vec![0; plan.size()];
            records::pack(Form::best(), &page, &plan, &mut packed);
            packed
        });
        for mut bytes in [junk, packed, range, steps, recorded] {
            if !bytes.is_empty() {
                let at = if flip < 128 { at % bytes.len().min(20) } else { at % bytes.len() };
                bytes[at] ^= flip;
            }
            let all = |unpack: &dyn Fn(Form, &mut Page) -> bool| {
                let mut pages: Vec<_> = Form::all().map(|form| {
                    let mut into = [0; PAGE_SIZE];
                    let good = unpack(form, &mut into);
                    (good, if good { into } else { [0; PAGE_SIZE] })
                }).collect();
                pages.dedup();
                pages.len() == 1
            };
            let bytes = bytes.into_boxed_slice();
            prop_assert!(all(&|form, into| planes::unpack(form, &bytes, into)));
            prop_assert!(all(&|form, into| frame::unpack_range(form, &bytes, into)));
            prop_assert!(all(&|form, into| frame::unpack_steps(form, &bytes, into)));
            prop_assert!(all(&|form, into| records::unpack(form, &bytes, into)));
        }
    }
}
