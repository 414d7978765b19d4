// SPDX-License-Identifier: Apache-2.0
//! Owns: what a page is. "Page" is tmem's unit, equal to the processor's 4 KiB base page on x86-64.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

pub const PAGE_SHIFT: usize = 12;
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// The processor's large page: the alignment of extents that may hold huge pages.
pub const HUGE_SIZE: usize = 2 << 20;

/// The contents of one page.
pub type Page = [u8; PAGE_SIZE];

pub static ZERO_PAGE: AlignedPage = AlignedPage([0; PAGE_SIZE]);

/// A page at an address that direct I/O and `UFFDIO_COPY` accept.
#[repr(C, align(4096))]
#[derive(Clone)]
pub struct AlignedPage(pub Page);

impl AlignedPage {
    pub const fn zeroed() -> AlignedPage {
        AlignedPage([0; PAGE_SIZE])
    }
}

/// Rounds a number of bytes up to whole pages.
pub const fn pages_for(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_SIZE)
}

/// A line of the processor's caches.
const LINE: usize = 64;

/// Asks for the beginning of what will be read soon. It takes as long as any read, but nothing waits for it; the
/// processor follows by itself from there on.
#[inline]
pub fn fetch(bytes: &[u8]) {
    bytes.chunks(LINE).take(4).for_each(|line| fetch_line(&line[0]));
}

/// As [`fetch`], for all of it: what is short, or not read from its beginning.
#[inline]
pub fn fetch_all(bytes: &[u8]) {
    bytes.chunks(LINE).for_each(|line| fetch_line(&line[0]));
}

/// As [`fetch`], for the one line in which something begins.
#[inline]
pub fn fetch_line<T>(at: &T) {
    // SAFETY: every x86-64 has the instruction, which reads nothing as far as the program can tell.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()) };
}
