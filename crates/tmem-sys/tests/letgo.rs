// SPDX-License-Identifier: Apache-2.0
//! Parts of an arena that are the kernel's, against the kernel: what it has mapped over them does not keep the rest from being
//! registered, and they come back as what they are (laws 12 and 15).

use std::ops::Range;
use tmem_sys::entry::{self, Entry, Served};
use tmem_sys::frames::{Access, Frames};
use tmem_sys::{Errno, PAGE_SIZE, memory};

const PAGES: usize = 1024;
const FILE: Range<usize> = 100..200;
const ANON: Range<usize> = 700..710;

/// Everything but the two ranges.
fn parts(from: usize) -> Option<Range<usize>> {
    let all = [0..FILE.start, FILE.end..ANON.start, ANON.end..PAGES];
    all.into_iter().find(|part| part.end > from).map(|part| part.start.max(from)..part.end)
}

/// Maps the code of this test over a part of the arena, shared, to be read.
fn map_file(addr: usize, len: usize) {
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    // SAFETY: the range is the arena's and nothing refers to it.
    let got = unsafe {
        let flags = libc::MAP_FIXED | libc::MAP_SHARED;
        libc::mmap(addr as *mut libc::c_void, len, libc::PROT_READ, flags, fd, 0)
    };
    assert_eq!(got as usize, addr);
}

/// The flags of the mapping at an address.
fn flags(addr: usize) -> Vec<String> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|word| word.split_once('-'));
        if let Some((from, to)) = range
            && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
        {
            inside = (from..to).contains(&addr);
        }
        if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
            return flags.split_whitespace().map(str::to_owned).collect();
        }
    }
    panic!("{addr:#x} is not mapped");
}

#[test]
fn what_the_kernel_has_is_left_out_and_comes_back() {
    entry::set_hooks(|_, _| Served::NotOurs, |_| false);
    if let Err(e) = entry::start(Entry::Signal) {
        return println!("skipped: no userfaultfd here: {e}");
    }
    let mut frames = Frames::new(PAGES, 64, Access::Opened).unwrap();
    let base = frames.arena_addr();
    let addr = |page: usize| base + page * PAGE_SIZE;
    let mut word = [0; 4];
    assert_eq!(memory::read(addr(ANON.start), &mut word), Err(Errno::EFAULT));
    frames.open(FILE.start..ANON.end).unwrap();
    memory::write(addr(ANON.start), b"kept").unwrap();
    frames.let_go(FILE).unwrap();
    frames.let_go(ANON).unwrap();
    map_file(addr(FILE.start), FILE.len() * PAGE_SIZE);
    let has = |page: usize, flag: &str| flags(addr(page)).iter().any(|found| found == flag);
    let whole = frames.register(Entry::Signal.uffd(), &tmem_sys::frames::whole(PAGES));
    assert!(whole.is_err(), "the kernel registers a file's mapping: this test tests nothing");
    assert!(!has(0, "um") && !frames.is_registered());

    frames.register(Entry::Signal.uffd(), &parts).unwrap();
    for (page, ours) in
        [(0, true), (FILE.start, false), (FILE.end, true), (ANON.start, false), (ANON.end, true)]
    {
        assert_eq!(
            (has(page, "um"), has(page, "dc")),
            (ours, ours),
            "page {page}: registered, not inherited"
        );
    }
    frames.set_inherited(true, &parts).unwrap();
    assert!(!has(0, "dc") && !has(ANON.start, "dc"));
    frames.set_inherited(false, &parts).unwrap();
    frames.adopt(ANON).unwrap();
    memory::read(addr(ANON.start), &mut word).unwrap();
    assert_eq!(&word, b"kept");
    frames.restore(FILE).unwrap();
    assert_eq!(memory::read(addr(FILE.start), &mut word), Err(Errno::EFAULT));
    for page in [FILE.start, ANON.start] {
        assert!(has(page, "um") && has(page, "dc") && has(page, "dd"), "page {page}");
    }
}
