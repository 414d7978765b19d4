// SPDX-License-Identifier: Apache-2.0
//! Owns: looking functions up in the C library's own table of symbols, with their lengths. The loader's `dladdr` tells those too,
//! but goes through thousands of symbols for each: half a millisecond for all, in every process of a tree. Caller: `patch`.

use core::ffi::{CStr, c_char, c_int, c_void};

/// `struct link_map`, as far as it is public.
#[repr(C)]
struct LinkMap {
    base: usize,
    name: *const c_char,
    dynamic: *const [usize; 2],
}

/// An entry of a symbol table.
#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: usize,
    size: usize,
}

unsafe extern "C" {
    fn dladdr1(addr: *const c_void, info: *mut libc::Dl_info, extra: *mut *mut c_void, flags: c_int)
    -> c_int;
    fn gnu_get_libc_version() -> *const c_char;
}

const RTLD_DL_LINKMAP: c_int = 2;

const DT_STRTAB: usize = 5;
const DT_SYMTAB: usize = 6;
const DT_VERSYM: usize = 0x6fff_fff0;
const DT_GNU_HASH: usize = 0x6fff_fef5;
/// Not the version that a program linked today would get.
const VERSYM_HIDDEN: u16 = 0x8000;
const STT_FUNC: u8 = 2;

/// The C library's tables.
pub struct Library {
    base: usize,
    symbols: *const Symbol,
    strings: *const c_char,
    versions: *const u16,
    hash: *const u32,
}

impl Library {
    /// The GNU C library of this process; `None` where it is another.
    pub fn libc() -> Option<Library> {
        // SAFETY: all of it is plain data.
        let mut info: libc::Dl_info = unsafe { core::mem::zeroed() };
        let mut map: *mut c_void = core::ptr::null_mut();
        let inside = gnu_get_libc_version as *const c_void;
        // SAFETY: both are live; the loader fills them in.
        let found = unsafe { dladdr1(inside, &raw mut info, &raw mut map, RTLD_DL_LINKMAP) };
        if found == 0 || map.is_null() {
            return None;
        }
        // SAFETY: the loader's own description of an object that stays loaded.
        let map = unsafe { &*map.cast::<LinkMap>() };
        let [mut symbols, mut strings, mut versions, mut hash] = [0; 4];
        let mut entry = map.dynamic;
        // SAFETY: the dynamic section ends with an entry of tag 0.
        unsafe {
            while (*entry)[0] != 0 {
                let [tag, value] = *entry;
                match tag {
                    DT_SYMTAB => symbols = value,
                    DT_STRTAB => strings = value,
                    DT_VERSYM => versions = value,
                    DT_GNU_HASH => hash = value,
                    _ => {}
                }
                entry = entry.add(1);
            }
        }
        // The loader has put addresses in place of offsets, on all machines but a few.
        let absolute = |at: usize| if at < map.base { map.base + at } else { at };
        (symbols != 0 && strings != 0 && versions != 0 && hash != 0).then(|| Library {
            base: map.base,
            symbols: absolute(symbols) as *const Symbol,
            strings: absolute(strings) as *const c_char,
            versions: absolute(versions) as *const u16,
            hash: absolute(hash) as *const u32,
        })
    }

    /// The addresses of its instructions, by the program headers at its beginning.
    pub fn text(&self) -> core::ops::Range<usize> {
        let (mut low, mut high) = (usize::MAX, 0);
        // SAFETY: a loaded object begins with its ELF header, and its program headers are mapped with that.
        unsafe {
            let header = &*(self.base as *const libc::Elf64_Ehdr);
            let entries = (self.base + header.e_phoff as usize) as *const libc::Elf64_Phdr;
            for entry in core::slice::from_raw_parts(entries, usize::from(header.e_phnum)) {
                if entry.p_type == libc::PT_LOAD && entry.p_flags & libc::PF_X != 0 {
                    let start = self.base + entry.p_vaddr as usize;
                    low = low.min(start);
                    high = high.max(start + entry.p_memsz as usize);
                }
            }
        }
        low..high
    }

    /// Where a function begins, and its length.
    pub fn function(&self, name: &CStr) -> Option<(usize, usize)> {
        let hash = gnu_hash(name);
        // SAFETY: the tables are those of a loaded object: a header of four words, a filter, buckets, chains that end with an
        // odd hash, and an entry of each table for each number in a chain.
        unsafe {
            let [buckets, first, filter] = [*self.hash, *self.hash.add(1), *self.hash.add(2)];
            let bucket = self.hash.add(4 + 2 * filter as usize);
            let chain = bucket.add(buckets as usize);
            let mut number = *bucket.add((hash % buckets) as usize);
            if number < first {
                return None;
            }
            loop {
                let known = *chain.add((number - first) as usize);
                if known | 1 == hash | 1
                    && let Some(found) = self.matching(number as usize, name)
                {
                    return Some(found);
                }
                if known & 1 == 1 {
                    return None;
                }
                number += 1;
            }
        }
    }

    /// # Safety
    /// The tables have an entry of this number.
    unsafe fn matching(&self, number: usize, name: &CStr) -> Option<(usize, usize)> {
        // SAFETY: passed on to the caller.
        let (symbol, version, known) = unsafe {
            let symbol = &*self.symbols.add(number);
            (symbol, *self.versions.add(number), CStr::from_ptr(self.strings.add(symbol.name as usize)))
        };
        let is_it = known == name && version & VERSYM_HIDDEN == 0 && symbol.info & 0xf == STT_FUNC;
        (is_it && symbol.section != 0).then_some((self.base + symbol.value, symbol.size))
    }
}

fn gnu_hash(name: &CStr) -> u32 {
    name.to_bytes().iter().fold(5381, |h: u32, &b| h.wrapping_mul(33).wrapping_add(u32::from(b)))
}
