// SPDX-License-Identifier: Apache-2.0
//! Owns: how a budget is shared among processes that want different amounts. Pure. Caller: `ledger`.

/// Processes that are looked at.
const MOST: usize = 480;

/// The level up to which each of those who want so much can have it, so that all of it is given out: who wants less gets what it
/// wants, the rest share the rest alike. No level where there is enough for all.
pub fn level(ram: usize, wants: impl Iterator<Item = usize>) -> usize {
    let mut list = [0usize; MOST];
    let mut n = 0;
    for want in wants.filter(|&w| w > 0).take(MOST) {
        list[n] = want;
        n += 1;
    }
    let list = &mut list[..n];
    list.sort_unstable();
    let mut rest = ram;
    for (i, &want) in list.iter().enumerate() {
        let each = rest / (n - i);
        if want > each {
            return each;
        }
        rest -= want;
    }
    usize::MAX
}
