// SPDX-License-Identifier: Apache-2.0
//! Owns: the walk over everything that a store of revocable pages knows; each broken law becomes one line. Callers: tests, users'
//! `check`. Allocates; not for the path of a page.

use super::log::{Home, Log, MOST_EXTENTS, UNIT};
use super::pages::{Known, Pages};

/// Compares the index with the counters of the extents and of the pools.
pub(super) fn check(pages: &Pages, log: &Log, pools: &[u64]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut of_pools = vec![0u64; pools.len()];
    let mut outside = 0;
    let mut of_extents = vec![(0usize, 0usize); MOST_EXTENTS];
    pages.check(&mut broken, &mut |pool, known| {
        of_pools[pool as usize] += 1;
        if let Known::At { spot, len, .. } = known {
            let extent = &mut of_extents[spot.home.0 as usize];
            *extent = (extent.0 + 1, extent.1 + len);
            let end = spot.at as usize * UNIT + len;
            outside += usize::from(log.extent(spot.home).is_none_or(|extent| end > extent.bytes));
        }
    });
    for (slot, (counted, says)) in of_pools.iter().zip(pools).enumerate() {
        if counted != says {
            broken.push(format!("pool {slot}: {counted} pages, its count says {says}"));
        }
    }
    if outside > 0 {
        broken.push(format!("{outside} pages lie outside any extent"));
    }
    let mut sum = (0, 0);
    for (place, counted) in of_extents.iter().enumerate() {
        let says = log.pages_in(Home(place as u16)).unwrap_or_default();
        sum = (sum.0 + counted.0, sum.1 + counted.1);
        if *counted != says {
            broken.push(format!("extent {place}: pages and bytes {counted:?}, its count says {says:?}"));
        }
    }
    if sum != (log.pages(), log.bytes()) {
        broken.push(format!("extents hold {sum:?}, the counters say {:?}", (log.pages(), log.bytes())));
    }
    broken
}
