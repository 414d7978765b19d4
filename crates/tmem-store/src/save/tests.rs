// SPDX-License-Identifier: Apache-2.0
//! Checks that what was saved comes back: of every size and form, under every index, and no page that had gone.

use super::*;
use crate::entry::Form;
use crate::guests::GuestLimits;
use crate::host::{Host, HostConfig};
use crate::ops::{Loaded, Outcome, Reason};
use crate::{ObjectId, PoolConfig, PoolId, PoolKind, StoreError};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;
use tmem_sys::{PAGE_SIZE, Page};

type Handle = (ObjectId, u64);
type Model = BTreeMap<Handle, Page>;

pub(super) const BOTH: PoolConfig = PoolConfig { pack: true, raw: true, dedup: crate::Dedup::Off };

/// Of several shards, so that the pages of every pool are in all of them.
pub(super) fn host(limit_bytes: usize) -> Arc<Host> {
    Host::with_shards(HostConfig { limit_bytes, reserve_bytes: 64 << 20 }, 3).unwrap()
}

pub(super) fn new_pool(host: &Host, config: PoolConfig) -> PoolId {
    host.new_pool("guest", PoolKind::Persistent, config).unwrap()
}

/// Pages that take every form and most codecs, as their seed goes on.
pub(super) fn page(seed: u64) -> Page {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let mut page = [0; PAGE_SIZE];
    let (text, repeated) = (b"a record of a text that LZ4 packs, ", seed);
    for (n, bytes) in page.chunks_exact_mut(8).enumerate() {
        let word = match seed % 5 {
            0 => repeated,
            1 => next(),
            2 => n as u64 * 3 + seed,
            3 => next() % 1000,
            _ if n < 100 => next(),
            _ => u64::from_le_bytes(std::array::from_fn(|b| text[(n * 8 + b) % text.len()])),
        };
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    page
}

pub(super) fn put(host: &Host, pool: PoolId, handle: Handle, page: &Page) {
    assert_eq!(host.put(pool, handle.0, handle.1, page), Ok(Outcome::Stored));
}

pub(super) fn saver(host: &Arc<Host>, pools: &[PoolId]) -> Saver {
    let named = |(n, pool): (usize, &PoolId)| (*pool, format!("pool-{n}"), "guest".into());
    Saver::new(Arc::clone(host), pools.iter().enumerate().map(named).collect()).unwrap()
}

fn rest(saver: &mut Saver, file: &mut Vec<u8>) -> Saved {
    while saver.piece(file).unwrap() {}
    saver.finish(file).unwrap()
}

pub(super) fn save(host: &Arc<Host>, pools: &[PoolId]) -> Vec<u8> {
    let (mut saver, mut file) = (saver(host, pools), Vec::new());
    saver.begin().unwrap();
    rest(&mut saver, &mut file);
    file
}

/// Restores as the bindings do: what was made is destroyed where it fails.
pub(super) fn restore(host: &Arc<Host>, file: &[u8]) -> Result<Vec<(Described, PoolId)>, RestoreError> {
    let mut restorer = Restorer::open(Arc::clone(host), Cursor::new(file))?;
    let mut made = Vec::new();
    let done = loop {
        match restorer.step() {
            Ok(Step::More) => {}
            Ok(Step::Pool(described)) => {
                let config = PoolConfig { pack: described.pack, raw: described.raw, dedup: crate::Dedup::On };
                let pool = host.new_pool(&described.guest, PoolKind::Persistent, config).unwrap();
                made.push((described, pool));
                restorer.give(pool).unwrap();
            }
            Ok(Step::Done(pages)) => break Ok(pages),
            Err(error) => break Err(error),
        }
    };
    if done.is_err() {
        for (_, pool) in &made {
            host.destroy(*pool).unwrap();
        }
    }
    done.map(|_| made)
}

pub(super) fn holds(host: &Host, pool: PoolId, model: &Model) {
    assert_eq!(host.pool_stats(pool).unwrap().pages, model.len() as u64);
    for ((object, index), page) in model {
        let mut into = [0x5a; PAGE_SIZE];
        assert_eq!(host.get(pool, *object, *index, &mut into), Ok(Loaded::Loaded));
        assert!(into == *page, "other bytes at {object:?} {index}");
    }
}

fn filled(host: &Host, pool: PoolId, handles: impl IntoIterator<Item = Handle>) -> Model {
    let model: Model = handles.into_iter().enumerate().map(|(n, handle)| (handle, page(n as u64))).collect();
    model.iter().for_each(|(handle, page)| put(host, pool, *handle, page));
    model
}

#[test]
fn pools_of_every_size_come_back_with_their_first_pages() {
    for pages in [0u64, 1, 2, 63, 64, 65, 129, 4097] {
        let here = host(32 << 20);
        let pool = new_pool(&here, BOTH);
        let model = filled(&here, pool, (0..pages).map(|n| (ObjectId([n % 3, 0, n % 2]), n / 3)));
        let file = save(&here, &[pool]);
        let there = host(32 << 20);
        let made = restore(&there, &file).unwrap();
        holds(&there, made[0].1, &model);
        holds(&here, pool, &model);
        assert_eq!((here.check(), there.check()), (vec![], vec![]));
        let forms = |host: &Host| host.stats().held;
        assert_eq!(forms(&here), forms(&there), "each page has the form it had");
    }
}

#[test]
fn sparse_indexes_and_ids_come_back_and_the_order_is_that_of_handles() {
    let here = host(8 << 20);
    let pool = new_pool(&here, BOTH);
    let ids = [[0; 3], [1, 0, 0], [0, 1, 0], [0, 0, 1], [u64::MAX; 3], [1 << 63, 0, 0]].map(ObjectId);
    let indexes = [0, 1, 63, 64, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX - 1, u64::MAX];
    let handles = ids.iter().rev().flat_map(|id| indexes.iter().rev().map(|index| (*id, *index)));
    let model = filled(&here, pool, handles);
    let file = save(&here, &[pool]);
    let made = restore(&here, &file).unwrap();
    holds(&here, made[0].1, &model);
    assert_eq!(save(&here, &[pool]), file, "the same pages make the same file");
}

#[test]
fn several_pools_keep_their_names_and_settings() {
    let here = host(8 << 20);
    let plain = PoolConfig { pack: false, raw: true, dedup: crate::Dedup::Off };
    let pools = [new_pool(&here, BOTH), new_pool(&here, plain), new_pool(&here, PoolConfig::default())];
    let models = pools.map(|pool| {
        let seeds = (0..200).map(|n| n * 5 + if pool == pools[2] { 2 } else { 1 });
        let model: Model = seeds.map(|n| ((ObjectId([7, 0, 0]), n), page(n))).collect();
        model.iter().for_each(|(handle, page)| put(&here, pool, *handle, page));
        model
    });
    let made = restore(&here, &save(&here, &pools)).unwrap();
    for (n, ((described, pool), model)) in made.iter().zip(&models).enumerate() {
        holds(&here, *pool, model);
        assert_eq!((&*described.name, &*described.guest), (&*format!("pool-{n}"), "guest"));
        assert_eq!((described.pack, described.raw), (n != 1, n != 2));
    }
}

#[test]
fn while_it_is_saved_a_pool_takes_nothing_and_thaws_as_it_was() {
    let here = host(8 << 20);
    let pool = new_pool(&here, BOTH);
    let handle = (ObjectId([1; 3]), 5);
    put(&here, pool, handle, &page(1));
    for frozen in [false, true] {
        here.set_frozen(pool, frozen).unwrap();
        let mut saving = saver(&here, &[pool]);
        saving.begin().unwrap();
        here.set_frozen(pool, false).unwrap();
        assert_eq!(here.put(pool, handle.0, 6, &page(2)), Ok(Outcome::Refused(Reason::Frozen)));
        assert!(here.pool_stats(pool).unwrap().frozen);
        assert!(matches!(saver(&here, &[pool]).begin(), Err(SaveError::Held)));
        here.set_frozen(pool, frozen).unwrap();
        drop(saving);
        assert_eq!(here.pool_stats(pool).unwrap().frozen, frozen);
    }
    here.set_guest_frozen("guest", false);
    let mut twice = saver(&here, &[pool, pool]);
    assert!(matches!(twice.begin(), Err(SaveError::Held)));
    drop(twice);
    put(&here, pool, handle, &page(3));
}

#[test]
fn what_leaves_while_it_is_saved_is_not_in_the_file() {
    let here = host(32 << 20);
    let pool = new_pool(&here, BOTH);
    let objects = [1, 2, 3, 4].map(|n| ObjectId([n, 0, 0]));
    let handles = objects.iter().flat_map(|id| (0..500).map(|n| (*id, n)));
    let mut model = filled(&here, pool, handles);
    let (mut saving, mut file) = (saver(&here, &[pool]), Vec::new());
    saving.begin().unwrap();
    // Header, pool, and a first block, which ends in the middle of an object.
    (0..3).for_each(|_| assert!(saving.piece(&mut file).unwrap()));
    for id in objects {
        for n in [0, 1, 499] {
            assert!(here.flush_page(pool, id, n).unwrap());
            model.remove(&(id, n));
        }
        // A refused put takes the old page away.
        assert_eq!(here.put(pool, id, 2, &page(1)), Ok(Outcome::Refused(Reason::Frozen)));
        model.remove(&(id, 2));
    }
    for (gone, id) in [(496, objects[0]), (496, objects[3]), (0, ObjectId([9; 3])), (0, objects[0])] {
        assert_eq!(here.flush_object(pool, id), Ok(gone));
        model.retain(|handle, _| handle.0 != id);
    }
    let saved = rest(&mut saving, &mut file);
    assert_eq!(saved, Saved { pages: model.len() as u64, gone: 16 + 2 });
    assert!(here.flush_page(pool, objects[1], 300).unwrap(), "after the last look: still in the file");
    let made = restore(&here, &file).unwrap();
    holds(&here, made[0].1, &model);
    assert_eq!(here.check(), Vec::<String>::new());
}

#[test]
fn a_destroyed_pool_and_a_forked_child_end_the_save() {
    let here = host(8 << 20);
    let pool = new_pool(&here, BOTH);
    filled(&here, pool, (0..100).map(|n| (ObjectId([1; 3]), n)));
    let (mut saving, mut file) = (saver(&here, &[pool]), Vec::new());
    saving.begin().unwrap();
    here.in_all(|store| store.forget_saves());
    assert!(!here.pool_stats(pool).unwrap().frozen);
    let mut childs = saver(&here, &[pool]);
    childs.begin().unwrap();
    (0..2).for_each(|_| drop(saving.piece(&mut file)));
    assert!(matches!(saving.finish(&mut file), Err(SaveError::Over)));
    saving.release();
    assert!(here.pool_stats(pool).unwrap().frozen, "who has no hold ends none");
    here.destroy(pool).unwrap();
    let next = new_pool(&here, BOTH);
    assert!(matches!(childs.finish(&mut file), Err(SaveError::Over)));
    drop(childs);
    assert!(matches!(saver(&here, &[pool]).begin(), Err(SaveError::Store(StoreError::NoSuchPool))));
    put(&here, next, (ObjectId([1; 3]), 1), &page(1));
}

#[test]
fn a_page_in_a_form_that_does_not_last_is_packed_anew() {
    let here = host(16 << 20);
    let pool = new_pool(&here, PoolConfig::default());
    let seeds = (0..400).filter(|n| n % 5 != 1);
    let model: Model = seeds.map(|n| ((ObjectId([n % 2, 0, 0]), n), page(n))).collect();
    model.iter().for_each(|(handle, page)| put(&here, pool, *handle, page));
    let never = saver(&here, &[pool]).with_lasting(|_| false);
    let (mut saving, mut file) = (never, Vec::new());
    saving.begin().unwrap();
    rest(&mut saving, &mut file);
    let made = restore(&here, &file).unwrap();
    holds(&here, made[0].1, &model);
}

#[test]
fn a_page_that_does_not_shrink_goes_back_even_to_a_pool_that_keeps_none() {
    let here = host(8 << 20);
    let pool = new_pool(&here, BOTH);
    let model = filled(&here, pool, (0..10).map(|n| (ObjectId([1; 3]), n)));
    here.in_all(|store| store.pools[pool.slot()].config.raw = false);
    let made = restore(&here, &save(&here, &[pool])).unwrap();
    holds(&here, made[0].1, &model);
    assert!(!made[0].0.raw);
    let refused = here.put(made[0].1, ObjectId([2; 3]), 0, &page(1));
    assert_eq!(refused, Ok(Outcome::Refused(Reason::Incompressible)));
}

#[test]
fn a_lost_page_is_named_and_nothing_is_saved() {
    let here = host(8 << 20);
    let pool = new_pool(&here, BOTH);
    put(&here, pool, (ObjectId([5, 0, 0]), 9), &page(4));
    let (mut saving, mut file) = (saver(&here, &[pool]), Vec::new());
    saving.begin().unwrap();
    {
        let mut store =
            here.shards.lock(here.at(crate::shard::Handle { pool, object: ObjectId([5, 0, 0]), index: 9 }));
        let entry = store.objects.get(pool.slot() as u32, ObjectId([5, 0, 0]), 9);
        let Form::Packed(loc, len) = entry.form() else { panic!("{entry:?}") };
        store.slab.slot_mut(loc, len)[1..].fill(0xff);
    }
    let ended = (0..4).find_map(|_| saving.piece(&mut file).err());
    let text = ended.unwrap().to_string();
    assert!(text.contains("0005 index 9") && text.ends_with("flush it and save again"), "{text}");
}

/// Restores into hosts of the size that the refusal asks for.
fn what_is_needed_is_enough(handles: &[Handle]) -> Result<(), TestCaseError> {
    let here = host(32 << 20);
    let pool = new_pool(&here, BOTH);
    let model = filled(&here, pool, handles.iter().copied());
    let file = save(&here, &[pool]);
    let there = host(2 << 20);
    let other = new_pool(&there, BOTH);
    filled(&there, other, (0..40).map(|n| (ObjectId([n; 3]), n)));
    let before = there.pool_stats(other).unwrap();
    if let Err(error) = restore(&there, &file) {
        let RestoreError::Refused(Reason::StoreFull | Reason::IndexFull, need) = error else {
            return Err(TestCaseError::fail(error.to_string()));
        };
        prop_assert!(need.pages == model.len() as u64);
        prop_assert_eq!(there.pool_stats(other).unwrap(), before);
        there.set_limit((need.room + need.used) as usize);
        let made = restore(&there, &file).map_err(|e| TestCaseError::fail(e.to_string()))?;
        holds(&there, made[0].1, &model);
        there.destroy(made[0].1).unwrap();
    }
    there.set_guest("guest", |_| GuestLimits { weight: 1, cap: Some(before.pages * 64) }).unwrap();
    there.set_limit(32 << 20);
    if let Err(error) = restore(&there, &file) {
        let RestoreError::Refused(Reason::OverCap, need) = error else {
            return Err(TestCaseError::fail(error.to_string()));
        };
        let cap = Some(need.charge + need.charged);
        there.set_guest("guest", |_| GuestLimits { weight: 1, cap }).unwrap();
        let made = restore(&there, &file).map_err(|e| TestCaseError::fail(e.to_string()))?;
        holds(&there, made[0].1, &model);
    }
    prop_assert!(there.check().is_empty());
    Ok(())
}

#[test]
fn a_dense_pool_says_what_it_needs() {
    let handles: Vec<Handle> = (0..2000).map(|n| (ObjectId([1; 3]), n)).collect();
    what_is_needed_is_enough(&handles).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_pool_says_what_it_needs(
        handles in prop::collection::btree_set((0u64..40, 0u32..64, 0u64..300), 1..1500),
    ) {
        let handles: Vec<Handle> = handles
            .into_iter()
            .map(|(object, shift, index)| (ObjectId([object, 0, 0]), index.rotate_right(shift)))
            .collect();
        what_is_needed_is_enough(&handles)?;
    }
}
