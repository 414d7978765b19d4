// SPDX-License-Identifier: Apache-2.0
//! The swap device: laws 12 (what comes back is what left), 14 (a refused page stays the caller's) and 15 (fork).
//! Forks are acted: a child's tables are a copy of its parent's, so each side is tested by itself.
#![forbid(unsafe_code)]

mod common;

use common::{Kind, page};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::process::Command;
use tmem_store::swap::MAX_RUN;
use tmem_store::{Blob, Reason, SwapConfig, SwapDevice, SwapFault, SwapSlot};
use tmem_sys::{PAGE_SIZE, Page};

fn device(cap_pages: u64) -> SwapDevice {
    // Built here, because the default directory of temporary files may be memory.
    let dir = env!("CARGO_TARGET_TMPDIR").into();
    SwapDevice::new(&SwapConfig { dir, cap_pages, allow_memory: true }).unwrap()
}

fn noise(n: u64) -> Page {
    page(Kind::Noise, n)
}

fn write(device: &mut SwapDevice, n: u64) -> SwapSlot {
    device.write(&noise(n)).expect("room")
}

/// Writes pages as they are; how many, and why not all.
fn write_all(device: &mut SwapDevice, pages: &[Page], slots: &mut [SwapSlot]) -> (usize, Option<Reason>) {
    let blobs: Vec<Blob<'_>> = pages.iter().map(Blob::Page).collect();
    let batch = device.write_batch(&blobs, slots);
    (batch.stored, batch.refused)
}

