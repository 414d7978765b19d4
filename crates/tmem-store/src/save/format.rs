// SPDX-License-Identifier: Apache-2.0
//! Owns: the bytes of a file of saved pools: header, sections, records. Callers: `saver` writes them, `restorer` reads
//! them. Pure. docs/explanation/saved-pools.md says the same in prose; the two change together.
//! Law: whatever the bytes, reading them gives fields or `None`, and nothing outside the bytes is read.

use crate::ObjectId;
use crate::class::LARGEST_PACKED;
use crate::guests::LONGEST_NAME;
use tmem_sys::{PAGE_SIZE, Page};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// No text begins so, and a transfer that changes line ends or clears top bits changes this.
pub const MAGIC: [u8; 8] = *b"\x89tmem\r\n\x1a";
pub const VERSION: u32 = 1;
/// Magic, version, page size, last codec, number of pools, 8 bytes of zeros, checksum.
pub const HEADER: usize = 48;
/// Kind, zeros, length, checksum.
pub const SECTION: usize = 32;
/// The last section with its own header.
pub const TAIL: usize = SECTION + 40;
/// A section of records ends once it has so many bytes.
pub const BLOCK: usize = 1 << 20;
/// No section that a reader keeps in memory has more.
pub const LARGEST: usize = 4 << 20;
/// A reader that does not know a kind with this bit passes its section over.
pub const OPTIONAL: u32 = 1 << 31;

pub const POOL: u32 = 1;
pub const PAGES: u32 = 2;
pub const GONE: u32 = 3;
pub const END: u32 = 4;

const PACK: u8 = 1;
const RAW: u8 = 2;
const SAME_FORM: u8 = 0;
const PACKED_FORM: u8 = 1;
const RAW_FORM: u8 = 2;

pub fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

pub fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

pub fn put_header(out: &mut Vec<u8>, last_codec: u8, pools: u32) {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    for number in [VERSION, PAGE_SIZE as u32, u32::from(last_codec), pools, 0, 0] {
        put_u32(out, number);
    }
    let sum = xxh3_128(&out[start..]);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// Writes a section with what `payload` appends.
pub fn put_section(out: &mut Vec<u8>, kind: u32, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = begin_section(out, kind);
    payload(out);
    end_section(out, start);
}

/// Leaves room for a section's header; where it is.
pub fn begin_section(out: &mut Vec<u8>, kind: u32) -> usize {
    let start = out.len();
    put_u32(out, kind);
    out.resize(start + SECTION, 0);
    start
}

pub fn end_section(out: &mut [u8], start: usize) {
    let len = (out.len() - start - SECTION) as u64;
    out[start + 8..start + 16].copy_from_slice(&len.to_le_bytes());
    let sum = section_sum(&out[start..start + 16], &out[start + SECTION..]);
    out[start + 16..start + SECTION].copy_from_slice(&sum.to_le_bytes());
}

/// Of the header up to the checksum, and the payload.
pub fn section_sum(header: &[u8], payload: &[u8]) -> u128 {
    let mut sum = Xxh3::new();
    sum.update(header);
    sum.update(payload);
    sum.digest128()
}

/// Fields in their order, as long as there are bytes for them.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    pub fn object(&mut self) -> Option<ObjectId> {
        Some(ObjectId([self.u64()?, self.u64()?, self.u64()?]))
    }
}

/// A section's header.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    pub kind: u32,
    pub len: u64,
    pub sum: u128,
}

impl Section {
    pub fn read(header: &[u8; SECTION]) -> Option<Section> {
        let mut fields = Fields(header);
        let (kind, zeros) = (fields.u32()?, fields.u32()?);
        let section = Section { kind, len: fields.u64()?, sum: fields.u128()? };
        (zeros == 0).then_some(section)
    }
}

/// What a file says of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub name: String,
    pub guest: String,
    pub pack: bool,
    pub raw: bool,
}

