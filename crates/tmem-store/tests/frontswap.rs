// SPDX-License-Identifier: Apache-2.0
//! The frontswap hook as its callers see it: backends that come late, loads that take, children that are cut off.
#![forbid(unsafe_code)]

use tmem_store::frontswap::MAX_BACKENDS;
use tmem_store::testback::{PlainCopies, RefuseAll};
use tmem_store::{BackendOps, Corrupt, Frontswap, Loaded, Mode, Outcome, Reason};
use tmem_sys::{Errno, Page};

fn page(byte: u8) -> Page {
    [byte; 4096]
}

fn plain() -> Box<dyn BackendOps> {
    Box::new(PlainCopies::new(400).unwrap())
}

#[test]
fn a_backend_that_comes_late_learns_of_the_area_and_is_asked_last() {
    let mut f = Frontswap::new(vec![], 3, 100, Mode::default()).unwrap();
    assert_eq!(f.store(1, &page(1)), Outcome::Refused(Reason::Unwilling));
    f.register(plain()).unwrap();
    assert!(f.store(1, &page(1)).is_stored());
    f.register(Box::new(RefuseAll::default())).unwrap();
    f.invalidate_area();
    assert_eq!(f.store(1, &page(1)), Outcome::Refused(Reason::NoArea));
    f.register(plain()).unwrap();
    f.init(200).unwrap();
    assert!(f.store(199, &page(2)).is_stored(), "the first has no room to grow, the last one has");
    assert_eq!(f.store(200, &page(2)), Outcome::Refused(Reason::OutOfRange));
    assert_eq!(f.load(1, &mut page(0)).unwrap(), Loaded::Absent);
    for _ in 3..MAX_BACKENDS {
        f.register(Box::new(RefuseAll::default())).unwrap();
    }
    assert_eq!(f.register(plain()), Err(Errno::ENOSPC));
    assert_eq!(f.refused.total(), f.counters.failed_stores);
    assert!(f.check().is_empty());
}

#[test]
fn an_exclusive_load_takes_the_page_out() {
    let mode = Mode { exclusive: true, ..Mode::default() };
    let mut f = Frontswap::new(vec![plain()], 0, 100, mode).unwrap();
    assert!(f.store(5, &page(1)).is_stored());
    let mut got = page(0);
    assert_eq!(f.load(5, &mut got).unwrap(), Loaded::Loaded);
    assert_eq!(got, page(1));
    assert_eq!(f.load(5, &mut got).unwrap(), Loaded::Absent);
    assert_eq!(f.footprint(), 4096, "the copy is gone, the table stays");
    assert_eq!(f.present_count(), 0);
}

/// Takes page 1, and cannot give it to a forked child.
struct Elsewhere(PlainCopies);

impl BackendOps for Elsewhere {
    fn init(&mut self, area: u32, pages: u64) {
        self.0.init(area, pages);
    }

    fn store(&mut self, area: u32, page: u64, data: &Page) -> Outcome {
        if page == 1 { self.0.store(area, page, data) } else { Outcome::Refused(Reason::Unwilling) }
    }

    fn load(&mut self, area: u32, page: u64, into: &mut Page) -> Result<Loaded, Corrupt> {
        self.0.load(area, page, into)
    }

    fn invalidate_page(&mut self, _area: u32, _page: u64) {}

    fn invalidate_area(&mut self, _area: u32) {}

    fn after_fork_in_child(&mut self) -> bool {
        false
    }

    fn footprint(&self) -> usize {
        0
    }

    fn check(&self) -> Vec<String> {
        Vec::new()
    }
}

#[test]
fn a_child_knows_which_pages_are_out_of_reach() {
    let mut f = Frontswap::new(
        vec![Box::new(Elsewhere(PlainCopies::new(100).unwrap())), plain()],
        0,
        100,
        Mode::default(),
    )
    .unwrap();
    assert!(f.store(1, &page(1)).is_stored());
    assert!(f.store(2, &page(2)).is_stored());
    assert!(!f.is_cut_off());
    f.after_fork_in_child();
    assert!(f.is_cut_off());
    assert!(f.is_out_of_reach(1) && !f.is_out_of_reach(2) && !f.is_out_of_reach(3));
}
