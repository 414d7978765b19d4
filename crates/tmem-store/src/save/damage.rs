// SPDX-License-Identifier: Apache-2.0
//! Checks that a file which is not whole is an error, whoever spoilt it: chance, which no checksum misses, or someone
//! who made the checksums fit.

use super::format::{self, END, End, Fields, GONE, OPTIONAL, PAGES, POOL, Record, SECTION, Section};
use super::tests::{BOTH, host, new_pool, page, put, restore, save, saver};
use super::*;
use crate::codec;
use crate::{ObjectId, PoolConfig};
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

/// A section's kind and payload.
type Part = (u32, Vec<u8>);

/// A file of a few pages in every form, one of them gone.
fn small_file() -> Vec<u8> {
    let here = host(4 << 20);
    let pool = new_pool(&here, BOTH);
    for n in [0, 2, 5, 7, 10] {
        put(&here, pool, (ObjectId([n % 2, 0, 0]), n << 40), &page(n));
    }
    let (mut saving, mut file) = (saver(&here, &[pool]), Vec::new());
    saving.begin().unwrap();
    (0..3).for_each(|_| assert!(saving.piece(&mut file).unwrap()));
    assert!(here.flush_page(pool, ObjectId([0; 3]), 10 << 40).unwrap());
    while saving.piece(&mut file).unwrap() {}
    saving.finish(&mut file).unwrap();
    file
}

/// Restores what is spoilt into a host that must stay as it was.
fn spoilt(file: &[u8]) -> RestoreError {
    let there = host(4 << 20);
    let error = restore(&there, file).expect_err("a spoilt file was taken");
    assert_eq!((there.stats().held.pages(), there.check()), (0, vec![]));
    error
}

/// The sections of a file, without the header and the end.
fn sections(file: &[u8]) -> Vec<Part> {
    let (mut fields, mut all) = (Fields(&file[format::HEADER..file.len() - format::TAIL]), Vec::new());
    while let Some(header) = fields.bytes(SECTION) {
        let section = Section::read(header.try_into().unwrap()).unwrap();
        all.push((section.kind, fields.bytes(section.len as usize).unwrap().to_vec()));
    }
    all
}

/// A file of these sections, with all sums made to fit, and counts as told.
fn made(sections: &[Part], pools: u32, [pages, records, gone]: [u64; 3]) -> Vec<u8> {
    let mut file = Vec::new();
    format::put_header(&mut file, 6, pools);
    for (kind, payload) in sections {
        format::put_section(&mut file, *kind, |out| out.extend_from_slice(payload));
    }
    let end = End { pages, records, gone, sum: xxh3_128(&file) };
    format::put_section(&mut file, END, |out| end.write(out));
    file
}

const COUNTS: [u64; 3] = [4, 5, 1];

#[test]
fn every_truncation_and_every_longer_file_is_an_error() {
    let file = small_file();
    for len in 0..file.len() {
        let error = spoilt(&file[..len]);
        let known = matches!(error, RestoreError::Short(_) | RestoreError::Strange);
        assert!(known, "{len}: {error:?}");
    }
    for more in [1, SECTION, format::TAIL, 5000] {
        spoilt(&[&file[..], &vec![0; more]].concat());
        spoilt(&[&file[..], &file[file.len() - more.min(file.len())..]].concat());
    }
}

#[test]
fn every_changed_byte_is_an_error() {
    let file = small_file();
    let there = host(4 << 20);
    for at in 0..file.len() {
        for bit in [0, 7] {
            let mut file = file.clone();
            file[at] ^= 1 << bit;
            assert!(restore(&there, &file).is_err(), "byte {at} bit {bit}");
        }
    }
    assert_eq!((there.stats().held.pages(), there.check()), (0, vec![]));
}

#[test]
fn the_parts_make_the_file_they_came_from() {
    let file = small_file();
    assert!(made(&sections(&file), 1, COUNTS) == file);
}

#[test]
fn what_a_later_version_may_add_is_passed_over_or_named() {
    let file = small_file();
    for at in 0..=sections(&file).len() {
        let mut with = sections(&file);
        with.insert(at, (OPTIONAL | 77, vec![7; 3 * format::BLOCK + 1]));
        restore(&host(4 << 20), &made(&with, 1, COUNTS)).unwrap();
        with[at].0 = 77;
        assert!(matches!(spoilt(&made(&with, 1, COUNTS)), RestoreError::Unknown(77)));
    }
    let mut version = file.clone();
    version[8] = 2;
    assert!(matches!(spoilt(&version), RestoreError::Version(2)));
    let mut large = file.clone();
    large[13] = 0x40;
    let sum = xxh3_128(&large[..format::HEADER - 16]).to_le_bytes();
    large[format::HEADER - 16..format::HEADER].copy_from_slice(&sum);
    assert!(matches!(spoilt(&large), RestoreError::PageSize(16384)));
    let mut kind = sections(&file);
    kind[0].1[4] = 1;
    assert!(matches!(spoilt(&made(&kind, 1, COUNTS)), RestoreError::Unknown(POOL)));
    for error in [spoilt(&version), spoilt(&large), spoilt(&made(&kind, 1, COUNTS))] {
        assert!(error.to_string().ends_with("restore it with that version or a later one"));
    }
}

