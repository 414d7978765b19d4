// SPDX-License-Identifier: Apache-2.0
//! Owns: the dictionaries of a store, and the count of all memory that cold forms take. Callers: decoders, which read them
//! without a lock; `cold`, which adds to them. Law: once it is there a dictionary never changes and never goes, because pages
//! name it by its place.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use tmem_sys::zstd::{Decompressor, Dictionary};

/// Dictionaries of one store: later ones are for pages that are no longer as they were.
pub const MAX_DICTIONARIES: usize = 16;

/// A dictionary, and the order of bytes it is for.
struct Known {
    dictionary: Arc<Dictionary>,
    shuffled: bool,
}

/// The dictionaries that pages may be packed with.
#[derive(Default)]
pub struct Dictionaries {
    known: [OnceLock<Known>; MAX_DICTIONARIES],
    /// Bytes of the dictionaries, and of what packs with them.
    bytes: AtomicUsize,
    /// Decoders that have met a cold form.
    decoders: AtomicUsize,
}

impl Dictionaries {
    #[must_use]
    pub fn new() -> Arc<Dictionaries> {
        Arc::new(Dictionaries::default())
    }

    pub(super) fn get(&self, id: u8) -> Option<&Dictionary> {
        Some(&self.known.get(usize::from(id))?.get()?.dictionary)
    }

    /// The newest for this order of bytes.
    pub(super) fn newest(&self, shuffled: bool) -> Option<(u8, Arc<Dictionary>)> {
        let known = self.known.iter().enumerate().filter_map(|(id, known)| Some((id as u8, known.get()?)));
        let (id, known) = known.filter(|(_, known)| known.shuffled == shuffled).last()?;
        Some((id, known.dictionary.clone()))
    }

    /// Adds one, unless there are too many already.
    pub(super) fn add(&self, dictionary: Arc<Dictionary>, shuffled: bool) -> Option<u8> {
        let bytes = dictionary.footprint();
        let mut adding = Known { dictionary, shuffled };
        for (id, slot) in self.known.iter().enumerate() {
            match slot.set(adding) {
                Ok(()) => {
                    self.bytes.fetch_add(bytes, Relaxed);
                    return Some(id as u8);
                }
                Err(back) => adding = back,
            }
        }
        None
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.known.iter().filter(|known| known.get().is_some()).count()
    }

    /// Whether another would have a place.
    pub fn has_room(&self) -> bool {
        self.count() < MAX_DICTIONARIES
    }

    pub(super) fn join(&self) {
        self.decoders.fetch_add(1, Relaxed);
    }

    pub(super) fn leave(&self) {
        self.decoders.fetch_sub(1, Relaxed);
    }

    /// Counts so many bytes more.
    pub fn charge(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts so many bytes less.
    pub fn discharge(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    /// Bytes that cold forms take: dictionaries, decoders, and what packs at this time.
    #[inline]
    pub fn footprint(&self) -> usize {
        let touched = Decompressor::FOOTPRINT - Decompressor::IDLE;
        self.bytes.load(Relaxed) + self.decoders.load(Relaxed) * touched
    }
}
