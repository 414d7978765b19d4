// SPDX-License-Identifier: Apache-2.0
//! Owns: the first bytes of the C library's functions that map memory. A jump stands there to ours, so that calls from inside
//! the C library come to us as well: `malloc` maps its large blocks, the heaps of threads and the growth of its own heap by
//! calls that no other library can put itself in front of. Caller: `start`, before any other thread exists. No locks.
//!
//! Nothing ever calls what stood there: each of ours makes the system call itself.

use crate::elf::Library;
use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicUsize, Ordering};
use tmem_sys::Errno;
use tmem_sys::page::PAGE_SIZE;
use tmem_sys::syscall::{call, die};

/// A function of the C library's and what stands in for it.
pub struct Patch {
    pub name: &'static CStr,
    pub ours: usize,
    /// Libraries without it are as good.
    pub optional: bool,
}

/// Why nothing was changed.
#[derive(Debug)]
pub enum Refusal {
    /// There is no such function in the C library, or it is too short.
    Missing(&'static CStr),
    /// The kernel does not let the text be changed.
    Denied(Errno),
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Refusal::Missing(name) => {
                let name = name.to_str().unwrap_or_default();
                write!(f, "its C library has no {name} to be replaced; tmem run needs the GNU C library")
            }
            Refusal::Denied(e) => write!(
                f,
                "the C library's text cannot be changed ({}): SELinux forbids it, for one; allow this program execmod",
                e.name()
            ),
        }
    }
}

/// `jmp *0(%rip)`, and the address behind it.
const JUMP: [u8; 6] = [0xff, 0x25, 0, 0, 0, 0];
const LEN: usize = JUMP.len() + 8;

/// The C library's text.
static TEXT: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// Whether an instruction is the C library's.
pub fn is_libc(at: usize) -> bool {
    (TEXT[0].load(Ordering::Relaxed)..TEXT[1].load(Ordering::Relaxed)).contains(&at)
}

/// Whether the C library has a function that can be replaced.
pub fn has(name: &CStr) -> bool {
    Library::libc().and_then(|library| library.function(name)).is_some_and(|(_, size)| size >= LEN)
}

/// Puts all jumps in place, or none.
///
/// # Errors
/// As [`Refusal`] tells; then everything is as before.
///
/// # Safety
/// No other thread exists, and each of ours takes and returns what the function it stands for does.
pub unsafe fn apply(patches: &[Patch]) -> Result<(), Refusal> {
    let library = Library::libc().ok_or(Refusal::Missing(c"gnu_get_libc_version"))?;
    let text = library.text();
    TEXT[0].store(text.start, Ordering::Relaxed);
    TEXT[1].store(text.end, Ordering::Relaxed);
    let mut places = [0usize; 32];
    assert!(patches.len() <= places.len());
    let (mut low, mut high) = (usize::MAX, 0);
    for (patch, place) in patches.iter().zip(&mut places) {
        match library.function(patch.name).filter(|(_, size)| *size >= LEN) {
            Some((at, _)) => {
                *place = at;
                low = low.min(at & !(PAGE_SIZE - 1));
                high = high.max((at + 2 * LEN).next_multiple_of(PAGE_SIZE));
            }
            None if patch.optional => {}
            None => return Err(Refusal::Missing(patch.name)),
        }
    }
    protect(low..high, libc::PROT_READ | libc::PROT_WRITE).map_err(Refusal::Denied)?;
    for (patch, &place) in patches.iter().zip(&places) {
        if place != 0 {
            // SAFETY: the function is at least so long, its page is writable, and nobody runs it now.
            unsafe { write_jump(place, patch.ours) };
        }
    }
    if protect(low..high, libc::PROT_READ | libc::PROT_EXEC).is_err() {
        die("the C library's text was changed and cannot be made to run again");
    }
    Ok(())
}

/// # Safety
/// `LEN` bytes from `at` on are writable and run by nobody.
unsafe fn write_jump(at: usize, to: usize) {
    let mut bytes = [0u8; LEN];
    bytes[..JUMP.len()].copy_from_slice(&JUMP);
    bytes[JUMP.len()..].copy_from_slice(&(to as u64).to_le_bytes());
    // Byte by byte: the C library's `memcpy` may lie in a page that cannot be run now.
    for (i, byte) in bytes.into_iter().enumerate() {
        // SAFETY: passed on to the caller.
        unsafe { ((at + i) as *mut u8).write_volatile(byte) };
    }
}

fn protect(range: core::ops::Range<usize>, prot: c_int) -> Result<(), Errno> {
    // SAFETY: text of the C library; nobody runs it while it cannot be run, ours is elsewhere.
    unsafe { call(libc::SYS_mprotect, [range.start, range.end - range.start, prot as usize]) }.map(drop)
}
