// SPDX-License-Identifier: Apache-2.0
//! Owns: what a page store and its pools are told when they are made, and the errors of wrong calls. Callers: `pool`,
//! `host`, `backend`. Pure data.

use crate::class::CHUNK;
use crate::object::MAX_POOLS;
use crate::ops::Corrupt;
use std::fmt;
use tmem_sys::PAGE_SIZE;

/// How large a store may become. Reserves cost address space, not memory.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// Bytes of slab chunks that may be mapped now.
    pub capacity_bytes: usize,
    /// The most that `set_capacity` can ever allow, in bytes.
    pub reserve_bytes: usize,
    /// Bytes of address space for extents that are taken on lease, whole MiB; 0 for none.
    pub lease_reserve: usize,
    /// Pages that the index must hold when they lie densely in their objects.
    pub max_pages: u64,
    pub max_objects: usize,
    /// Keep persistent pages in the order of their puts, for [`PageStore::oldest`](crate::PageStore::oldest).
    pub ordered: bool,
}

impl StoreConfig {
    /// A store for one paged memory: few objects, dense pages.
    pub fn for_pages(max_pages: u64, capacity_bytes: usize) -> StoreConfig {
        let whole = (max_pages as usize).saturating_mul(PAGE_SIZE).saturating_add(CHUNK * 64);
        StoreConfig {
            capacity_bytes,
            reserve_bytes: whole.max(capacity_bytes),
            lease_reserve: 0,
            max_pages,
            max_objects: 1 << 16,
            ordered: true,
        }
    }
}

/// What a pool does with pages.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Pack pages that shrink to 7/8 or less.
    pub pack: bool,
    /// Keep pages that do not shrink as they are, instead of refusing them.
    pub raw: bool,
    /// Keep the bytes of pages of one guest once that are the same.
    pub dedup: Dedup,
}

/// Which pages of a pool are looked up among those stored already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dedup {
    #[default]
    Off,
    /// A few; all as long as enough of them are stored already.
    Auto,
    /// All.
    On,
}

impl Default for PoolConfig {
    fn default() -> PoolConfig {
        PoolConfig { pack: true, raw: false, dedup: Dedup::Off }
    }
}

/// How long a pool keeps a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolKind {
    /// Until it is flushed, put again, or the pool destroyed (law 5).
    #[default]
    Persistent,
    /// Until the first get, or until someone needs the room (law 6).
    Exclusive,
    /// Until someone needs the room; each get makes it young (law 6).
    NonExclusive,
}

impl PoolKind {
    #[inline]
    pub fn is_ephemeral(self) -> bool {
        self != PoolKind::Persistent
    }
}

/// A live pool. The id of a destroyed pool is never valid again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId(pub(crate) u32);

impl PoolId {
    pub(crate) fn slot(self) -> usize {
        self.0 as usize % MAX_POOLS
    }
}

/// A wrong call, or a lost page. Refusals are not errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    NoSuchPool,
    TooManyPools,
    /// The store was made without room for the order of age.
    NoEphemeralPools,
    Corrupt(Corrupt),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::NoSuchPool => f.write_str("no such pool: it was destroyed"),
            StoreError::TooManyPools => write!(f, "{MAX_POOLS} pools exist; destroy one first"),
            StoreError::NoEphemeralPools => f.write_str("this store keeps persistent pools only"),
            StoreError::Corrupt(c) => c.fmt(f),
        }
    }
}

impl std::error::Error for StoreError {}
