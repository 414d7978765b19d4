// SPDX-License-Identifier: Apache-2.0
//! Owns: the hook by itself, over backends that refuse, forget and lie.

use super::*;
use crate::testback::{PlainCopies, RefuseAll};

fn page(byte: u8) -> Page {
    [byte; 4096]
}

#[test]
fn a_refused_store_leaves_nothing_behind() {
    let mut f = Frontswap::new(vec![Box::new(RefuseAll::default())], 0, 100, Mode::default()).unwrap();
    assert!(!f.store(3, &page(1)).is_stored());
    assert!(!f.is_present(3));
    assert_eq!(f.load(3, &mut page(0)).unwrap(), Loaded::Absent);
    assert_eq!(f.counters, FrontswapCounters { failed_stores: 1, ..Default::default() });
}

/// Breaks law 3: once unwilling, it refuses a page and keeps the old one under the same handle.
#[derive(Default)]
struct KeepsOldData {
    copy: Option<Page>,
    unwilling: bool,
}

impl BackendOps for KeepsOldData {
    fn init(&mut self, _area: u32, _pages: u64) {}

    fn store(&mut self, _area: u32, _page: u64, data: &Page) -> Outcome {
        if std::mem::replace(&mut self.unwilling, true) {
            return Outcome::Refused(Reason::Unwilling);
        }
        self.copy = Some(*data);
        Outcome::Stored
    }

    fn load(&mut self, _area: u32, _page: u64, into: &mut Page) -> Result<Loaded, Corrupt> {
        Ok(self.copy.map_or(Loaded::Absent, |copy| {
            *into = copy;
            Loaded::Loaded
        }))
    }

    fn invalidate_page(&mut self, _area: u32, _page: u64) {}

    fn invalidate_area(&mut self, _area: u32) {}

    fn footprint(&self) -> usize {
        0
    }

    fn check(&self) -> Vec<String> {
        Vec::new()
    }
}

#[test]
fn old_data_is_gone_even_where_a_backend_keeps_it() {
    let mut f = Frontswap::new(vec![Box::new(KeepsOldData::default())], 0, 100, Mode::default()).unwrap();
    assert!(f.store(3, &page(1)).is_stored());
    assert!(!f.store(3, &page(2)).is_stored());
    let mut got = page(0);
    assert_eq!(f.load(3, &mut got).unwrap(), Loaded::Absent);
    assert_eq!(got, page(0));
}

#[test]
fn a_backend_that_forgets_a_page_is_found_out() {
    let mut f = Frontswap::new(vec![Box::new(KeepsOldData::default())], 0, 100, Mode::default()).unwrap();
    assert!(f.store(3, &page(1)).is_stored());
    f.backends = vec![Box::new(RefuseAll::default())];
    assert_eq!(f.load(3, &mut page(0)), Err(Corrupt::NotGiven));
}

#[test]
fn the_next_backend_is_asked_when_one_refuses() {
    let plain = PlainCopies::new(100).unwrap();
    let mut f =
        Frontswap::new(vec![Box::new(RefuseAll::default()), Box::new(plain)], 0, 100, Mode::default())
            .unwrap();
    assert!(f.store(9, &page(7)).is_stored());
    let mut got = page(0);
    assert_eq!(f.load(9, &mut got).unwrap(), Loaded::Loaded);
    assert_eq!(got, page(7));
    f.invalidate_page(9);
    f.invalidate_page(9);
    assert_eq!(f.load(9, &mut got).unwrap(), Loaded::Absent);
    assert_eq!(f.counters.invalidates, 1);
    assert!(f.check().is_empty());
}

fn plain() -> Box<dyn BackendOps> {
    Box::new(PlainCopies::new(400).unwrap())
}

#[test]
fn writethrough_reports_a_refusal_and_a_forgotten_page_is_no_loss() {
    let mode = Mode { writethrough: true, ..Mode::default() };
    let mut f = Frontswap::new(vec![plain()], 0, 100, mode).unwrap();
    assert!(!f.store(5, &page(1)).is_stored());
    assert_eq!((f.counters.succ_stores, f.counters.failed_stores), (1, 0));
    assert_eq!(f.load(5, &mut page(0)).unwrap(), Loaded::Loaded);
    f.backends[0].invalidate_page(0, 5);
    assert_eq!(f.load(5, &mut page(0)).unwrap(), Loaded::Absent);
    assert!(!f.is_present(5));
    assert!(f.check().is_empty());
}
