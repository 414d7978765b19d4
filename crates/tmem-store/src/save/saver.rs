// SPDX-License-Identifier: Apache-2.0
//! Owns: the making of a file of saved pools, piece by piece, while the pools are in use. Callers: the bindings, which
//! write the pieces. Locks: the host's, for one run of pages, and once at the end for all pools.
//! Law: from `begin` to `release` the pools take nothing. The pieces and the notes of what left since `begin` together
//! are what the pools had when `finish` held the lock.

use crate::PoolId;
use crate::board::MOST_SHARDS;
use crate::codec::{self, Codec, Coded, Decoder, Dictionaries};
use crate::host::Host;
use crate::object::ObjectId;
use crate::ops::Corrupt;
use crate::pool::PageStore;
use crate::save::error::SaveError;
use crate::save::format::{self, Described, End, Form, Record};
use crate::save::hold::{Gone, Held, Notes};
use crate::save::scan::{Found, Lost, Place, Run, Taken};
use std::sync::Arc;
use tmem_sys::{PAGE_SIZE, Table};
use xxhash_rust::xxh3::Xxh3;

/// Records of what is gone that one section has.
const GONE_RECORDS: usize = format::BLOCK / 40;

/// A pool to be saved.
struct Source {
    pool: PoolId,
    described: Described,
    /// The number of the hold on it; 0 before and after.
    hold: u64,
}

/// What a save came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    pub pages: u64,
    /// Pages and objects that left while they were saved.
    pub gone: u64,
}

/// A save that is under way. Dropped, it lets go of its pools.
pub struct Saver {
    host: Arc<Host>,
    sources: Vec<Source>,
    started: bool,
    /// The pool that is copied, and how far.
    at: usize,
    ids: Option<Vec<ObjectId>>,
    place: Place,
    run: Run,
    codec: Codec,
    decoder: Decoder,
    lasts: fn(&[u8]) -> bool,
    sum: Xxh3,
    records: u64,
}

impl Saver {
    /// A save of pools of one host, each with a name and its guest's.
    ///
    /// # Errors
    /// [`SaveError::Room`].
    pub fn new(host: Arc<Host>, pools: Vec<(PoolId, String, String)>) -> Result<Saver, SaveError> {
        let describe = |(pool, name, guest)| {
            let described = Described { name, guest, pack: false, raw: false };
            Source { pool, described, hold: 0 }
        };
        Ok(Saver {
            host,
            sources: pools.into_iter().map(describe).collect(),
            started: false,
            at: 0,
            ids: None,
            place: Place::default(),
            run: Run::new().map_err(SaveError::Room)?,
            codec: Codec::new().map_err(SaveError::Room)?,
            decoder: Decoder::new(Dictionaries::new()).map_err(SaveError::Room)?,
            lasts: codec::lasts,
            sum: Xxh3::new(),
            records: 0,
        })
    }

    /// Begins: from now on the pools take nothing.
    ///
    /// # Errors
    /// [`SaveError`]; some pools may be held then, until `release`.
    pub fn begin(&mut self) -> Result<(), SaveError> {
        for source in &mut self.sources {
            let held = self.host.hold_pool(source.pool).map_err(SaveError::Store)?;
            let held = held.ok_or(SaveError::Held)?;
            source.hold = held[0].number;
            (source.described.pack, source.described.raw) = (held[0].pack, held[0].raw);
            // Nothing was copied yet, so what leaves while the tables are made needs no note.
            let table = |held: &Held| Table::new(held.pages as usize).map(Notes::new);
            let notes = held.iter().map(table).collect::<Result<_, _>>().map_err(SaveError::Room)?;
            self.host.set_notes(source.pool, source.hold, notes).ok_or(SaveError::Over)?;
        }
        Ok(())
    }

    /// Appends the next piece; false, and nothing appended, when all pages were copied.
    ///
    /// # Errors
    /// [`SaveError`].
    pub fn piece(&mut self, out: &mut Vec<u8>) -> Result<bool, SaveError> {
        let start = out.len();
        if !self.started {
            self.started = true;
            format::put_header(out, *codec::LASTING.end(), self.sources.len() as u32);
        } else if let Some(source) = self.sources.get(self.at) {
            match self.ids.take() {
                None => {
                    let number = self.at as u32;
                    format::put_section(out, format::POOL, |out| source.described.write(number, out));
                    self.ids = Some(self.collect_ids()?);
                    self.place = Place::default();
                }
                Some(ids) => {
                    self.block(&ids, out)?;
                    let more = self.place.object < ids.len();
                    (self.at, self.ids) = if more { (self.at, Some(ids)) } else { (self.at + 1, None) };
                }
            }
        } else {
            return Ok(false);
        }
        self.sum.update(&out[start..]);
        Ok(true)
    }

