// SPDX-License-Identifier: Apache-2.0
//! Owns: the reading of a file of saved pools into new pools, a section at a time. Callers: the bindings, which make the
//! pools and destroy them again where this ends with an error. Locks: the host's, for one run of pages.
//! Law: a file is whole or it is an error. Every byte is under a checksum, which tells of damage; whoever means harm can
//! make those, too, so nothing is believed: lengths are bounded, handles ascend, every page is unpacked before it is put.

use crate::codec::{self, Coded, Decoder, Dictionaries};
use crate::guests::MAX_GUESTS;
use crate::host::{Host, RUN};
use crate::object::ObjectId;
use crate::ops::{Outcome, Reason};
use crate::pool::{PageStore, PoolId, PoolKind, StoreError};
use crate::room::Effort;
use crate::save::error::RestoreError;
use crate::save::format::{self, Described, End, Fields, Form, Record, Section};
use crate::save::need::Needs;
use crate::shard::Handle;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use tmem_sys::{Page, Table};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// What a step came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    More,
    /// A pool is wanted: to be made and given to `give` before the next step.
    Pool(Described),
    /// All is there; so many pages.
    Done(u64),
}

/// A pool that was made for the file.
#[derive(Clone, Copy)]
struct Target {
    pool: PoolId,
    guest: usize,
}

/// A restore that is under way.
pub struct Restorer<R> {
    host: Arc<Host>,
    source: R,
    len: u64,
    /// Where the next section begins.
    at: u64,
    sum: Xxh3,
    pools: u32,
    wanted: bool,
    targets: Vec<Target>,
    payload: Vec<u8>,
    pages: Table<Page>,
    decoder: Decoder,
    last: Option<(ObjectId, u64)>,
    records: u64,
    gone: u64,
    /// From the first refusal on, the rest is only counted.
    refused: Option<(Reason, usize)>,
    needs: Needs,
    used: u64,
    charged: [Option<u64>; MAX_GUESTS],
}

