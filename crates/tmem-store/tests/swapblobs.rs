// SPDX-License-Identifier: Apache-2.0
//! Blobs of every length on a small swap device, which must clean its clusters to take them: laws 12, 14 and 15 against
//! a plain map, and against what every living child must still find in the file.
#![forbid(unsafe_code)]

mod common;

use common::{Kind, page};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use tmem_store::codec::{Codec, Coded};
use tmem_store::{Blob, Reason, SwapConfig, SwapDevice, SwapFault, SwapSlot};
use tmem_sys::{PAGE_SIZE, Page};

fn device(cap_pages: u64) -> SwapDevice {
    // Built here, because the default directory of temporary files may be memory.
    let dir = env!("CARGO_TARGET_TMPDIR").into();
    SwapDevice::new(&SwapConfig { dir, cap_pages, allow_memory: true }).unwrap()
}

/// What a page is on the device.
#[derive(Clone, Debug)]
enum Made {
    Page(Box<Page>),
    Packed(Vec<u8>),
    Same(u64),
}

impl Made {
    fn of(page: &Page) -> Made {
        match Codec::new().unwrap().encode(page, true) {
            Coded::Same(word) => Made::Same(word),
            Coded::Packed(bytes) => Made::Packed(bytes.to_vec()),
            Coded::Incompressible => Made::Page(Box::new(*page)),
        }
    }

    fn blob(&self) -> Blob<'_> {
        match self {
            Made::Page(page) => Blob::Page(page),
            Made::Packed(bytes) => Blob::Packed(bytes),
            Made::Same(word) => Blob::Same(*word),
        }
    }
}

fn made(kind: Kind, seeds: Range<u64>) -> Vec<Made> {
    seeds.map(|seed| Made::of(&page(kind, seed))).collect()
}

/// Writes in batches as the pager does; the slots of what was taken, and why not the rest.
fn write(device: &mut SwapDevice, made: &[Made]) -> (Vec<SwapSlot>, Option<Reason>) {
    let mut taken = Vec::new();
    for made in made.chunks(64) {
        let blobs: Vec<Blob<'_>> = made.iter().map(Made::blob).collect();
        let mut slots = vec![SwapSlot::NONE; made.len()];
        let batch = device.write_batch(&blobs, &mut slots);
        assert!(slots[batch.stored..].iter().all(|slot| *slot == SwapSlot::NONE));
        taken.extend_from_slice(&slots[..batch.stored]);
        if batch.refused.is_some() {
            return (taken, batch.refused);
        }
    }
    (taken, None)
}

fn read(device: &mut SwapDevice, slot: SwapSlot) -> Result<Page, SwapFault> {
    let mut into = [0; PAGE_SIZE];
    device.read(slot, &mut into).map(|()| into)
}

fn file_of(device: &SwapDevice, slot: SwapSlot) -> std::fs::File {
    let path = format!("/proc/self/fd/{}", device.place_of(slot).unwrap().0);
    std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn bytes_at(file: &std::fs::File, place: &Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; (place.end - place.start) as usize];
    file.read_exact_at(&mut bytes, place.start).unwrap();
    bytes
}

#[test]
fn packed_pages_lie_close_together_and_come_back_by_few_reads() {
    let mut d = device(1000);
    let pages = made(Kind::Partly(1000), 0..640);
    let (slots, refused) = write(&mut d, &pages);
    assert_eq!((slots.len(), refused), (640, None));
    let stats = d.stats();
    let bytes: usize = pages.iter().map(|made| made.blob().bytes().len()).sum();
    assert_eq!((stats.used_bytes, stats.written_bytes), (bytes as u64, bytes as u64));
    assert!(stats.file_bytes < (bytes + bytes / 10) as u64, "{} of {bytes}", stats.file_bytes);
    let mut next = 0;
    while next < slots.len() {
        next += d
            .read_run(&slots[next..], &mut |i, got| {
                assert!(*got == page(Kind::Partly(1000), (next + i) as u64));
            })
            .unwrap();
    }
    assert!(d.stats().reads <= 640 / 64 + 4, "{} reads", d.stats().reads);
    assert_eq!(d.check(), Vec::<String>::new());
}

#[test]
fn a_repeated_word_takes_nothing_of_the_file_and_fits_a_full_device() {
    let mut d = device(2);
    let (noise, full) = write(&mut d, &made(Kind::Noise, 0..3));
    assert_eq!((noise.len(), full), (2, Some(Reason::SwapFull)));
    let (same, refused) = write(&mut d, &made(Kind::Same, 0..5));
    assert_eq!((same.len(), refused), (5, None));
    d.fork_prepare();
    d.fork_parent();
    for (seed, slot) in same.iter().enumerate() {
        assert!(read(&mut d, *slot) == Ok(page(Kind::Same, seed as u64)));
        d.free(*slot);
    }
    let stats = d.stats();
    assert_eq!((stats.used, stats.limbo, stats.used_bytes), (2, 0, 2 * PAGE_SIZE as u64));
    assert_eq!(d.check(), Vec::<String>::new());
}