    /// Appends the end: what is gone, and the sums. The pools are held on, so that what follows can still fail.
    ///
    /// # Errors
    /// [`SaveError`].
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<Saved, SaveError> {
        let (mut notes, mut pages) = (Vec::with_capacity(self.sources.len() * MOST_SHARDS), 0);
        {
            // One moment for all pools.
            let mut shards = self.host.shards.lock_all();
            for (number, Source { pool, hold, .. }) in self.sources.iter().enumerate() {
                for store in shards.iter_mut().flatten() {
                    let noted = store.set_notes(*pool, *hold, None).flatten().ok_or(SaveError::Over)?;
                    notes.push((number, noted));
                    pages += store.pool_stats(*pool).map_err(SaveError::Store)?.pages;
                }
            }
        }
        let start = out.len();
        let mut gone = 0;
        for number in 0..self.sources.len() {
            let of_pool = notes.iter().filter(|(of, _)| *of == number);
            let mut all: Vec<Gone> = of_pool.flat_map(|(_, notes)| notes.all()).copied().collect();
            // An object left each shard for itself.
            all.sort_unstable_by_key(|gone| (gone.object, gone.index, gone.whole));
            all.dedup();
            for some in all.chunks(GONE_RECORDS) {
                format::put_section(out, format::GONE, |out| {
                    some.iter().for_each(|g| put_gone(out, number, g))
                });
                gone += some.len() as u64;
            }
        }
        self.sum.update(&out[start..]);
        let end = End { pages, records: self.records, gone, sum: self.sum.digest128() };
        format::put_section(out, format::END, |out| end.write(out));
        Ok(Saved { pages, gone })
    }

    /// Lets go of the pools. Twice does no harm.
    pub fn release(&mut self) {
        for source in &mut self.sources {
            let number = std::mem::take(&mut source.hold);
            if number != 0 {
                self.host.end_hold(source.pool, number);
            }
        }
    }

    /// The ids of the objects that the pool has, in their order. There can be no new ones.
    fn collect_ids(&self) -> Result<Vec<ObjectId>, SaveError> {
        let Source { pool, hold, .. } = &self.sources[self.at];
        let mut ids = Vec::new();
        for shard in 0..self.host.shards.count() {
            let mut at = 0;
            loop {
                ids.reserve(PageStore::IDS);
                let added = self.host.shards.lock(shard).add_ids(*pool, *hold, &mut at, &mut ids);
                added.ok_or(SaveError::Over)?;
                if at == 0 {
                    break;
                }
                self.host.shards.give_way(shard);
            }
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Appends a section with the pages from the place on.
    fn block(&mut self, ids: &[ObjectId], out: &mut Vec<u8>) -> Result<(), SaveError> {
        let Source { pool, hold, .. } = self.sources[self.at];
        out.reserve(format::SECTION + format::BLOCK + crate::host::RUN * Record::LARGEST);
        let start = format::begin_section(out, format::PAGES);
        format::put_u32(out, self.at as u32);
        let empty = out.len();
        while out.len() - start < format::BLOCK && self.place.object < ids.len() {
            let scanned = self.host.scan((pool, hold), ids, &mut self.place, &mut self.run, self.lasts);
            let scanned = scanned.ok_or(SaveError::Over)?;
            scanned.map_err(|Lost(object, index, corrupt)| SaveError::Lost(object, index, corrupt))?;
            for (found, page) in self.run.found().iter().zip(self.run.pages.iter()) {
                append(found, page, (&mut self.codec, &mut self.decoder), out)?;
                self.records += 1;
            }
            (0..self.host.shards.count()).for_each(|shard| self.host.shards.give_way(shard));
        }
        if out.len() > empty {
            format::end_section(out, start);
        } else {
            out.truncate(start);
        }
        Ok(())
    }

    /// Has pages unpacked whose packed bytes this takes to be none that last.
    #[cfg(test)]
    pub(crate) fn with_lasting(mut self, lasts: fn(&[u8]) -> bool) -> Saver {
        self.lasts = lasts;
        self
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.release();
    }
}

/// Appends a page's record. What does not decode is no page, and must not get into a file.
fn append(
    found: &Found,
    page: &tmem_sys::Page,
    (codec, decoder): (&mut Codec, &mut Decoder),
    out: &mut Vec<u8>,
) -> Result<(), SaveError> {
    let Found { object, index, taken } = *found;
    let form = match taken {
        Taken::Same(word) => Form::Same(word),
        Taken::Raw => Form::Raw(page),
        Taken::Packed(len) => {
            let mut scratch = [0; PAGE_SIZE];
            if !decoder.decode(&page[..len], &mut scratch) {
                return Err(SaveError::Lost(object, index, Corrupt::Undecodable));
            }
            Form::Packed(&page[..len])
        }
        Taken::Unpacked => match codec.encode(page, true) {
            Coded::Same(word) => Form::Same(word),
            Coded::Packed(bytes) => Form::Packed(bytes),
            Coded::Incompressible => Form::Raw(page),
        },
    };
    Record { object, index, form }.write(out);
    Ok(())
}

fn put_gone(out: &mut Vec<u8>, pool: usize, gone: &Gone) {
    format::put_u32(out, pool as u32);
    format::put_u32(out, gone.whole as u32);
    gone.object.iter().chain([&gone.index]).for_each(|word| format::put_u64(out, *word));
}