impl<R: Read + Seek> Restorer<R> {
    /// Looks at both ends of the file.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn open(host: Arc<Host>, mut source: R) -> Result<Restorer<R>, RestoreError> {
        let len = source.seek(SeekFrom::End(0))?;
        source.seek(SeekFrom::Start(0))?;
        let mut header = [0; format::HEADER];
        let begins = (len as usize).min(header.len());
        source.read_exact(&mut header[..begins])?;
        let pools = read_header(&header[..begins], len)?;
        if len < (format::HEADER + format::TAIL) as u64 {
            return Err(RestoreError::Short(len));
        }
        let mut tail = [0; format::TAIL];
        source.seek(SeekFrom::Start(len - format::TAIL as u64))?;
        source.read_exact(&mut tail)?;
        read_tail(&tail).ok_or(RestoreError::Short(len))?;
        source.seek(SeekFrom::Start(format::HEADER as u64))?;
        let mut sum = Xxh3::new();
        sum.update(&header);
        let used = host.stats().footprint_bytes;
        Ok(Restorer {
            host,
            source,
            len,
            at: format::HEADER as u64,
            sum,
            pools,
            wanted: false,
            targets: Vec::new(),
            payload: Vec::new(),
            pages: Table::new(RUN).map_err(RestoreError::Room)?,
            decoder: Decoder::new(Dictionaries::new()).map_err(RestoreError::Room)?,
            last: None,
            records: 0,
            gone: 0,
            refused: None,
            needs: Needs::new(),
            used,
            charged: [None; MAX_GUESTS],
        })
    }

    /// How many pools the file says it has.
    pub fn pools(&self) -> u32 {
        self.pools
    }

    /// Takes the pool that the last step wanted.
    ///
    /// # Errors
    /// [`RestoreError::Misused`], [`RestoreError::Store`].
    pub fn give(&mut self, pool: PoolId) -> Result<(), RestoreError> {
        let (mut guest, mut charged, mut fits) = (0, 0, true);
        let mut look = |store: &mut PageStore| {
            let made = &store.pools[store.live_slot(pool)?];
            fits &= made.kind == PoolKind::Persistent && made.stats.pages == 0;
            guest = made.guest.slot();
            charged += store.guests.get(made.guest).held.charge;
            Ok(())
        };
        let mut known = Ok(());
        self.host.in_all(|store| known = known.and_then(|()| look(store)));
        known.map_err(RestoreError::Store)?;
        if !fits {
            return Err(RestoreError::Misused("a saved pool was persistent, and goes to an empty one"));
        }
        self.charged[guest].get_or_insert(charged);
        self.targets.push(Target { pool, guest });
        self.wanted = false;
        Ok(())
    }

    /// Reads the next section.
    ///
    /// # Errors
    /// [`RestoreError`]: nothing that was put is worth anything then.
    pub fn step(&mut self) -> Result<Step, RestoreError> {
        if self.wanted {
            return Err(RestoreError::Misused("a pool is wanted before the file goes on"));
        }
        let left = self.len - self.at;
        let mut header = [0; format::SECTION];
        if left < format::TAIL as u64 {
            return Err(self.damaged("a section's length"));
        }
        self.source.read_exact(&mut header)?;
        let section = Section::read(&header).ok_or_else(|| self.damaged("a section's header"))?;
        let known = (format::POOL..=format::END).contains(&section.kind);
        let end = section.kind == format::END;
        // The last section is the last thing in the file; before any other it has its room.
        let after = if end { format::SECTION } else { format::SECTION + format::TAIL };
        let most = left.saturating_sub(after as u64);
        let fits = if end { section.len == most } else { section.len <= most };
        if !fits || known && section.len > format::LARGEST as u64 {
            return Err(self.damaged("a section's length"));
        }
        if !known {
            return self.pass_over(&header, &section);
        }
        self.payload.resize(section.len as usize, 0);
        self.source.read_exact(&mut self.payload)?;
        if format::section_sum(&header[..16], &self.payload) != section.sum {
            return Err(self.damaged("a section's checksum"));
        }
        let payload = std::mem::take(&mut self.payload);
        let step = match section.kind {
            format::POOL => self.pool(&payload),
            format::PAGES => self.pages(&payload).map(|()| Step::More),
            format::GONE => self.gone(&payload).map(|()| Step::More),
            _ => self.end(&payload),
        }?;
        self.sum.update(&header);
        self.sum.update(&payload);
        self.at += (format::SECTION + payload.len()) as u64;
        self.payload = payload;
        Ok(step)
    }

    fn damaged(&self, what: &'static str) -> RestoreError {
        RestoreError::Damaged(what, self.at)
    }

    /// A section that this version does not know, of any length.
    fn pass_over(&mut self, header: &[u8; format::SECTION], section: &Section) -> Result<Step, RestoreError> {
        let mut sum = Xxh3::new();
        sum.update(&header[..16]);
        self.sum.update(header);
        let mut left = section.len;
        while left > 0 {
            let some = left.min(format::BLOCK as u64);
            self.payload.resize(some as usize, 0);
            self.source.read_exact(&mut self.payload)?;
            sum.update(&self.payload);
            self.sum.update(&self.payload);
            left -= some;
        }
        if sum.digest128() != section.sum {
            return Err(self.damaged("a section's checksum"));
        }
        if section.kind & format::OPTIONAL == 0 {
            return Err(RestoreError::Unknown(section.kind));
        }
        self.at += format::SECTION as u64 + section.len;
        Ok(Step::More)
    }

    fn pool(&mut self, payload: &[u8]) -> Result<Step, RestoreError> {
        let (number, described) = Described::read(payload).ok_or(RestoreError::Unknown(format::POOL))?;
        if number as usize != self.targets.len() || number >= self.pools || self.gone > 0 {
            return Err(self.damaged("a pool out of its order"));
        }
        self.last = None;
        self.needs.end_object();
        self.wanted = true;
        Ok(Step::Pool(described))
    }

    fn pages(&mut self, payload: &[u8]) -> Result<(), RestoreError> {
        let mut fields = Fields(payload);
        let number = fields.u32();
        let in_order = number.is_some_and(|number| number as usize + 1 == self.targets.len());
        let Some(target) = self.targets.last().copied().filter(|_| in_order && self.gone == 0) else {
            return Err(self.damaged("pages out of their order"));
        };
        while !fields.0.is_empty() {
            let mut run = [const { None }; RUN];
            for (place, taken) in run.iter_mut().enumerate() {
                if fields.0.is_empty() {
                    break;
                }
                let record = Record::read(&mut fields).ok_or_else(|| self.damaged("a page's record"))?;
                self.take(place, &record)?;
                self.needs.add(target.guest, &record);
                *taken = Some(record);
                self.records += 1;
            }
            if self.refused.is_some() {
                continue;
            }
            let refused = self.host.put_saved(target.pool, &run, &self.pages);
            let refused = refused.map_err(RestoreError::Store)?;
            self.refused = refused.map(|reason| (reason, target.guest));
        }
        Ok(())
    }

    /// Unpacks a page, so that what does not unpack is found out now.
    fn take(&mut self, place: usize, record: &Record<'_>) -> Result<(), RestoreError> {
        let handle = (record.object, record.index);
        if self.last.is_some_and(|last| handle <= last) {
            return Err(self.damaged("a page out of its order"));
        }
        self.last = Some(handle);
        match record.form {
            Form::Same(word) => codec::fill(word, &mut self.pages[place]),
            Form::Raw(page) => self.pages[place] = *page,
            Form::Packed(bytes) if !codec::lasts(bytes) => return Err(RestoreError::Codec(bytes[0])),
            Form::Packed(bytes) => {
                if !self.decoder.decode(bytes, &mut self.pages[place]) {
                    return Err(self.damaged("a packed page"));
                }
            }
        }
        Ok(())
    }

    /// Forgets what left the pools while they were saved.
    fn gone(&mut self, payload: &[u8]) -> Result<(), RestoreError> {
        let mut fields = Fields(payload);
        while !fields.0.is_empty() {
            let mut read = || Some((fields.u32()?, fields.u32()?, fields.object()?, fields.u64()?));
            let (number, whole, object, index) = read().ok_or_else(|| self.damaged("what is gone"))?;
            let target = self.targets.get(number as usize);
            let Some(Target { pool, .. }) = target.filter(|_| whole <= 1) else {
                return Err(self.damaged("what is gone"));
            };
            let flushed = match whole {
                0 => self.host.flush_page(*pool, object, index).map(u64::from),
                _ => self.host.flush_object(*pool, object),
            };
            flushed.map_err(RestoreError::Store)?;
            self.gone += 1;
        }
        Ok(())
    }

    fn end(&mut self, payload: &[u8]) -> Result<Step, RestoreError> {
        let end = End::read(payload).ok_or_else(|| self.damaged("the end"))?;
        if end.sum != self.sum.digest128() {
            return Err(self.damaged("the checksum of the whole"));
        }
        let counted =
            (self.targets.len(), self.records, self.gone) == (self.pools as usize, end.records, end.gone);
        if !counted {
            return Err(self.damaged("the counts"));
        }
        if let Some((reason, guest)) = self.refused {
            let charged = self.charged[guest].unwrap_or(0);
            return Err(RestoreError::Refused(
                reason,
                self.needs.need(guest, self.used, charged, self.host.shards.count()),
            ));
        }
        let mut pages = 0;
        for target in &self.targets {
            pages += self.host.pool_stats(target.pool).map_err(RestoreError::Store)?.pages;
        }
        if pages == end.pages { Ok(Step::Done(pages)) } else { Err(self.damaged("the number of pages")) }
    }
}