#[test]
fn what_is_no_packed_page_is_refused_and_too_many_small_ones_too() {
    let mut d = device(4);
    let mut slots = [SwapSlot::NONE; 2];
    let batch = d.write_batch(&[Blob::Same(1), Blob::Packed(&[7; PAGE_SIZE])], &mut slots);
    assert_eq!((batch.stored, batch.refused), (1, Some(Reason::Incompressible)));
    let (slots, refused) = write(&mut d, &made(Kind::NearlySame, 0..64));
    assert_eq!((slots.len(), refused), (31, Some(Reason::SwapFull)), "eight pages for a block");
    assert_eq!(d.check(), Vec::<String>::new());
}

/// Random overwriting of a device that is `percent` full of live bytes, `rounds` times all of it.
fn overwrite(d: &mut SwapDevice, kind: Kind, percent: u64, rounds: usize) -> Vec<(SwapSlot, u64)> {
    let mut next = common::noise(percent);
    let (mut held, mut seed) = (Vec::new(), 0);
    while d.stats().used_bytes < d.stats().cap * PAGE_SIZE as u64 * percent / 100 {
        let (slots, refused) = write(d, &made(kind, seed..seed + 8));
        assert_eq!(refused, None, "{:?}", d.stats());
        held.extend(slots.into_iter().zip(seed..));
        seed += 8;
    }
    for _ in 0..held.len() * rounds / 8 {
        let mut gone: Vec<usize> = (0..8).map(|_| next() as usize % held.len()).collect();
        gone.sort_unstable();
        gone.dedup();
        gone.iter().rev().for_each(|at| d.free(held.swap_remove(*at).0));
        let (slots, refused) = write(d, &made(kind, seed..seed + gone.len() as u64));
        assert_eq!(refused, None, "{:?}", d.stats());
        held.extend(slots.into_iter().zip(seed..));
        seed += gone.len() as u64;
    }
    held
}

#[test]
fn a_device_nearly_full_is_cleaned_and_takes_every_page() {
    for (kind, percent) in [(Kind::Partly(1300), 80), (Kind::Noise, 97), (Kind::Partly(300), 75)] {
        let mut d = device(512);
        let held = overwrite(&mut d, kind, percent, 3);
        let stats = d.stats();
        assert!(stats.cleaned > 0 || kind == Kind::Noise, "{stats:?}");
        assert!(stats.file_bytes <= 512 * PAGE_SIZE as u64);
        assert!(held.iter().all(|(slot, seed)| read(&mut d, *slot) == Ok(page(kind, *seed))));
        assert_eq!(d.check(), Vec::<String>::new());
    }
}

#[test]
fn a_damaged_blob_is_not_moved_and_its_reader_is_told() {
    let kind = Kind::Partly(1300);
    let mut d = device(128);
    let (slots, _) = write(&mut d, &made(kind, 0..200));
    let (hurt, at) = (slots[0], d.place_of(slots[0]).unwrap().1.start + 50);
    let file = file_of(&d, hurt);
    let byte = bytes_at(&file, &(at..at + 1))[0];
    file.write_all_at(&[byte ^ 4], at).unwrap();
    file.sync_all().unwrap();
    // The first cluster holds least, and is what would be cleaned.
    slots[1..20].iter().for_each(|slot| d.free(*slot));
    let mut kept: Vec<(SwapSlot, u64)> = slots.iter().copied().zip(0..).skip(20).collect();
    let first = d.place_of(hurt);
    for seed in (1000..4000).step_by(8) {
        for n in 0..8 {
            d.free(kept.swap_remove(((seed + n) * 7919) as usize % kept.len()).0);
        }
        let (slots, refused) = write(&mut d, &made(kind, seed..seed + 8));
        assert_eq!(refused, None);
        kept.extend(slots.into_iter().zip(seed..));
    }
    assert!(d.stats().cleaned > 0);
    assert_eq!(d.place_of(hurt), first);
    assert_eq!(read(&mut d, hurt), Err(SwapFault::Corrupt(hurt)));
    assert!(kept.iter().all(|(slot, seed)| read(&mut d, *slot) == Ok(page(kind, *seed))));
    assert_eq!(d.check(), Vec::<String>::new());
}

#[test]
fn a_blob_of_another_time_or_place_is_found() {
    let mut d = device(64);
    let (slots, _) = write(&mut d, &made(Kind::Noise, 0..2));
    let file = file_of(&d, slots[0]);
    let places: Vec<Range<u64>> = slots.iter().map(|slot| d.place_of(*slot).unwrap().1).collect();
    file.write_all_at(&bytes_at(&file, &places[0]), places[1].start).unwrap();
    file.sync_all().unwrap();
    assert_eq!(read(&mut d, slots[1]), Err(SwapFault::Corrupt(slots[1])), "misplaced");
    let stale = bytes_at(&file, &places[0]);
    d.free(slots[0]);
    let (young, _) = write(&mut d, &made(Kind::Noise, 7..8));
    let place = d.place_of(young[0]).unwrap().1;
    file.write_all_at(&stale, place.start).unwrap();
    file.sync_all().unwrap();
    assert_eq!(read(&mut d, young[0]), Err(SwapFault::Corrupt(young[0])), "stale");
}

