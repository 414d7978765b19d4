// SPDX-License-Identifier: Apache-2.0
//! Owns: ZSTD over one page, with or without a dictionary. Callers: the store's codec. Locks: none.
//! Law 17: contexts and dictionaries lie in mappings of our own, made before the path of a page; the C library takes
//! no memory itself. Only [`train`] does, and says so.
//!
//! A frame has no magic number, length, checksum or dictionary's number: two bytes of header and three of the block's. Bytes
//! that are no whole compressed page are an error, whoever wrote them: the library bounds what it reads and writes, and the
//! length is looked at.

use crate::errno::Errno;
use crate::mapping::Mapping;
use crate::page::{PAGE_SIZE, Page};
use std::os::raw::{c_int, c_uint, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use zstd_sys::{
    ZDICT_fastCover_params_t, ZDICT_params_t, ZSTD_CCtx, ZSTD_CDict, ZSTD_DCtx, ZSTD_DDict,
    ZSTD_ResetDirective, ZSTD_cParameter, ZSTD_compressionParameters, ZSTD_dParameter,
    ZSTD_dictContentType_e, ZSTD_dictLoadMethod_e, ZSTD_format_e,
};

/// The largest dictionary.
pub const LARGEST_DICTIONARY: usize = 112 << 10;
/// What a page's tables may be as large as: one more than a page has positions.
const PAGE_LOG: c_uint = 13;
/// The dictionary is put together of pieces about this long.
const SEGMENT: c_uint = 512;
/// Strings of eight bytes are counted in a table of 2 to this.
const FREQUENCIES: c_uint = 18;

/// A compressor of pages; for one thread at a time.
pub struct Compressor {
    context: NonNull<ZSTD_CCtx>,
    room: Mapping,
}

// SAFETY: the context lies in the mapping that comes along, and nothing of it belongs to a thread.
unsafe impl Send for Compressor {}

impl Compressor {
    /// A compressor for pages, at a level of the library's.
    ///
    /// # Errors
    /// `ENOMEM`; `EINVAL` for a library without what a page's frame needs.
    pub fn new(level: i32) -> Result<Compressor, Errno> {
        // With a dictionary, the page's own tables are as without, or those of the dictionary's plan for a page alone.
        let alone = plan(level, 0);
        let after = digest_plan(level, LARGEST_DICTIONARY);
        let beside = ZSTD_compressionParameters {
            hashLog: after.hashLog.min(PAGE_LOG),
            chainLog: after.chainLog.min(PAGE_LOG),
            windowLog: after.windowLog.min(PAGE_LOG),
            ..after
        };
        // SAFETY: a pure function of the library.
        let sizes = [alone, beside].map(|plan| unsafe { zstd_sys::ZSTD_estimateCCtxSize_usingCParams(plan) });
        let room = Mapping::new(sizes[0].max(sizes[1]))?;
        // SAFETY: the room is ours, aligned to a page, as long as said, and outlives the context, which comes to lie in it.
        let context = unsafe { zstd_sys::ZSTD_initStaticCCtx(room.addr() as *mut c_void, room.len()) };
        let context = NonNull::new(context).ok_or(Errno::EINVAL)?;
        let attach = 1; // ZSTD_dictForceAttach: a dictionary's tables are used where they are, never copied.
        for (name, value) in [
            (ZSTD_cParameter::ZSTD_c_compressionLevel, level),
            (ZSTD_cParameter::ZSTD_c_experimentalParam2, ZSTD_format_e::ZSTD_f_zstd1_magicless as c_int),
            (ZSTD_cParameter::ZSTD_c_experimentalParam4, attach),
            (ZSTD_cParameter::ZSTD_c_contentSizeFlag, 0),
            (ZSTD_cParameter::ZSTD_c_dictIDFlag, 0),
        ] {
            // SAFETY: the context is live, and known to nobody else.
            let answer = unsafe { zstd_sys::ZSTD_CCtx_setParameter(context.as_ptr(), name, value) };
            length(answer).ok_or(Errno::EINVAL)?;
        }
        Ok(Compressor { context, room })
    }

    /// Compresses a page into `dst`; the length, or `None` when it does not fit there.
    pub fn compress(&mut self, src: &Page, digest: Option<&Digest>, dst: &mut [u8]) -> Option<usize> {
        let tables = digest.map_or(ptr::null(), |digest| digest.tables.as_ptr().cast_const());
        // SAFETY: the context is live and ours alone; the tables are null or live as long as the reference; source and target
        // are buffers of the lengths given. What a failed call left behind is reset first.
        let answer = unsafe {
            let context = self.context.as_ptr();
            zstd_sys::ZSTD_CCtx_reset(context, ZSTD_ResetDirective::ZSTD_reset_session_only);
            length(zstd_sys::ZSTD_CCtx_refCDict(context, tables))?;
            let (src, into) = (src.as_ptr().cast(), dst.as_mut_ptr().cast());
            zstd_sys::ZSTD_compress2(context, into, dst.len(), src, PAGE_SIZE)
        };
        length(answer)
    }

    /// Bytes of its working memory.
    pub fn footprint(&self) -> usize {
        self.room.len()
    }
}

/// A decompressor of pages; for one thread at a time.
pub struct Decompressor {
    context: NonNull<ZSTD_DCtx>,
    /// Where the context lies.
    _room: Mapping,
}

// SAFETY: as for the compressor.
unsafe impl Send for Decompressor {}
// SAFETY: nothing is done through a shared reference.
unsafe impl Sync for Decompressor {}

impl Decompressor {
    /// Memory that is touched when one is made.
    pub const IDLE: usize = 4 * PAGE_SIZE;
    /// Memory that is touched once pages were decompressed: of a context of 94 KiB, the rest is for longer texts.
    pub const FOOTPRINT: usize = 10 * PAGE_SIZE;

    /// # Errors
    /// `ENOMEM`; `EINVAL` for a library without what a page's frame needs.
    pub fn new() -> Result<Decompressor, Errno> {
        // SAFETY: a pure function of the library.
        let bytes = unsafe { zstd_sys::ZSTD_estimateDCtxSize() };
        let room = Mapping::new(bytes)?;
        // SAFETY: as for the compressor.
        let context = unsafe { zstd_sys::ZSTD_initStaticDCtx(room.addr() as *mut c_void, room.len()) };
        let context = NonNull::new(context).ok_or(Errno::EINVAL)?;
        let format = ZSTD_format_e::ZSTD_f_zstd1_magicless as c_int;
        // SAFETY: the context is live, and known to nobody else.
        let answer = unsafe {
            let name = ZSTD_dParameter::ZSTD_d_experimentalParam1;
            zstd_sys::ZSTD_DCtx_setParameter(context.as_ptr(), name, format)
        };
        length(answer).ok_or(Errno::EINVAL)?;
        Ok(Decompressor { context, _room: room })
    }

    /// Decompresses `src` into a page; false when the bytes are not a whole page compressed with this dictionary. A page
    /// compressed with another may come out as a different page.
    #[must_use]
    pub fn decompress(&mut self, src: &[u8], dictionary: Option<&Dictionary>, dst: &mut Page) -> bool {
        let tables = dictionary.map_or(ptr::null(), |known| known.tables.as_ptr().cast_const());
        // SAFETY: the context is live and ours alone; the tables are null or live as long as the reference, and only read; the
        // library bounds its reads by the source's length and its writes by the target's.
        let answer = unsafe {
            let context = self.context.as_ptr();
            let (from, into) = (src.as_ptr().cast(), dst.as_mut_ptr().cast());
            zstd_sys::ZSTD_decompress_usingDDict(context, into, PAGE_SIZE, from, src.len(), tables)
        };
        length(answer) == Some(PAGE_SIZE)
    }
}

/// What pages have in common, ready for decompressors. Never changed.
pub struct Dictionary {
    tables: NonNull<ZSTD_DDict>,
    len: usize,
    /// The bytes, then the tables.
    room: Mapping,
}

// SAFETY: it is only read once it is made.
unsafe impl Send for Dictionary {}
// SAFETY: as above.
unsafe impl Sync for Dictionary {}

impl Dictionary {
    /// A dictionary of what [`train`] gave.
    ///
    /// # Errors
    /// `EINVAL` where that is none; `ENOMEM`.
    pub fn new(bytes: &[u8]) -> Result<Dictionary, Errno> {
        if bytes.len() > LARGEST_DICTIONARY {
            return Err(Errno::EINVAL);
        }
        let reference = ZSTD_dictLoadMethod_e::ZSTD_dlm_byRef;
        // SAFETY: a pure function of the library.
        let need = unsafe { zstd_sys::ZSTD_estimateDDictSize(bytes.len(), reference) };
        let start = bytes.len().next_multiple_of(64);
        let room = Mapping::new(start + need)?;
        // SAFETY: the bytes fit into the new room, which nobody else knows; the tables come after them, aligned, and both stay
        // where they are and as they are for as long as the room.
        let tables = unsafe {
            let kept = room.addr() as *mut u8;
            ptr::copy_nonoverlapping(bytes.as_ptr(), kept, bytes.len());
            let full = ZSTD_dictContentType_e::ZSTD_dct_fullDict;
            let (at, kept) = (kept.add(start).cast(), kept.cast_const().cast());
            zstd_sys::ZSTD_initStaticDDict(at, room.len() - start, kept, bytes.len(), reference, full)
        };
        let tables = NonNull::new(tables.cast_mut()).ok_or(Errno::EINVAL)?;
        Ok(Dictionary { tables, len: bytes.len(), room })
    }

    /// Bytes taken by it and its tables.
    pub fn footprint(&self) -> usize {
        self.room.len()
    }
}

/// A dictionary ready for compressors: where each of its strings is. Larger than the dictionary, so kept only while
/// pages are compressed.
pub struct Digest {
    tables: NonNull<ZSTD_CDict>,
    room: Mapping,
    /// The tables refer to its bytes.
    _dictionary: Arc<Dictionary>,
}

// SAFETY: it is only read once it is made.
unsafe impl Send for Digest {}
// SAFETY: as above.
unsafe impl Sync for Digest {}

impl Digest {
    /// # Errors
    /// `ENOMEM`; `EINVAL` where the library does not take it.
    pub fn new(dictionary: Arc<Dictionary>, level: i32) -> Result<Digest, Errno> {
        let (len, reference) = (dictionary.len, ZSTD_dictLoadMethod_e::ZSTD_dlm_byRef);
        let plan = digest_plan(level, len);
        // SAFETY: a pure function of the library.
        let need = unsafe { zstd_sys::ZSTD_estimateCDictSize_advanced(len, plan, reference) };
        let room = Mapping::new(need)?;
        // SAFETY: the room is ours and aligned; the bytes live and stay as they are as long as the dictionary that is kept.
        let tables = unsafe {
            let full = ZSTD_dictContentType_e::ZSTD_dct_fullDict;
            let (at, bytes) = (room.addr() as *mut c_void, dictionary.room.addr() as *const c_void);
            zstd_sys::ZSTD_initStaticCDict(at, room.len(), bytes, len, reference, full, plan)
        };
        let tables = NonNull::new(tables.cast_mut()).ok_or(Errno::EINVAL)?;
        Ok(Digest { tables, room, _dictionary: dictionary })
    }

    /// Bytes taken by the tables.
    pub fn footprint(&self) -> usize {
        self.room.len()
    }
}

/// Makes a dictionary of at most `size` bytes of sample pages; `None` where they have too little in common. Takes memory from
/// the heap, many times the samples: never on the path of a page.
pub fn train(samples: &[Page], size: usize) -> Option<Vec<u8>> {
    let sizes = vec![PAGE_SIZE; samples.len()];
    let mut bytes = vec![0u8; size.min(LARGEST_DICTIONARY)];
    let entropy = ZDICT_params_t { compressionLevel: 6, notificationLevel: 0, dictID: 0 };
    let plan = ZDICT_fastCover_params_t {
        k: SEGMENT,
        d: 8,
        f: FREQUENCIES,
        steps: 0,
        nbThreads: 0,
        splitPoint: 1.0,
        accel: 1,
        shrinkDict: 0,
        shrinkDictMaxRegression: 0,
        zParams: entropy,
    };
    // SAFETY: buffers of the lengths given; `sizes` has one entry for each page, and they are without gaps.
    let answer = unsafe {
        let (into, from) = (bytes.as_mut_ptr().cast(), samples.as_ptr().cast());
        zstd_sys::ZDICT_trainFromBuffer_fastCover(
            into,
            bytes.len(),
            from,
            sizes.as_ptr(),
            samples.len() as c_uint,
            plan,
        )
    };
    // SAFETY: a pure function of the library.
    if unsafe { zstd_sys::ZDICT_isError(answer) } != 0 {
        return None;
    }
    bytes.truncate(answer);
    Some(bytes)
}

/// How the library compresses a page at a level, after a dictionary of so many bytes.
fn plan(level: i32, dictionary: usize) -> ZSTD_compressionParameters {
    // SAFETY: a pure function of the library.
    unsafe { zstd_sys::ZSTD_getCParams(level, PAGE_SIZE as u64, dictionary) }
}

/// The tables of a dictionary: no larger than what they are to hold. Strings are looked up in rows of a hash table at the
/// levels that matter here, and chains not used; at others less is found.
fn digest_plan(level: i32, dictionary: usize) -> ZSTD_compressionParameters {
    let log = (dictionary + PAGE_SIZE).next_power_of_two().ilog2();
    let plan = plan(level, dictionary);
    ZSTD_compressionParameters {
        hashLog: plan.hashLog.min(log),
        chainLog: plan.chainLog.min(zstd_sys::ZSTD_CHAINLOG_MIN),
        ..plan
    }
}

/// The library's answer, if it is no error.
fn length(answer: usize) -> Option<usize> {
    // SAFETY: a pure function of the library.
    (unsafe { zstd_sys::ZSTD_isError(answer) } == 0).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(seed: usize) -> Page {
        let mut page = [0; PAGE_SIZE];
        page.iter_mut().enumerate().for_each(|(i, b)| *b = ((i * (seed + 3) / 7) as u8) ^ (i >> 5) as u8);
        page
    }

    #[test]
    fn pages_come_back_and_bad_bytes_do_not() {
        let (mut compressor, mut decompressor) = (Compressor::new(6).unwrap(), Decompressor::new().unwrap());
        let (page, mut packed, mut back) = (page(1), [0u8; PAGE_SIZE], [1u8; PAGE_SIZE]);
        let n = compressor.compress(&page, None, &mut packed).unwrap();
        assert!(decompressor.decompress(&packed[..n], None, &mut back));
        assert_eq!(page, back);
        assert!(!decompressor.decompress(&packed[..n / 2], None, &mut back));
        assert!(!decompressor.decompress(
            &[packed[..n].to_vec(), packed[..n].to_vec()].concat(),
            None,
            &mut back
        ));
        assert!(!decompressor.decompress(&[], None, &mut back));
        assert_eq!(compressor.compress(&page, None, &mut packed[..n - 1]), None, "it does not fit");
        assert_eq!(compressor.compress(&page, None, &mut packed), Some(n), "and is whole again after that");
    }

    #[test]
    fn every_level_and_size_of_dictionary_finds_its_memory() {
        let samples: Vec<Page> = (0..100).map(page).collect();
        let mut decompressor = Decompressor::new().unwrap();
        for level in [1, 3, 6, 9, 13, 16, 19, 22] {
            let mut compressor = Compressor::new(level).unwrap();
            for size in [4 << 10, 16 << 10, 64 << 10, LARGEST_DICTIONARY] {
                let bytes = train(&samples, size).unwrap();
                assert!(bytes.len() <= size);
                let dictionary = Arc::new(Dictionary::new(&bytes).unwrap());
                let digest = Digest::new(dictionary.clone(), level).unwrap();
                for (page, digest) in
                    samples[..20].iter().flat_map(|page| [(page, Some(&digest)), (page, None)])
                {
                    let (mut packed, mut back) = ([0u8; 2 * PAGE_SIZE], [1u8; PAGE_SIZE]);
                    let n = compressor.compress(page, digest, &mut packed);
                    let n = n
                        .unwrap_or_else(|| panic!("level {level}, {size}, dictionary: {}", digest.is_some()));
                    let known = digest.map(|_| &*dictionary);
                    assert!(decompressor.decompress(&packed[..n], known, &mut back) && back == *page);
                }
            }
        }
    }

    #[test]
    fn a_decompressor_touches_what_is_counted() {
        let mut decompressor = Decompressor::new().unwrap();
        let there = |decompressor: &Decompressor| {
            // SAFETY: a pure function of the library.
            let pages = unsafe { zstd_sys::ZSTD_estimateDCtxSize() }.div_ceil(PAGE_SIZE);
            let (start, mut count) = (decompressor.context.as_ptr() as usize, 0);
            crate::pagemap::each_page(start, pages, |_, there| count += usize::from(there)).unwrap();
            count * PAGE_SIZE
        };
        assert!(there(&decompressor) <= Decompressor::IDLE, "{} bytes", there(&decompressor));
        let samples: Vec<Page> = (0..100).map(page).collect();
        let dictionary = Arc::new(Dictionary::new(&train(&samples, 16 << 10).unwrap()).unwrap());
        for level in [1, 6, 19] {
            let mut compressor = Compressor::new(level).unwrap();
            let digest = Digest::new(dictionary.clone(), level).unwrap();
            for (page, digest) in samples.iter().flat_map(|page| [(page, Some(&digest)), (page, None)]) {
                let (mut packed, mut back) = ([0u8; 2 * PAGE_SIZE], [1u8; PAGE_SIZE]);
                let n = compressor.compress(page, digest, &mut packed).unwrap();
                assert!(decompressor.decompress(&packed[..n], digest.map(|_| &*dictionary), &mut back));
            }
        }
        assert!(there(&decompressor) <= Decompressor::FOOTPRINT, "{} bytes", there(&decompressor));
    }

    #[test]
    fn what_is_no_dictionary_is_refused() {
        assert!(Dictionary::new(&[7; 5000]).is_err());
        assert!(Dictionary::new(&[]).is_err());
        assert!(Dictionary::new(&vec![7; LARGEST_DICTIONARY + 1]).is_err());
        assert!(train(&[], 4096).is_none());
        assert!(train(&[[0; PAGE_SIZE]; 3], 4096).is_none());
    }
}
