// SPDX-License-Identifier: Apache-2.0
//! Owns: LZ4 over one page. The C library is used because it takes its working memory from the caller: the
//! path of a page may not allocate. Callers: the store's codec.

use crate::errno::Errno;
use crate::page::{PAGE_SIZE, Page};
use crate::table::Table;
use std::os::raw::{c_char, c_int, c_void};

unsafe extern "C" {
    fn LZ4_sizeofState() -> c_int;
    fn LZ4_compress_fast_extState(
        state: *mut c_void,
        src: *const c_char,
        dst: *mut c_char,
        src_len: c_int,
        dst_len: c_int,
        acceleration: c_int,
    ) -> c_int;
}

/// The compressor's hash table (16 KiB), in memory of its own.
pub struct Lz4State(Table<u64>);

impl Lz4State {
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Lz4State, Errno> {
        // SAFETY: a pure function of the library.
        let bytes = unsafe { LZ4_sizeofState() } as usize;
        Ok(Lz4State(Table::new(bytes.div_ceil(8))?))
    }

    /// Compresses a page into `dst`; the length, or `None` when it does not fit there.
    pub fn compress(&mut self, src: &Page, dst: &mut [u8]) -> Option<usize> {
        // SAFETY: state, source and target are live buffers of the lengths given; the library writes no further.
        let n = unsafe {
            LZ4_compress_fast_extState(
                self.0.as_mut_ptr().cast(),
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                PAGE_SIZE as c_int,
                dst.len().min(PAGE_SIZE * 2) as c_int,
                1,
            )
        };
        (n > 0).then_some(n as usize)
    }
}

/// Decompresses `src` into a page; false when the bytes are not a whole compressed page.
#[must_use]
pub fn decompress(src: &[u8], dst: &mut Page) -> bool {
    // SAFETY: the library bounds its reads by the source's length and its writes by the target's.
    let n = unsafe {
        lz4_sys::LZ4_decompress_safe(
            src.as_ptr().cast(),
            dst.as_mut_ptr().cast(),
            src.len().min(PAGE_SIZE * 2) as c_int,
            PAGE_SIZE as c_int,
        )
    };
    n == PAGE_SIZE as c_int
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_and_bad_bytes_do_not() {
        let mut state = Lz4State::new().unwrap();
        let mut page = [0u8; PAGE_SIZE];
        page.iter_mut().enumerate().for_each(|(i, b)| *b = (i / 7) as u8);
        let mut packed = [0u8; PAGE_SIZE];
        let n = state.compress(&page, &mut packed).unwrap();
        let mut back = [1u8; PAGE_SIZE];
        assert!(decompress(&packed[..n], &mut back));
        assert_eq!(page, back);
        assert!(!decompress(&packed[..n / 2], &mut back));
    }
}
