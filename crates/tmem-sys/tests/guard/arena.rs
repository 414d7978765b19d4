// SPDX-License-Identifier: Apache-2.0
//! Stands in for the pager: a mapping whose pages cannot be touched unless they are held, by the program or by the kernel for it.
//! A buffer the guard misses shows as EFAULT.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tmem_sys::guard::{self, HoldResult, Hooks};
use tmem_sys::{Lock, syscall};

pub const SIZE: usize = 64 << 20;
const PAGE: usize = 4096;
const MAX_HOLDS: usize = 4096;

static BASE: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
/// The most that one hold gives, whatever is asked.
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);
static STATE: Lock<State> = Lock::new(State { pages: [0; SIZE / PAGE], holds: [(0, 0); MAX_HOLDS] });
static NOTICES: AtomicUsize = AtomicUsize::new(0);
static LAST_NOTICE: Lock<&'static str> = Lock::new("");

struct State {
    pages: [u16; SIZE / PAGE],
    holds: [(usize, usize); MAX_HOLDS],
}

pub static HOOKS: Hooks = Hooks { owns, hold, release, limit, notice };

fn owns(addr: usize, len: usize) -> bool {
    let base = BASE.load(Ordering::Relaxed);
    len > 0 && addr < base + SIZE && addr + len > base
}

fn limit() -> usize {
    LIMIT.load(Ordering::Relaxed)
}

fn notice(text: &'static str) {
    NOTICES.fetch_add(1, Ordering::Relaxed);
    *LAST_NOTICE.lock() = text;
}

pub fn last_notice() -> &'static str {
    *LAST_NOTICE.lock()
}

pub fn set_limits(limit: usize, most: usize) {
    LIMIT.store(limit, Ordering::Relaxed);
    MOST.store(most, Ordering::Relaxed);
}

fn protect(page: usize, prot: i32) {
    let addr = BASE.load(Ordering::Relaxed) + page * PAGE;
    let answer = unsafe { syscall::raw6(libc::SYS_mprotect as usize, [addr, PAGE, prot as usize, 0, 0, 0]) };
    assert_eq!(answer, 0);
}

fn hold(addr: usize, len: usize, _write: bool) -> HoldResult {
    let base = BASE.load(Ordering::Relaxed);
    let blocked = tmem_sys::signals::Blocked::new();
    let mut state = STATE.lock();
    let token = state.holds.iter().position(|h| h.1 == 0).expect("too many holds");
    let held_len = len.min(MOST.load(Ordering::Relaxed));
    let first = addr.max(base);
    let end = (addr + held_len).min(base + SIZE);
    let pages = (first - base) / PAGE..(end - base).div_ceil(PAGE);
    state.holds[token] = (pages.start, pages.len());
    for page in pages {
        state.pages[page] += 1;
        if state.pages[page] == 1 {
            protect(page, libc::PROT_READ | libc::PROT_WRITE);
        }
    }
    drop(state);
    drop(blocked);
    HoldResult { held_len, token: token as u64 }
}

fn release(token: u64) {
    let blocked = tmem_sys::signals::Blocked::new();
    let mut state = STATE.lock();
    let (start, len) = std::mem::take(&mut state.holds[token as usize]);
    assert!(len > 0, "released twice");
    for page in start..start + len {
        state.pages[page] -= 1;
        if state.pages[page] == 0 {
            protect(page, libc::PROT_NONE);
        }
    }
    drop(state);
    drop(blocked);
}

/// A signal handler on some other thread may be in the middle of a call of its own: what it holds goes soon.
pub fn assert_nothing_held() {
    let held = || STATE.lock().holds.iter().filter(|h| h.1 > 0).copied().collect::<Vec<_>>();
    for _ in 0..200 {
        if held().is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("holds were not released: {:?}", held());
}

/// Makes the arena without arming.
pub fn make() {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let base = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, libc::PROT_NONE, flags, -1, 0) };
    assert_ne!(base, libc::MAP_FAILED);
    BASE.store(base as usize, Ordering::Relaxed);
}

pub fn try_arm() -> Result<(), guard::Uncovered> {
    guard::arm(&HOOKS, Duration::from_secs(2))
}

/// Makes the arena and arms the process.
pub fn arm() {
    make();
    try_arm().unwrap();
}

/// A piece of the arena.
#[derive(Clone, Copy)]
pub struct Paged {
    pub addr: usize,
    pub len: usize,
}

/// The piece at an offset.
pub fn at(offset: usize, len: usize) -> Paged {
    assert!(offset + len <= SIZE);
    Paged { addr: BASE.load(Ordering::Relaxed) + offset, len }
}

impl Paged {
    pub fn ptr<T>(self) -> *mut T {
        self.addr as *mut T
    }

    /// The program's own use of the memory, which the pager would serve by faults.
    pub fn with<R>(self, f: impl FnOnce(&mut [u8]) -> R) -> R {
        let held = hold_whole(self);
        let answer = f(unsafe { std::slice::from_raw_parts_mut(self.ptr(), self.len) });
        release(held);
        answer
    }

    pub fn set(self, bytes: &[u8]) -> Paged {
        self.with(|m| m[..bytes.len()].copy_from_slice(bytes));
        self
    }

    pub fn put<T: Copy>(self, value: T) -> Paged {
        self.with(|m| unsafe { m.as_mut_ptr().cast::<T>().write_unaligned(value) });
        self
    }

    pub fn get<T: Copy>(self) -> T {
        self.with(|m| unsafe { m.as_ptr().cast::<T>().read_unaligned() })
    }

    pub fn bytes(self) -> Vec<u8> {
        self.with(|m| m.to_vec())
    }

    pub fn fill_pattern(self) -> Paged {
        self.with(|m| m.iter_mut().enumerate().for_each(|(i, b)| *b = pattern(i)));
        self
    }
}

fn hold_whole(piece: Paged) -> u64 {
    let most = MOST.swap(usize::MAX, Ordering::Relaxed);
    let held = hold(piece.addr, piece.len, true);
    MOST.store(most, Ordering::Relaxed);
    held.token
}

/// Bytes that repeat at no power of two.
pub fn pattern(i: usize) -> u8 {
    (i % 251) as u8 ^ (i / 4096 % 13) as u8
}

pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

/// The answer of a call that must succeed.
#[track_caller]
pub fn ok(answer: impl TryInto<i64>) -> usize {
    let answer = answer.try_into().ok().unwrap();
    assert!(answer >= 0, "errno {}", errno());
    answer as usize
}

/// The call must fail with this error.
#[track_caller]
pub fn fails(answer: impl TryInto<i64>, error: i32) {
    let answer = answer.try_into().ok().unwrap();
    assert_eq!((answer, errno()), (-1, error));
}
