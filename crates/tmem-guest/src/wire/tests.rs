// SPDX-License-Identifier: Apache-2.0
//! Every message against its bytes, which `tests/host/test_guest_wire.py` compares with the daemon's; and bytes that are none.

use super::*;
use proptest::prelude::*;

const GOLDEN: &str = include_str!("../../tests/wire.golden");

fn golden(name: &str) -> Vec<u8> {
    let hex = GOLDEN.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    let digits: Vec<_> = hex.bytes().map(|c| (c as char).to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn encoded(message: &ToHost<'_>) -> Vec<u8> {
    let mut into = [0; 4096];
    let len = encode(message, &mut into).unwrap();
    into[..len].to_vec()
}

#[test]
fn what_a_guest_says_has_the_bytes_that_the_daemon_reads() {
    let powers = std::array::from_fn(|n| 10u64.pow(n as u32));
    let secret: [u8; SECRET] = std::array::from_fn(|n| n as u8);
    let all = [
        ("hello", ToHost::Hello { version: VERSION, name: "sørt" }),
        ("lease", ToHost::Lease { seq: 7, kind: 0, pool: 0, count: 8 }),
        ("give", ToHost::Give { seq: 300, ids: &[1, 200, 70000, u64::MAX] }),
        ("claim", ToHost::Claim { seq: 8, kind: 2, pool: 3, ids: &[5, 6] }),
        ("report", ToHost::Report { numbers: powers }),
        ("shrunk", ToHost::Shrunk { seq: 9, bytes: 4 << 20 }),
        ("ballooned", ToHost::Ballooned { seq: 10, ram: 64 << 20 }),
        ("join", ToHost::Join { seq: 11, secret: &secret }),
        ("leave", ToHost::Leave { seq: 12, pool: 3 }),
    ];
    for (name, message) in all {
        assert_eq!(encoded(&message), golden(name), "{name}");
    }
}

fn with_list<R>(name: &str, check: impl Fn(FromHost<'_>) -> R) -> R {
    check(decode(&golden(name)).unwrap())
}

#[test]
fn what_the_host_says_is_read() {
    let plain = [
        (
            "welcome",
            FromHost::Welcome {
                version: 1,
                guest: 42,
                extent_bytes: 4 << 20,
                most_bytes: 1 << 40,
                report_ms: 1000,
            },
        ),
        ("refused", FromHost::Refused { seq: 7, reason: "host-full", retry_ms: 250 }),
        ("done", FromHost::Done { seq: 300 }),
        ("shrink", FromHost::Shrink { seq: 9, bytes: 8 << 20 }),
        ("balloon", FromHost::Balloon { seq: 10, ram: 0 }),
        ("set", FromHost::Set { frozen: true, compress: false }),
        ("joined", FromHost::Joined { seq: 11, pool: 3, member: 15 }),
        ("gone", FromHost::Gone { pool: 3, member: 2 }),
        ("error", FromHost::Error { text: "too long" }),
    ];
    for (name, message) in plain {
        assert_eq!(decode(&golden(name)), Ok(message), "{name}");
    }
    with_list("granted", |m| {
        assert!(matches!(m, FromHost::Granted { seq: 7, ids } if ids == [1, 200, 0][..]))
    });
    with_list("revoked", |m| assert!(matches!(m, FromHost::Revoked { ids } if ids == [1, 70000][..])));
    with_list("member", |m| {
        let FromHost::Member { pool: 3, member: 2, ids, kinds } = m else { panic!("{m:?}") };
        assert!(ids == [9, 10][..] && kinds == [2, 3][..] && ids.len() == 2 && !kinds.is_empty());
    });
}

#[test]
fn what_is_no_message_to_the_last_byte_is_malformed() {
    for line in GOLDEN.lines() {
        let name = line.split(' ').next().unwrap();
        let bytes = golden(name);
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), Err(Malformed), "{name} cut at {end}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(decode(&longer), Err(Malformed), "{name} and a byte");
    }
    // A negative number, a number for a truth, a list of texts, another number of fields, a word that nobody knows.
    for wrong in [
        &b"\x92\xa4done\xff"[..],
        b"\x93\xa3set\x01\x00",
        b"\x92\xa7revoked\x91\xa1x",
        b"\x93\xa4done\x01\x02",
        b"\x92\xa4none\x01",
        b"\x92\xa7revoked\xdd\xff\xff\xff\xff",
        b"\xc0",
    ] {
        assert_eq!(decode(wrong), Err(Malformed), "{wrong:x?}");
    }
}

#[test]
fn too_much_is_not_written() {
    let mut into = [0; 4096];
    assert_eq!(encode(&ToHost::Hello { version: 1, name: &"x".repeat(64) }, &mut into), Err(Malformed));
    assert_eq!(encode(&ToHost::Give { seq: 1, ids: &[0; MOST_GIVEN + 1] }, &mut into), Err(Malformed));
    let claim = ToHost::Claim { seq: 1, kind: 0, pool: 0, ids: &[0; MOST_ASKED + 1] };
    assert_eq!(encode(&claim, &mut into), Err(Malformed));
    assert_eq!(encode(&ToHost::Leave { seq: 1, pool: 1 }, &mut into[..4]), Err(Malformed));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn any_change_of_a_message_is_read_or_refused(
        which in 0..21usize, at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = golden(GOLDEN.lines().nth(which).unwrap().split(' ').next().unwrap());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(FromHost::Granted { ids, .. } | FromHost::Revoked { ids }) = decode(&bytes) {
            prop_assert_eq!(ids.iter().count(), ids.len());
        }
    }
}
