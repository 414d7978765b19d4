// SPDX-License-Identifier: Apache-2.0
//! Owns: the way back from packed bytes to a page. Callers: `pool`, under the store's lock, and the pager's workers without
//! it: each thread has a decoder of its own. Law 12: bytes that are no packed page are told, and harm nothing.

use super::dictionaries::Dictionaries;
use super::{
    DICTIONARY, DICTIONARY_SHUFFLED, HEAD, LZ4, PLANES, RANGE, RECORDS, SHORT, SHUFFLED, STEPS, ZSTD,
    ZSTD_SHUFFLED,
};
use std::sync::Arc;
use tmem_sys::pack::shuffle::unshuffle;
use tmem_sys::pack::{Form, frame, planes, records};
use tmem_sys::zstd::Decompressor;
use tmem_sys::{Errno, PAGE_SIZE, Page, lz4};

/// What a thread needs to decode pages.
pub struct Decoder {
    zstd: Decompressor,
    dictionaries: Arc<Dictionaries>,
    /// It has met a page in a cold form: its memory is touched, and counted.
    met_cold: bool,
}

impl Decoder {
    /// What it takes before the first page in a cold form; from then on `dictionaries` counts the rest.
    pub const FOOTPRINT: usize = Decompressor::IDLE;

    /// A decoder for pages packed with these dictionaries, or without one.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(dictionaries: Arc<Dictionaries>) -> Result<Decoder, Errno> {
        Ok(Decoder { zstd: Decompressor::new()?, dictionaries, met_cold: false })
    }

    pub fn dictionaries(&self) -> &Arc<Dictionaries> {
        &self.dictionaries
    }

    /// False when the bytes are no packed page; `into` is then garbage.
    #[must_use]
    pub fn decode(&mut self, packed: &[u8], into: &mut Page) -> bool {
        let form = Form::best();
        let Some((code, data)) = packed.split_first() else { return false };
        match *code {
            LZ4 => lz4::decompress(data, into),
            SHUFFLED => mixed(form, into, |mixed| lz4::decompress(data, mixed)),
            PLANES => planes::unpack(form, data, into),
            RANGE => frame::unpack_range(form, data, into),
            STEPS => frame::unpack_steps(form, data, into),
            RECORDS => records::unpack(form, data, into),
            HEAD => unpack_head(data, into),
            ZSTD | ZSTD_SHUFFLED | DICTIONARY | DICTIONARY_SHUFFLED => self.decode_cold(*code, data, into),
            _ => false,
        }
    }

    fn decode_cold(&mut self, code: u8, data: &[u8], into: &mut Page) -> bool {
        if !std::mem::replace(&mut self.met_cold, true) {
            self.dictionaries.join();
        }
        let form = Form::best();
        match code {
            ZSTD => self.zstd.decompress(data, None, into),
            ZSTD_SHUFFLED => mixed(form, into, |mixed| self.zstd.decompress(data, None, mixed)),
            DICTIONARY => self.with_dictionary(data, into),
            _ => mixed(form, into, |mixed| self.with_dictionary(data, mixed)),
        }
    }

    fn with_dictionary(&mut self, data: &[u8], into: &mut Page) -> bool {
        let Some((id, data)) = data.split_first() else { return false };
        let Some(known) = self.dictionaries.get(*id) else { return false };
        self.zstd.decompress(data, Some(known), into)
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        if self.met_cold {
            self.dictionaries.leave();
        }
    }
}

fn unpack_head(data: &[u8], into: &mut Page) -> bool {
    let Some((len, head)) = data.split_first_chunk() else { return false };
    let whole = u16::from_le_bytes(*len) as usize == head.len() && head.len() <= SHORT;
    if whole {
        into.fill(0);
        into[..head.len()].copy_from_slice(head);
    }
    whole
}

/// Decodes a shuffled page and puts its bytes back in order.
fn mixed(form: Form, into: &mut Page, decode: impl FnOnce(&mut Page) -> bool) -> bool {
    let mut mixed = [0; PAGE_SIZE];
    let whole = decode(&mut mixed);
    if whole {
        unshuffle(form, &mixed, into);
    }
    whole
}
