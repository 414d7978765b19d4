// SPDX-License-Identifier: Apache-2.0
//! `execve` and `execveat`: path, arguments and environment are copied by the kernel, and the call never comes back to let go of
//! anything. So what of them lies in paged memory goes through room outside it, page by page. Called by `trap`. No locks.
//!
//! The new program starts unguarded: the kernel ends dispatch and our handlers with the old one. The room goes with the old
//! memory, or where that was borrowed with the borrower's other holds.

use super::hold::Holds;
use super::ordinary::{Args, TOO_LARGE, issue};
use super::{hooks, refuse, user};
use crate::PAGE_SIZE;
use std::sync::OnceLock;

/// More than the kernel takes of strings and pointers to them together (6 MiB).
const ROOM: usize = 16 << 20;
/// More pointers than that has place for.
const MAX_STRINGS: usize = 1 << 20;
/// `MAX_ARG_STRLEN`: longer strings are refused by the kernel.
const MAX_STRING: usize = 32 * PAGE_SIZE;

const TOO_MUCH: isize = -(libc::E2BIG as isize);
/// No address of a program's: the kernel answers EFAULT when it comes to it.
const UNREADABLE: usize = 1;

static AROUND: OnceLock<(fn(), fn())> = OnceLock::new();

/// Has one function called just before another program takes this one's place, and one where it does not come to that.
pub fn around_exec(before: fn(), failed: fn()) {
    let _ = AROUND.set((before, failed));
}

/// Issues `execve` or, with `first` 1, `execveat`.
pub(super) fn call(nr: usize, mut a: Args, first: usize) -> isize {
    let mut holds = Holds::new();
    let Some(room) = holds.room(ROOM) else { return -(libc::ENOMEM as isize) };
    let mut strings =
        Strings { array: Window::new(room), text: Window::new(room + PAGE_SIZE), room, used: 2 * PAGE_SIZE };
    let copied = (|| {
        a[first] = strings.string(a[first])?;
        a[first + 1] = strings.array(a[first + 1])?;
        a[first + 2] = strings.array(a[first + 2])?;
        Ok::<(), isize>(())
    })();
    match copied {
        Ok(()) => {
            // Not before: what is to hold for the next program may leave no room for the copies.
            let around = AROUND.get();
            around.inspect(|(before, _)| before());
            let answer = issue(nr, a);
            around.inspect(|(_, failed)| failed());
            answer
        }
        Err(answer) => answer,
    }
}

fn is_paged(addr: usize) -> bool {
    hooks().is_some_and(|h| (h.owns)(addr, 1))
}

/// A copy of one page of the program's, in the room.
struct Window {
    copy: usize,
    page: usize,
}

impl Window {
    fn new(copy: usize) -> Window {
        Window { copy, page: usize::MAX }
    }

    /// The program's bytes from `addr` to the end of its page; None where the kernel would answer EFAULT.
    fn bytes(&mut self, addr: usize) -> Result<Option<&[u8]>, isize> {
        let page = addr & !(PAGE_SIZE - 1);
        if self.page != page {
            let mut holds = Holds::new();
            if !holds.range(page, PAGE_SIZE, false) {
                return Err(refuse(libc::ENOBUFS, TOO_LARGE));
            }
            // SAFETY: the window has this page of the room for itself, as long as the call lasts.
            let copy = unsafe { core::slice::from_raw_parts_mut(self.copy as *mut u8, PAGE_SIZE) };
            self.page = usize::MAX;
            if !user::fetch(page, copy) {
                return Ok(None);
            }
            self.page = page;
        }
        // SAFETY: as above; filled from the program's page.
        let copy = unsafe { core::slice::from_raw_parts(self.copy as *const u8, PAGE_SIZE) };
        Ok(Some(&copy[addr - page..]))
    }

    /// The word at `addr`, which may lie across two pages.
    fn word(&mut self, addr: usize) -> Result<Option<usize>, isize> {
        let mut word = [0u8; size_of::<usize>()];
        let mut done = 0;
        while done < word.len() {
            let Some(bytes) = self.bytes(addr.wrapping_add(done))? else { return Ok(None) };
            let n = bytes.len().min(word.len() - done);
            word[done..done + n].copy_from_slice(&bytes[..n]);
            done += n;
        }
        Ok(Some(usize::from_ne_bytes(word)))
    }
}

/// Copies what is paged; the rest stays where it is.
struct Strings {
    array: Window,
    text: Window,
    room: usize,
    used: usize,
}

impl Strings {
    /// An array of pointers that ends with a null, and what they point to.
    fn array(&mut self, array: usize) -> Result<usize, isize> {
        let Some((count, end)) = self.measure(array)? else { return Ok(array) };
        self.used = self.used.next_multiple_of(size_of::<usize>());
        let copy = self.take((count + 1) * size_of::<usize>())? as *mut usize;
        for i in 0..count {
            let text = match self.array.word(at(array, i))? {
                None => UNREADABLE,
                Some(text) if is_paged(text) => self.string(text)?,
                Some(text) => text,
            };
            // SAFETY: the words just taken of the room, aligned.
            unsafe { copy.add(i).write(text) };
        }
        // SAFETY: as above.
        unsafe { copy.add(count).write(end) };
        Ok(copy as usize)
    }

    /// How many pointers an array has and what stands after them; None where nothing of it is paged.
    fn measure(&mut self, array: usize) -> Result<Option<(usize, usize)>, isize> {
        let mut paged = is_paged(array);
        for count in 0..MAX_STRINGS {
            match if array == 0 { Some(0) } else { self.array.word(at(array, count))? } {
                Some(0) => return Ok(paged.then_some((count, 0))),
                None => return Ok(paged.then_some((count, UNREADABLE))),
                Some(text) => paged |= is_paged(text),
            }
        }
        Err(TOO_MUCH)
    }

    /// A string, copied if it begins in paged memory.
    fn string(&mut self, text: usize) -> Result<usize, isize> {
        if !is_paged(text) {
            return Ok(text);
        }
        let mut len = 0;
        let copy = self.room + self.used;
        while len < MAX_STRING {
            let Some(bytes) = self.text.bytes(text.wrapping_add(len))? else { return Ok(text) };
            let end = bytes.iter().position(|&b| b == 0);
            let n = end.map_or(bytes.len(), |i| i + 1);
            if n > ROOM - self.used {
                return Err(TOO_MUCH);
            }
            // SAFETY: as many bytes are left of the room.
            unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), (self.room + self.used) as *mut u8, n) };
            self.used += n;
            len += n;
            if end.is_some() {
                return Ok(copy);
            }
        }
        Err(TOO_MUCH)
    }

    /// The next bytes of the room.
    fn take(&mut self, len: usize) -> Result<usize, isize> {
        if len > ROOM - self.used {
            return Err(TOO_MUCH);
        }
        self.used += len;
        Ok(self.room + self.used - len)
    }
}

fn at(array: usize, i: usize) -> usize {
    array.wrapping_add(i * size_of::<usize>())
}
