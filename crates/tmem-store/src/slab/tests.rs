// SPDX-License-Identifier: Apache-2.0
//! The slab against its own check: slots hold what was stored, and the capacity holds.

use super::*;

fn checked(slab: &Slab) {
    let mut broken = Vec::new();
    slab.check(&mut broken);
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn slots_hold_what_was_stored_and_capacity_holds() {
    let mut slab = Slab::new(16 * CHUNK, 64 * CHUNK).unwrap();
    let mut kept = Vec::new();
    for n in 0..800 {
        let data = vec![n as u8; 1000 + (n * 37) % 2000];
        if let Some(loc) = slab.store(&data) {
            kept.push((loc, data));
        }
        assert!(slab.mapped_bytes() <= slab.capacity_bytes());
    }
    checked(&slab);
    assert_eq!(slab.mapped_bytes(), 16 * CHUNK);
    assert!(slab.slot_bytes() * 10 > 16 * CHUNK * 9, "{} bytes of slots", slab.slot_bytes());
    for (loc, data) in &kept {
        assert_eq!(slab.read(*loc, data.len()), Some(&data[..]));
    }
    slab.set_capacity(CHUNK);
    for (loc, _) in kept.drain(..) {
        slab.free(loc);
        checked(&slab);
        assert!(slab.read(loc, 1).is_none(), "a freed slot is not read");
    }
    assert!(slab.mapped_bytes() <= CHUNK && slab.slot_bytes() == 0);
    slab.trim();
    assert_eq!(slab.mapped_bytes(), 0);
}

#[test]
fn fuller_chunks_are_filled_first() {
    let mut slab = Slab::new(8 * CHUNK, 8 * CHUNK).unwrap();
    let locs: Vec<Loc> = (0..24).map(|_| slab.store(&[1; 4096]).unwrap()).collect();
    locs[..7].iter().for_each(|l| slab.free(*l));
    slab.free(locs[16]);
    assert_eq!(slab.store(&[2; 4096]).unwrap().chunk(), locs[16].chunk());
    checked(&slab);
}

#[test]
fn a_lowered_capacity_refuses_until_flushes_made_up_for_it() {
    let mut slab = Slab::new(8 * CHUNK, 8 * CHUNK).unwrap();
    let locs: Vec<Loc> = (0..32).map(|_| slab.store(&[1; 4096]).unwrap()).collect();
    slab.set_capacity(2 * CHUNK);
    slab.free(locs[0]);
    assert!(slab.store(&[1; 4096]).is_none(), "over capacity, even a free slot is refused");
    locs[1..20].iter().for_each(|l| slab.free(*l));
    assert_eq!(slab.mapped_bytes(), 2 * CHUNK);
    assert!(slab.store(&[1; 4096]).is_some());
    checked(&slab);
}
