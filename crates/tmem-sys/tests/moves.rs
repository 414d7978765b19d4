// SPDX-License-Identifier: Apache-2.0
//! Moves of frames while the kernel compacts memory: what was moved and what was not is known page by page (law 12). Needs
//! root, to have memory compacted.

use std::fs;
use std::time::{Duration, Instant};
use tmem_sys::entry::{self, Entry, Served};
use tmem_sys::frames::{Access, Frames, whole};
use tmem_sys::{Errno, PAGE_SIZE};

const COMPACT: &str = "/proc/sys/vm/compact_memory";
const PAGES: usize = 4096;
const RUN: usize = 64;

#[test]
fn moves_are_known_page_by_page_while_memory_is_compacted() {
    if fs::write(COMPACT, "1").is_err() {
        return println!("skipped: {COMPACT} cannot be written, which needs root");
    }
    entry::set_hooks(|_, _| Served::NotOurs, |_| false);
    if let Err(e) = entry::start(Entry::Signal) {
        return println!("skipped: no userfaultfd here: {e}");
    }
    let mut frames = Frames::new(PAGES, PAGES, Access::Everywhere).unwrap();
    frames.register(Entry::Signal.uffd(), &whole(PAGES)).unwrap();
    for slot in 0..PAGES {
        frames.new_frame(slot).unwrap();
        frames.frame_mut(slot).fill(slot as u8);
        frames.frame_mut(slot)[..8].copy_from_slice(&slot.to_ne_bytes());
    }
    std::thread::scope(|s| {
        let end = Instant::now() + Duration::from_secs(2);
        s.spawn(move || {
            while Instant::now() < end {
                let _ = fs::write(COMPACT, "1");
            }
        });
        while Instant::now() < end {
            for first in (0..PAGES).step_by(RUN) {
                all(first, |page, n| frames.put_in(page, n, page));
            }
            for first in (0..PAGES).step_by(RUN) {
                all(first, |page, n| frames.take_out(page, n, page));
            }
        }
    });
    for slot in 0..PAGES {
        let page = frames.frame(slot);
        assert_eq!(page[..8], slot.to_ne_bytes(), "slot {slot} has another page");
        assert!(page[8..PAGE_SIZE].iter().all(|&b| b == slot as u8));
    }
}

/// Moves a whole run, in as many tries as it takes.
fn all(first: usize, mut some: impl FnMut(usize, usize) -> tmem_sys::frames::Moved) {
    let mut done = 0;
    while done < RUN {
        let moved = some(first + done, RUN - done);
        done += moved.pages;
        match moved.stopped {
            None | Some(Errno::EAGAIN | Errno::EBUSY | Errno::EINTR) => {}
            Some(other) => panic!("after {done} pages: {other}"),
        }
    }
}