#[derive(Clone, Debug)]
enum Op {
    Write(Kind, u64),
    /// From the n-th on, every so manyth is freed.
    Free(usize, usize),
    Read(usize),
    Fork,
    /// The child of the n-th fork ends.
    End(usize),
    Trim,
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (common::kinds(), 1u64..40).prop_map(|(kind, n)| Op::Write(kind, n)),
        6 => (0usize..40, 1usize..6).prop_map(|(from, step)| Op::Free(from, step)),
        3 => (0usize..64).prop_map(Op::Read),
        1 => Just(Op::Fork),
        2 => (0usize..4).prop_map(Op::End),
        1 => Just(Op::Trim),
    ]
}

/// What a child finds where it last knew a page: place and bytes.
type Inherited = Vec<(Range<u64>, Vec<u8>)>;

#[derive(Default)]
struct Model {
    held: BTreeMap<SwapSlot, (Kind, u64)>,
    children: BTreeMap<u32, Inherited>,
    seed: u64,
}

impl Model {
    fn apply(&mut self, d: &mut SwapDevice, op: &Op) {
        match *op {
            Op::Write(kind, n) => {
                let (slots, refused) = write(d, &made(kind, self.seed..self.seed + n));
                assert!(refused.is_none_or(|reason| reason == Reason::SwapFull));
                for (slot, seed) in slots.into_iter().zip(self.seed..) {
                    assert!(self.held.insert(slot, (kind, seed)).is_none());
                }
                self.seed += n;
            }
            Op::Free(from, step) => {
                let gone: Vec<SwapSlot> = self.held.keys().skip(from).step_by(step).copied().collect();
                for slot in gone {
                    self.held.remove(&slot);
                    d.free(slot);
                }
            }
            Op::Read(from) => {
                let wanted: Vec<_> = self.held.iter().skip(from).map(|(slot, made)| (*slot, *made)).collect();
                let slots: Vec<SwapSlot> = wanted.iter().map(|(slot, _)| *slot).collect();
                let mut shown = 0;
                let n = d.read_run(&slots, &mut |i, got| {
                    assert!(*got == page(wanted[i].1.0, wanted[i].1.1));
                    shown += 1;
                });
                assert_eq!(n, Ok(shown));
                assert_eq!(shown > 0, !slots.is_empty());
            }
            Op::Fork => {
                let inherited = self.in_file(d).map(|(file, place)| (place.clone(), bytes_at(&file, &place)));
                let inherited = inherited.collect();
                self.children.insert(d.fork_prepare(), inherited);
                d.fork_parent();
            }
            Op::End(at) => {
                if let Some(child) = self.children.keys().nth(at).copied() {
                    self.children.remove(&child);
                }
                d.reap(&mut |child| self.children.contains_key(&child));
                assert!(!self.children.is_empty() || d.stats().limbo == 0);
            }
            Op::Trim => d.trim(),
        }
    }

    fn in_file<'a>(&'a self, d: &'a SwapDevice) -> impl Iterator<Item = (std::fs::File, Range<u64>)> + 'a {
        let placed = self.held.keys().map(|slot| (*slot, d.place_of(*slot).unwrap().1));
        placed.filter(|(_, place)| !place.is_empty()).map(|(slot, place)| (file_of(d, slot), place))
    }

    fn compare(&self, d: &mut SwapDevice) {
        for (slot, (kind, seed)) in &self.held {
            assert!(read(d, *slot) == Ok(page(*kind, *seed)), "{slot:?}");
        }
        let Some(file) = self.in_file(d).next().map(|(file, _)| file) else { return };
        for (place, bytes) in self.children.values().flatten() {
            assert!(bytes_at(&file, place) == *bytes, "a child finds other bytes at {place:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_small_device_behaves_as_a_map_that_may_be_full(cap in 1u64..200, ops in proptest::collection::vec(ops(), 1..80)) {
        let mut d = device(cap);
        let mut model = Model::default();
        for (n, op) in ops.iter().enumerate() {
            model.apply(&mut d, op);
            let stats = d.stats();
            prop_assert_eq!(stats.used, model.held.len() as u64);
            prop_assert!(stats.used_bytes <= cap * PAGE_SIZE as u64 && stats.file_bytes <= cap * PAGE_SIZE as u64);
            prop_assert_eq!(d.check(), Vec::<String>::new());
            if n % 8 == 7 {
                model.compare(&mut d);
            }
        }
        model.compare(&mut d);
        // Without children, and empty, it takes as many pages as it was made for.
        d.reap(&mut |_| false);
        model.held.keys().for_each(|slot| d.free(*slot));
        let (slots, refused) = write(&mut d, &made(Kind::Noise, 0..cap + 1));
        prop_assert_eq!((slots.len() as u64, refused), (cap, Some(Reason::SwapFull)));
        prop_assert_eq!(d.check(), Vec::<String>::new());
    }
}
