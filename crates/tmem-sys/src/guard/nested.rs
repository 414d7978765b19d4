// SPDX-License-Identifier: Apache-2.0
//! What structures point to that calls are given: programs of socket filters and of seccomp, the words that `futex_waitv` waits for,
//! what `ioctl` structures name. Called by `ordinary`. No locks.

use super::hold::Holds;
use super::ordinary::{Args, TWO_PAGES};
use super::{hooks, user};

/// Bytes of one instruction of a filter, and the most that a filter has.
const INSTRUCTION: usize = 8;
const MOST_INSTRUCTIONS: usize = 4096;

/// Holds the program of a filter, where the call sets one: the kernel takes it by a length and a pointer.
pub(super) fn filter(holds: &mut Holds, nr: usize, a: Args) -> bool {
    const SET_MODE_FILTER: usize = 1;
    const MODE_FILTER: usize = 2;
    let at = match nr as libc::c_long {
        libc::SYS_seccomp if a[0] == SET_MODE_FILTER => a[2],
        libc::SYS_prctl if a[0] == libc::PR_SET_SECCOMP as usize && a[1] == MODE_FILTER => a[2],
        libc::SYS_setsockopt if a[1] == libc::SOL_SOCKET as usize && attaches(a[2]) => a[3],
        _ => return true,
    };
    let Some([count, program]) = user::read::<[usize; 2]>(at) else { return true };
    let count = usize::from(count as u16).min(MOST_INSTRUCTIONS);
    holds.range(program, count * INSTRUCTION, false)
}

fn attaches(option: usize) -> bool {
    option == libc::SO_ATTACH_FILTER as usize || option == libc::SO_ATTACH_REUSEPORT_CBPF as usize
}

/// Holds the words of `count` futexes: value, address, flags.
pub(super) fn futexes(holds: &mut Holds, array: usize, count: usize) -> bool {
    const MOST: usize = 128;
    let words =
        (0..count.min(MOST)).map_while(|i| user::read::<[usize; 3]>(array + i * size_of::<[usize; 3]>()));
    words.into_iter().all(|[_, word, _]| holds.range(word, size_of::<u64>(), true))
}

/// Words of an `ioctl` structure that are looked at.
const WORDS: usize = 16;

/// Holds the argument of an `ioctl`, and what its words point to, two pages of each. Only drivers know what their structures mean:
/// what lies deeper or is longer than that, they find missing.
pub(super) fn ioctl(holds: &mut Holds, a: Args) -> bool {
    let size = size_of_argument(a[1]);
    if a[2] < crate::PAGE_SIZE {
        return true;
    }
    holds.range(a[2], size.max(TWO_PAGES), true)
        && words(a[2], size).all(|word| is_outside(word) || held(holds, word, a))
}

/// The size of the argument is part of most `ioctl` numbers; of the old ones, those of network interfaces have the longest.
fn size_of_argument(request: usize) -> usize {
    const IFREQ: usize = 40;
    match (request >> 16) & 0x3fff {
        0 => IFREQ,
        size => size,
    }
}

/// The first words of a structure that is held, as far as they can be read.
fn words(at: usize, size: usize) -> impl Iterator<Item = usize> {
    let count = (size / size_of::<usize>()).min(WORDS);
    let mut bytes = [0u8; WORDS * size_of::<usize>()];
    let bytes_read = &mut bytes[..count * size_of::<usize>()];
    let whole = user::fetch(at, bytes_read);
    let (all, _) = bytes.as_chunks::<{ size_of::<usize>() }>();
    let all: [[u8; 8]; WORDS] = core::array::from_fn(|i| all[i]);
    // Shorter than was guessed, at the end of a mapping.
    (0..count).map_while(move |i| {
        if whole {
            Some(usize::from_ne_bytes(all[i]))
        } else {
            user::read::<usize>(at + i * size_of::<usize>())
        }
    })
}

fn is_outside(word: usize) -> bool {
    !hooks().is_some_and(|h| (h.owns)(word, 1))
}

/// `SIOCGIFCONF` says how much room it is given.
fn held(holds: &mut Holds, word: usize, a: Args) -> bool {
    const SIOCGIFCONF: usize = 0x8912;
    let len = match a[1] as u32 as usize {
        SIOCGIFCONF => user::read::<u32>(a[2]).unwrap_or(0) as usize,
        _ => TWO_PAGES,
    };
    holds.range(word, len, true)
}
