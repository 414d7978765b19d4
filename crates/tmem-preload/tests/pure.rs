// SPDX-License-Identifier: Apache-2.0
//! The parts of the door that are pure: what `tmem run` writes is read as it was meant, and a budget is shared out whole.

#[path = "../src/settings.rs"]
mod settings;
#[path = "../src/share.rs"]
mod share;

use proptest::prelude::*;
use settings::Settings;
use share::level;
use std::path::Path;
use tmem_pager::Choice;
use tmem_sys::entry::Entry;

const WHOLE: &str = "v=1;ram=67108864;swap=/var/tmp;swap_max=4096;faults=thread;report=1;json=/a%3Bb%25;ledger=/dev/shm/x;root=7";

#[test]
fn a_whole_variable_is_read_whole() {
    assert!(settings::VARIABLE.ends_with(b"="));
    let s = Settings::parse(WHOLE.as_bytes()).unwrap();
    assert_eq!((s.ram, s.root, s.report, s.faults), (64 << 20, 7, true, Choice::Only(Entry::Thread)));
    assert_eq!(s.swap, Some((Path::new("/var/tmp").to_owned(), 4096)));
    assert_eq!((s.json.as_deref(), s.ledger.as_path()), (Some(Path::new("/a;b%")), Path::new("/dev/shm/x")));
}

#[test]
fn what_is_missing_or_senseless_is_refused() {
    for (from, to) in [
        ("v=1", "v=2"),
        ("ram=67108864", "ram=64M"),
        ("swap_max=4096;", ""),
        ("faults=thread", "faults=magic"),
        ("json=/a%3Bb%25", "json=/a%3"),
        ("ledger=/dev/shm/x;", ""),
        ("root=7", "root=-"),
    ] {
        assert!(Settings::parse(WHOLE.replace(from, to).as_bytes()).is_none(), "{to}");
    }
    let s = Settings::parse(format!("{WHOLE};host=/run/h%3B;host_uid=7").as_bytes()).unwrap();
    assert_eq!((s.host.as_deref(), s.host_uid), (Some(Path::new("/run/h;")), Some(7)));
    assert!(Settings::parse(format!("{WHOLE};host=/run/h;host_uid=me").as_bytes()).is_none());
    let none = WHOLE.replace("swap=/var/tmp", "swap=none").replace("json=/a%3Bb%25;", "");
    let s = Settings::parse(none.as_bytes()).unwrap();
    assert!(s.swap.is_none() && s.json.is_none());
}

proptest! {
    #[test]
    fn all_of_a_budget_is_given_out_and_no_more(ram in 1usize..1 << 40, wants in prop::collection::vec(1usize..1 << 40, 1..40)) {
        let level = level(ram, wants.iter().copied());
        let given: usize = wants.iter().map(|&w| w.min(level)).sum();
        prop_assert!(given <= ram || level == usize::MAX);
        if level == usize::MAX {
            prop_assert!(wants.iter().sum::<usize>() <= ram);
        } else {
            prop_assert!(given + wants.len() > ram, "{} of {} given", given, ram);
        }
    }
}