fn record(index: u64, form: format::Form<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    Record { object: ObjectId([1; 3]), index, form }.write(&mut out);
    out
}

fn pages_of(records: &[Vec<u8>]) -> Part {
    (PAGES, [&0u32.to_le_bytes()[..], &records.concat()].concat())
}

#[test]
fn sums_that_fit_are_not_believed() {
    let file = small_file();
    let pool = sections(&file).swap_remove(0);
    let same = |index| record(index, format::Form::Same(9));
    let gone = |number: u32, whole: u32| {
        let words = [number.to_le_bytes(), whole.to_le_bytes()].concat();
        (GONE, [&words[..], &[1; 24], &[0; 8]].concat())
    };
    let one = pages_of(&[same(1)]);
    restore(&host(4 << 20), &made(&[pool.clone(), one.clone()], 1, [1, 1, 0])).unwrap();
    let unknown = record(1, format::Form::Packed(&[200, 1, 2]));
    let unpackable = record(1, format::Form::Packed(&[1, 255, 255, 255]));
    let (mut long, mut form, mut second) = (same(1), same(1), pool.clone());
    let nameless = (POOL, vec![0, 0, 0, 0, 0, 3, 0, 1, b'g']);
    long[34..36].copy_from_slice(&9u16.to_le_bytes());
    form[32] = 3;
    second.1[0] = 1;
    let bad: Vec<(Vec<Part>, u32, [u64; 3])> = vec![
        (vec![], 1, [0, 0, 0]),
        (vec![nameless], 1, [0, 0, 0]),
        (vec![pool.clone()], 2, [0, 0, 0]),
        (vec![one.clone()], 0, [1, 1, 0]),
        (vec![pool.clone(), pool.clone()], 2, [0, 0, 0]),
        (vec![pool.clone(), second.clone(), one.clone()], 2, [1, 1, 0]),
        (vec![second], 2, [0, 0, 0]),
        (vec![pool.clone(), pages_of(&[same(2), same(1)])], 1, [2, 2, 0]),
        (vec![pool.clone(), pages_of(&[same(1), same(1)])], 1, [1, 2, 0]),
        (vec![pool.clone(), one.clone(), one.clone()], 1, [1, 2, 0]),
        (vec![pool.clone(), pages_of(&[unknown])], 1, [1, 1, 0]),
        (vec![pool.clone(), pages_of(&[unpackable])], 1, [1, 1, 0]),
        (vec![pool.clone(), pages_of(&[record(1, format::Form::Packed(&[]))])], 1, [1, 1, 0]),
        (vec![pool.clone(), pages_of(&[record(1, format::Form::Packed(&[1; 3585]))])], 1, [1, 1, 0]),
        (vec![pool.clone(), pages_of(&[long])], 1, [1, 1, 0]),
        (vec![pool.clone(), pages_of(&[form])], 1, [1, 1, 0]),
        (vec![pool.clone(), one.clone()], 1, [1, 2, 0]),
        (vec![pool.clone(), one.clone()], 1, [2, 1, 0]),
        (vec![pool.clone(), one.clone(), gone(1, 0)], 1, [1, 1, 1]),
        (vec![pool.clone(), one.clone(), gone(0, 2)], 1, [1, 1, 1]),
        (vec![pool.clone(), gone(0, 0), one.clone()], 1, [1, 1, 1]),
        (vec![pool, (PAGES, vec![]), one], 1, [1, 1, 0]),
    ];
    for (n, (sections, pools, counts)) in bad.iter().enumerate() {
        let error = spoilt(&made(sections, *pools, *counts));
        assert_eq!(matches!(error, RestoreError::Codec(200)), n == 10, "{n}: {error:?}");
    }
}

#[test]
fn a_length_beyond_the_file_takes_no_memory() {
    let mut file = small_file();
    for len in [u64::MAX, 1 << 40, (format::LARGEST + 1) as u64, file.len() as u64] {
        file[format::HEADER + 8..format::HEADER + 16].copy_from_slice(&len.to_le_bytes());
        assert!(matches!(spoilt(&file), RestoreError::Damaged("a section's length", _)));
    }
}

#[test]
fn every_codec_that_lasts_is_known_to_its_number() {
    assert_eq!(codec::LASTING, 1..=6, "files of version 1 have these numbers: add to them, change none");
    let here = host(4 << 20);
    let file = save(&here, &[new_pool(&here, PoolConfig::default())]);
    assert_eq!(file.len(), format::HEADER + SECTION + 8 + "pool-0".len() + "guest".len() + format::TAIL);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever the records are, they are pages or an error; what is wrong inside is not hidden by sums that fit.
    #[test]
    fn any_bytes_with_sums_that_fit_are_pages_or_an_error(
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..40),
        which in any::<prop::sample::Index>(),
    ) {
        let mut parts = sections(&small_file());
        let which = which.index(parts.len());
        let payload = &mut parts[which].1;
        let at = at.index(payload.len());
        let end = (at + bytes.len()).min(payload.len());
        payload[at..end].copy_from_slice(&bytes[..end - at]);
        let there = host(4 << 20);
        if let Ok(pools) = restore(&there, &made(&parts, 1, COUNTS)) {
            prop_assert_eq!(there.pool_stats(pools[0].1).unwrap().pages, COUNTS[0]);
        }
        prop_assert!(there.check().is_empty());
    }
}