/// The number of pools.
fn read_header(header: &[u8], len: u64) -> Result<u32, RestoreError> {
    let mut fields = Fields(header);
    if fields.bytes(format::MAGIC.len()) != Some(&format::MAGIC) {
        return Err(RestoreError::Strange);
    }
    let version = fields.u32().ok_or(RestoreError::Short(len))?;
    // Of another version, nothing but this much need be where it is here.
    if version != format::VERSION {
        return Err(RestoreError::Version(version));
    }
    let mut read = || Some((fields.u32()?, fields.u32()?, fields.u32()?, fields.u64()?, fields.u128()?));
    let (page_size, _, pools, _, sum) = read().ok_or(RestoreError::Short(len))?;
    if xxh3_128(&header[..format::HEADER - 16]) != sum {
        return Err(RestoreError::Damaged("the header", 0));
    }
    if page_size as usize != tmem_sys::PAGE_SIZE {
        return Err(RestoreError::PageSize(page_size));
    }
    Ok(pools)
}

fn read_tail(tail: &[u8; format::TAIL]) -> Option<End> {
    let (header, payload) = tail.split_first_chunk::<{ format::SECTION }>()?;
    let section = Section::read(header)?;
    let ours = section.kind == format::END && format::section_sum(&header[..16], payload) == section.sum;
    End::read(payload).filter(|_| ours)
}

impl Host {
    /// Puts the pages of one run, in the forms they were saved in, until one is refused; why. A page that does not
    /// shrink was taken once, so it is taken whatever the pool now says of such pages.
    fn put_saved(
        &self,
        pool: PoolId,
        run: &[Option<Record<'_>>],
        pages: &[Page],
    ) -> Result<Option<Reason>, StoreError> {
        for (record, page) in run.iter().flatten().zip(pages) {
            let coded = match record.form {
                Form::Same(word) => Coded::Same(word),
                Form::Packed(bytes) => Coded::Packed(bytes),
                Form::Raw(_) => Coded::Incompressible,
            };
            let handle = Handle { pool, object: record.object, index: record.index };
            let at = self.at(handle);
            let mut effort = Effort::to_keep_raw();
            let (store, outcome) = self.put_in(self.shards.lock(at), handle, page, &coded, &mut effort)?;
            drop(store);
            self.shards.give_way(at);
            if let Outcome::Refused(reason) = outcome {
                return Ok(Some(reason));
            }
        }
        Ok(None)
    }
}