fn file_of(device: &SwapDevice, slot: SwapSlot) -> std::fs::File {
    let path = format!("/proc/self/fd/{}", device.place_of(slot).unwrap().0);
    std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn read(device: &mut SwapDevice, slot: SwapSlot) -> Result<Page, SwapFault> {
    let mut into = [0; PAGE_SIZE];
    device.read(slot, &mut into).map(|()| into)
}

#[test]
fn a_batch_lies_together_and_comes_back_in_one_run() {
    let mut d = device(100);
    let pages: Vec<Page> = (0..70).map(noise).collect();
    let mut slots = [SwapSlot::NONE; 70];
    assert_eq!(write_all(&mut d, &pages, &mut slots), (70, None));
    assert!(slots.windows(2).all(|w| w[1].0 == w[0].0 + 1));
    let mut shown = 0;
    let read = d.read_run(&slots[3..], &mut |i, p| {
        assert!(*p == pages[3 + i]);
        shown += 1;
    });
    assert_eq!((read, shown, d.stats().reads), (Ok(MAX_RUN), MAX_RUN, 1));
    assert_eq!(d.read_run(&[], &mut |_, _| ()), Ok(0));
    assert_eq!((d.stats().used, d.stats().written, d.stats().read), (70, 70, MAX_RUN as u64));
    assert!(d.check().is_empty());
}

#[test]
fn a_full_device_refuses_the_rest_and_takes_again_what_was_freed() {
    let mut d = device(10);
    let pages: Vec<Page> = (0..12).map(noise).collect();
    let mut slots = [SwapSlot::NONE; 12];
    assert_eq!(write_all(&mut d, &pages, &mut slots), (10, Some(Reason::SwapFull)));
    assert_eq!(slots[10..], [SwapSlot::NONE; 2]);
    assert_eq!(d.stats().refused.get(Reason::SwapFull), 2);
    d.free(slots[4]);
    d.free(slots[4]);
    assert_eq!(d.stats().used, 9);
    assert_eq!(read(&mut d, slots[4]), Err(SwapFault::Corrupt(slots[4])), "a freed slot is not read");
    let again = write(&mut d, 77);
    assert_eq!(again, slots[4]);
    for (n, slot) in slots[..10].iter().enumerate() {
        let expected = if *slot == again { 77 } else { n as u64 };
        assert!(read(&mut d, *slot) == Ok(noise(expected)));
    }
    assert!(d.check().is_empty());
}

#[test]
fn a_changed_byte_is_found_and_the_target_stays_untouched() {
    let mut d = device(10);
    let slots: Vec<SwapSlot> = (0..4).map(|n| write(&mut d, n)).collect();
    let file = file_of(&d, slots[2]);
    let at = d.place_of(slots[2]).unwrap().1.start + 1234;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.sync_all().unwrap();
    let mut into = [0x55; PAGE_SIZE];
    assert_eq!(d.read(slots[2], &mut into), Err(SwapFault::Corrupt(slots[2])));
    assert!(into == [0x55; PAGE_SIZE]);
    let mut shown = 0;
    assert_eq!(d.read_run(&slots, &mut |_, _| shown += 1), Err(SwapFault::Corrupt(slots[2])));
    assert_eq!((shown, d.stats().corrupt), (0, 2));
    assert!(read(&mut d, slots[1]) == Ok(noise(1)) && read(&mut d, slots[3]) == Ok(noise(3)));
    // A file cut short is no better than a changed byte.
    file.set_len(0).unwrap();
    assert!(matches!(read(&mut d, slots[1]), Err(SwapFault::Io(..) | SwapFault::Corrupt(_))));
}

#[test]
fn a_full_file_system_is_a_refusal() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("full-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(&dir).output();
    if !mounted.is_ok_and(|m| m.status.success()) {
        eprintln!("skipped: mounting a small tmpfs needs CAP_SYS_ADMIN");
        return;
    }
    let config = SwapConfig { dir: dir.clone(), cap_pages: 1000, allow_memory: true };
    let refused = SwapDevice::new(&SwapConfig { allow_memory: false, ..config.clone() });
    let mut d = SwapDevice::new(&config).unwrap();
    let slots: Vec<SwapSlot> = std::iter::successors(Some(write(&mut d, 0)), |last| {
        let n = u64::from(last.0) + 1;
        d.write(&noise(n)).ok()
    })
    .collect();
    let stats = d.stats();
    d.free(slots[1]);
    let again = d.write(&noise(1)).is_ok() && d.write(&noise(99)).is_err();
    let larger = Command::new("mount").args(["-o", "remount,size=256k"]).arg(&dir).status();
    let grows = (0..20).filter(|n| d.write(&noise(*n)).is_ok()).count();
    let back = slots.iter().enumerate().all(|(n, s)| read(&mut d, *s) == Ok(noise(n as u64)));
    let broken = d.check();
    let in_memory = d.in_memory();
    drop(d);
    let unmounted = Command::new("umount").arg(&dir).status();
    assert!(unmounted.is_ok_and(|s| s.success()));
    assert!(again, "what was freed is written again where the file cannot grow");
    assert!(larger.is_ok_and(|s| s.success()) && grows > 1, "{grows} pages went to the room that was made");
    assert!(refused.is_err(), "a directory in memory is taken only when asked");
    assert!(in_memory && stats.footprint_bytes >= slots.len() as u64 * PAGE_SIZE as u64);
    assert!(back && broken.is_empty() && (4..=16).contains(&slots.len()), "{} pages", slots.len());
    assert_eq!((stats.refused.get(Reason::SwapFull), stats.io_errors), (1, 0));
}

#[test]
fn slots_that_a_child_may_read_wait_in_limbo_for_its_end() {
    let mut d = device(4);
    let old: Vec<SwapSlot> = (0..3).map(|n| write(&mut d, n)).collect();
    assert_eq!(d.fork_prepare(), 1);
    d.fork_parent();
    let young = write(&mut d, 3);
    d.free(young);
    assert_eq!(d.stats().limbo, 0, "born after the fork: no child knows it");
    d.free(old[0]);
    d.free(old[1]);
    assert_eq!((d.stats().limbo, d.stats().used), (2, 1));
    assert_eq!(read(&mut d, old[0]), Err(SwapFault::Corrupt(old[0])), "in limbo, no page of ours");
    assert_eq!(write(&mut d, 4), young);
    assert!(d.write(&noise(5)).is_err(), "slots in limbo are not written");
    d.reap(&mut |child| child == 1);
    assert!(d.write(&noise(5)).is_err());
    assert_eq!(d.fork_prepare(), 2);
    d.fork_parent();
    d.reap(&mut |child| child == 2);
    assert_eq!(d.stats().limbo, 0, "freed before the second fork: the second child knows it not");
    assert!(d.write(&noise(6)).is_ok() && d.write(&noise(7)).is_ok());
    assert!(read(&mut d, old[2]) == Ok(noise(2)));
    d.free(old[2]);
    assert_eq!(d.stats().limbo, 1);
    d.reap(&mut |_| false);
    assert_eq!(d.stats().limbo, 0);
    assert!(d.check().is_empty());
}

#[test]
fn a_child_reads_what_it_inherited_and_writes_to_a_file_of_its_own() {
    let mut d = device(4);
    let inherited: Vec<SwapSlot> = (0..4).map(|n| write(&mut d, n)).collect();
    d.fork_prepare();
    d.fork_child();
    assert_eq!(d.stats().levels, 1, "the file is made at the first write");
    let own = write(&mut d, 10);
    assert_ne!(d.place_of(own).unwrap().0, d.place_of(inherited[0]).unwrap().0);
    assert_eq!(d.stats().levels, 2);
    for (n, slot) in inherited.iter().enumerate() {
        assert!(read(&mut d, *slot) == Ok(noise(n as u64)));
    }
    d.free(inherited[0]);
    assert_eq!(d.stats().limbo, 0, "the parent's slots are the parent's to keep");
    // A grandchild inherits both.
    d.fork_prepare();
    d.fork_child();
    let third = write(&mut d, 20);
    assert_eq!(d.stats().levels, 3);
    assert!(read(&mut d, own) == Ok(noise(10)) && read(&mut d, inherited[3]) == Ok(noise(3)));
    inherited[1..].iter().for_each(|s| d.free(*s));
    assert_eq!(d.stats().levels, 2, "an inherited file with no page left is closed");
    assert!(read(&mut d, third) == Ok(noise(20)));
    assert!(d.check().is_empty());
}

#[test]
fn a_child_inherits_pages_and_no_limbo() {
    let mut d = device(4);
    let slots: Vec<SwapSlot> = (0..4).map(|n| write(&mut d, n)).collect();
    d.fork_prepare();
    d.fork_parent();
    slots[..3].iter().for_each(|s| d.free(*s));
    assert_eq!(d.stats().limbo, 3);
    d.fork_prepare();
    d.fork_child();
    assert_eq!((d.stats().limbo, d.stats().used), (0, 1));
    assert!(read(&mut d, slots[3]) == Ok(noise(3)));
    assert!(d.check().is_empty());
}

#[test]
fn forks_that_nest_too_deep_are_refused_not_wrong() {
    let mut d = device(4);
    let mut slots = Vec::new();
    while let Ok(slot) = d.write(&noise(slots.len() as u64)) {
        slots.push(slot);
        d.fork_prepare();
        d.fork_child();
    }
    assert_eq!(slots.len(), 16);
    for (n, slot) in slots.iter().enumerate() {
        assert!(read(&mut d, *slot) == Ok(noise(n as u64)));
    }
    d.free(slots[7]);
    assert!(d.write(&noise(99)).is_ok(), "a closed file's place is taken again");
}

#[test]
fn trim_gives_disk_space_back_and_keeps_pages() {
    let mut d = device(1024);
    let slots: Vec<SwapSlot> = (0..512).map(|n| write(&mut d, n)).collect();
    slots[..500].iter().for_each(|s| d.free(*s));
    let blocks =
        |d: &SwapDevice| std::os::unix::fs::MetadataExt::blocks(&file_of(d, slots[511]).metadata().unwrap());
    let before = blocks(&d);
    d.trim();
    let after = blocks(&d);
    // Less than half is left where the file system makes holes; where it does not, nothing is lost.
    assert!(after <= before, "{before} blocks before, {after} after");
    assert!((500..512).all(|n| read(&mut d, slots[n]) == Ok(noise(n as u64))));
}

#[derive(Clone, Debug)]
enum Op {
    Write(usize),
    Free(usize),
    Read(usize),
    Fork,
    /// The child of the n-th fork ends.
    End(usize),
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1usize..20).prop_map(Op::Write),
        5 => (0usize..64).prop_map(Op::Free),
        5 => (0usize..64).prop_map(Op::Read),
        1 => Just(Op::Fork),
        1 => (0usize..8).prop_map(Op::End),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The parent's side against a map, and against what every living child must still find in the file.
    #[test]
    fn no_slot_is_written_while_someone_may_read_it(ops in proptest::collection::vec(ops(), 1..80)) {
        let mut d = device(48);
        let mut held: BTreeMap<SwapSlot, u64> = BTreeMap::new();
        let mut children: BTreeMap<u32, BTreeMap<SwapSlot, u64>> = BTreeMap::new();
        let mut n = 0;
        for op in ops {
            match op {
                Op::Write(count) => {
                    let pages: Vec<Page> = (0..count as u64).map(|i| noise(n + i)).collect();
                    let mut slots = vec![SwapSlot::NONE; count];
                    let (stored, _) = write_all(&mut d, &pages, &mut slots);
                    for slot in &slots[..stored] {
                        prop_assert!(held.insert(*slot, n).is_none());
                        prop_assert!(children.values().all(|c| !c.contains_key(slot)), "a child reads {slot:?}");
                        n += 1;
                    }
                    n += count as u64;
                }
                Op::Free(at) => if let Some(slot) = held.keys().nth(at).copied() {
                    held.remove(&slot);
                    d.free(slot);
                },
                Op::Read(at) => if let Some((slot, n)) = held.iter().nth(at) {
                    prop_assert!(read(&mut d, *slot) == Ok(noise(*n)));
                },
                Op::Fork => {
                    children.insert(d.fork_prepare(), held.clone());
                    d.fork_parent();
                }
                Op::End(at) => {
                    if let Some(child) = children.keys().nth(at).copied() {
                        children.remove(&child);
                    }
                    d.reap(&mut |child| children.contains_key(&child));
                    let mut shared: Vec<&SwapSlot> = children.values().flat_map(|c| c.keys()).collect();
                    shared.sort();
                    shared.dedup();
                    let limbo = shared.iter().filter(|s| !held.contains_key(s)).count();
                    prop_assert_eq!(d.stats().limbo, limbo as u64, "limbo is exact after a reap");
                }
            }
            prop_assert_eq!(d.stats().used, held.len() as u64);
            prop_assert_eq!(d.check(), Vec::<String>::new());
        }
    }
}