impl Described {
    /// Number, flags, lengths of the two names, the names.
    pub fn write(&self, number: u32, out: &mut Vec<u8>) {
        put_u32(out, number);
        let flags = if self.pack { PACK } else { 0 } | if self.raw { RAW } else { 0 };
        // Persistent: other kinds may come.
        out.extend_from_slice(&[0, flags, self.name.len() as u8, self.guest.len() as u8]);
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(self.guest.as_bytes());
    }

    /// `None` also where there are flags or kinds of pools that this version has not.
    pub fn read(payload: &[u8]) -> Option<(u32, Described)> {
        let mut fields = Fields(payload);
        let (number, kind, flags) = (fields.u32()?, fields.u8()?, fields.u8()?);
        let (name, guest) = (fields.u8()? as usize, fields.u8()? as usize);
        let mut text = |len| Some(std::str::from_utf8(fields.bytes(len)?).ok()?.to_owned());
        let (name, guest) = (text(name)?, text(guest)?);
        let named = [&name, &guest].iter().all(|name| (1..=LONGEST_NAME).contains(&name.len()));
        let known = named && kind == 0 && flags & !(PACK | RAW) == 0 && fields.0.is_empty();
        let pool = Described { name, guest, pack: flags & PACK != 0, raw: flags & RAW != 0 };
        known.then_some((number, pool))
    }
}

/// A page as it lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form<'a> {
    Same(u64),
    Packed(&'a [u8]),
    Raw(&'a Page),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub object: ObjectId,
    pub index: u64,
    pub form: Form<'a>,
}

impl<'a> Record<'a> {
    /// The most bytes that one takes.
    pub const LARGEST: usize = 36 + PAGE_SIZE;

    /// Object, index, form, a zero, length, bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.object.0.iter().for_each(|word| put_u64(out, *word));
        put_u64(out, self.index);
        let word;
        let (form, bytes) = match self.form {
            Form::Same(repeated) => {
                word = repeated.to_le_bytes();
                (SAME_FORM, &word[..])
            }
            Form::Packed(bytes) => (PACKED_FORM, bytes),
            Form::Raw(page) => (RAW_FORM, &page[..]),
        };
        out.extend_from_slice(&[form, 0]);
        out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        out.extend_from_slice(bytes);
    }

    pub fn read(fields: &mut Fields<'a>) -> Option<Record<'a>> {
        let (object, index) = (fields.object()?, fields.u64()?);
        let (form, zero, len) = (fields.u8()?, fields.u8()?, fields.u16()? as usize);
        let bytes = fields.bytes(len)?;
        let form = match form {
            _ if zero != 0 => return None,
            SAME_FORM => Form::Same(u64::from_le_bytes(bytes.try_into().ok()?)),
            PACKED_FORM if (1..=LARGEST_PACKED).contains(&len) => Form::Packed(bytes),
            RAW_FORM => Form::Raw(bytes.try_into().ok()?),
            _ => return None,
        };
        Some(Record { object, index, form })
    }

    /// Bytes of data that the store keeps for it.
    pub fn data(&self) -> usize {
        match self.form {
            Form::Same(_) => 0,
            Form::Packed(bytes) => bytes.len(),
            Form::Raw(_) => PAGE_SIZE,
        }
    }
}

/// What the last section says of all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Pages of the pools, without those gone.
    pub pages: u64,
    /// Records of pages, and of what is gone.
    pub records: u64,
    pub gone: u64,
    /// Of all bytes before this section.
    pub sum: u128,
}

impl End {
    pub fn write(&self, out: &mut Vec<u8>) {
        [self.pages, self.records, self.gone].iter().for_each(|number| put_u64(out, *number));
        out.extend_from_slice(&self.sum.to_le_bytes());
    }

    pub fn read(payload: &[u8]) -> Option<End> {
        let mut fields = Fields(payload);
        let (pages, records, gone) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let end = End { pages, records, gone, sum: fields.u128()? };
        fields.0.is_empty().then_some(end)
    }
}
