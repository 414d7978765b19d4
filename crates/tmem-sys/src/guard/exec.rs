// SPDX-License-Identifier: Apache-2.0
//! `execve` and `execveat`: path, arguments and environment are copied by the kernel, so all of them are held. Called by `trap`.
//! The new program starts unguarded: the kernel ends dispatch and our handlers with the old one.

use super::hold::Holds;
use super::ordinary::{Args, TOO_LARGE, issue};
use super::{hooks, refuse, user};
use crate::PAGE_SIZE;

/// More strings than any kernel takes with pages this small: the walk ends.
const MAX_STRINGS: usize = 1 << 17;
/// `MAX_ARG_STRLEN`: longer strings are refused by the kernel.
const MAX_STRING: usize = 32 * PAGE_SIZE;

/// Issues `execve` or, with `first` 1, `execveat`.
pub(super) fn call(nr: usize, a: Args, first: usize) -> isize {
    let mut holds = Holds::new();
    let held = string(&mut holds, a[first])
        && strings(&mut holds, a[first + 1])
        && strings(&mut holds, a[first + 2]);
    if held { issue(nr, a) } else { refuse(libc::ENOBUFS, TOO_LARGE) }
}

/// Holds an array of pointers that ends with a null, and what they point to.
fn strings(holds: &mut Holds, array: usize) -> bool {
    let mut at = array;
    for _ in 0..MAX_STRINGS {
        if !holds_page_of(holds, at, array) {
            return false;
        }
        match user::read::<usize>(at) {
            None | Some(0) => return true,
            Some(text) if !string(holds, text) => return false,
            Some(_) => at = at.wrapping_add(size_of::<usize>()),
        }
    }
    true
}

/// The array itself may be paged: held page by page as the walk enters them.
fn holds_page_of(holds: &mut Holds, at: usize, start: usize) -> bool {
    let enters = at == start || at.is_multiple_of(PAGE_SIZE);
    !enters || at == 0 || holds.range(at, PAGE_SIZE - at % PAGE_SIZE, false)
}

/// Holds a string up to its end, page by page.
fn string(holds: &mut Holds, text: usize) -> bool {
    let Some(hooks) = hooks() else { return true };
    let mut at = text;
    while at < text.saturating_add(MAX_STRING) && (hooks.owns)(at, 1) {
        let rest = PAGE_SIZE - at % PAGE_SIZE;
        if !holds.range(at, rest, false) {
            return false;
        }
        // SAFETY: these bytes of an arena were just made present and are held; arenas are never unmapped while in use.
        let bytes = unsafe { core::slice::from_raw_parts(at as *const u8, rest) };
        if bytes.contains(&0) {
            return true;
        }
        at += rest;
    }
    true
}
