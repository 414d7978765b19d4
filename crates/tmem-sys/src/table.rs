// SPDX-License-Identifier: Apache-2.0
//! Owns: fixed-capacity arrays of plain data in their own mappings, zero until written, committed as touched.
//! Callers: the store's and pager's metadata. Law: never the heap, so that the path of a page may use them.

use crate::errno::Errno;
use crate::mapping::{Advice, Mapping};
use crate::page::PAGE_SIZE;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

/// Types for which all-zero bytes are a value, which own nothing and hold no references.
///
/// # Safety
/// Every bit pattern that the type's own code writes, and all zeros, must be valid; no padding rules are assumed.
pub unsafe trait Pod: Copy + 'static {}

macro_rules! ints {
    ($($t:ty),*) => { $(
        // SAFETY: any bits are an integer.
        unsafe impl Pod for $t {}
    )* };
}
ints!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, isize);

// SAFETY: an array of plain data is plain data.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// Defines a struct that is [`Pod`]: the macro demands `Pod` of each field.
#[macro_export]
macro_rules! pod {
    ($(#[$m:meta])* $v:vis struct $name:ident { $($(#[$fm:meta])* $fv:vis $f:ident : $t:ty),* $(,)? }) => {
        $(#[$m])*
        #[repr(C)]
        #[derive(Clone, Copy)]
        $v struct $name { $($(#[$fm])* $fv $f: $t),* }
        const _: () = {
            const fn assert_pod<T: $crate::Pod>() {}
            $( assert_pod::<$t>(); )*
        };
        $crate::__impl_pod!($name);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __impl_pod {
    ($name:ident) => {
        // SAFETY: `pod!` checked every field, and the struct is `repr(C)` and `Copy`.
        unsafe impl $crate::Pod for $name {}
    };
}

/// A zero-filled array of `cap` elements in its own mapping.
pub struct Table<T: Pod> {
    pub(crate) map: Mapping,
    cap: usize,
    kind: PhantomData<T>,
}

impl<T: Pod> Table<T> {
    /// # Errors
    /// `ENOMEM` when the address space cannot hold it.
    pub fn new(cap: usize) -> Result<Table<T>, Errno> {
        let bytes = cap.checked_mul(size_of::<T>()).ok_or(Errno::ENOMEM)?;
        Ok(Table { map: Mapping::new(bytes)?, cap, kind: PhantomData })
    }

    /// Makes the whole pages inside a byte range zero again and gives their memory back.
    pub fn discard(&mut self, bytes: Range<usize>) {
        let start = bytes.start.next_multiple_of(PAGE_SIZE);
        let end = bytes.end.min(self.map.len()) / PAGE_SIZE * PAGE_SIZE;
        if start < end && self.map.advise(start..end, Advice::DontNeed).is_err() {
            // Refused only when the range is locked in memory: then zero it by hand, the contract is the zeros.
            self.bytes_mut()[start..end].fill(0);
        }
    }

    /// Where the table lies; for system calls and for telling addresses apart.
    pub fn addr(&self) -> usize {
        self.map.addr()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is owned, initialised (zero-filled by the kernel) and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.map.addr() as *mut u8, self.map.len()) }
    }
}

impl<T: Pod> Deref for Table<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `cap` elements lie inside the owned mapping, aligned to a page, and zero is valid for `Pod`.
        unsafe { std::slice::from_raw_parts(self.map.addr() as *const T, self.cap) }
    }
}

impl<T: Pod> DerefMut for Table<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.map.addr() as *mut T, self.cap) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discard_returns_zeros_and_keeps_the_rest() {
        let mut t: Table<u64> = Table::new(2048).unwrap();
        t.fill(7);
        t.discard(100..9000);
        assert_eq!(t[0], 7);
        assert_eq!(t[511], 7, "the partial first page stays");
        assert_eq!(t[512], 0);
        assert_eq!(t[1023], 0);
        assert_eq!(t[1024], 7);
    }
}
