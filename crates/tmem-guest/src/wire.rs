// SPDX-License-Identifier: Apache-2.0
//! Owns: the messages between a guest and the daemon: MessagePack arrays that begin with a word. Pure: no heap, no I/O.
//! Callers: `session`, `serve`; tests read both directions. The other side is `python/tmem/wire.py`.
//!
//! Law 18: what comes from outside is believed only as far as its form goes: a wrong word, number, type or length, a byte too
//! many or too few is [`Malformed`]. Nothing here panics.

use rmp::decode::{self, Bytes};
use rmp::encode;

pub const VERSION: u64 = 1;
/// Extents in one request, and in one claim.
pub const MOST_ASKED: usize = 32;
/// Extents in one `give`.
pub const MOST_GIVEN: usize = 256;
/// Bytes of a guest's name.
pub const MOST_NAME: usize = 63;
/// Bytes of a text from the host.
const MOST_TEXT: usize = 1024;
pub const SECRET: usize = 16;

/// A message that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

type Read<T> = Result<T, Malformed>;

/// Numbers of a message, as they lie in it; their form was checked.
#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    bytes: &'a [u8],
    len: usize,
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = u64> + use<'a> {
        let mut rest = Bytes::new(self.bytes);
        (0..self.len).map_while(move |_| number(&mut rest).ok())
    }
}

impl PartialEq for List<'_> {
    fn eq(&self, other: &List<'_>) -> bool {
        self.iter().eq(other.iter())
    }
}

impl PartialEq<[u64]> for List<'_> {
    fn eq(&self, other: &[u64]) -> bool {
        self.iter().eq(other.iter().copied())
    }
}

/// From the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FromHost<'a> {
    Welcome {
        version: u64,
        guest: u64,
        extent_bytes: u64,
        most_bytes: u64,
        report_ms: u64,
    },
    /// With as many descriptors, or, after a claim, without.
    Granted {
        seq: u64,
        ids: List<'a>,
    },
    Refused {
        seq: u64,
        reason: &'a str,
        retry_ms: u64,
    },
    Done {
        seq: u64,
    },
    Shrink {
        seq: u64,
        bytes: u64,
    },
    Balloon {
        seq: u64,
        ram: u64,
    },
    Set {
        frozen: bool,
        compress: bool,
    },
    Revoked {
        ids: List<'a>,
    },
    /// With the descriptor of the board.
    Joined {
        seq: u64,
        pool: u64,
        member: u64,
    },
    /// With as many descriptors.
    Member {
        pool: u64,
        member: u64,
        ids: List<'a>,
        kinds: List<'a>,
    },
    Gone {
        pool: u64,
        member: u64,
    },
    Error {
        text: &'a str,
    },
}

/// To the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ToHost<'a> {
    Hello {
        version: u64,
        name: &'a str,
    },
    Lease {
        seq: u64,
        kind: u64,
        pool: u64,
        count: u64,
    },
    Give {
        seq: u64,
        ids: &'a [u64],
    },
    /// With as many descriptors.
    Claim {
        seq: u64,
        kind: u64,
        pool: u64,
        ids: &'a [u64],
    },
    Report {
        numbers: [u64; 15],
    },
    Shrunk {
        seq: u64,
        bytes: u64,
    },
    Ballooned {
        seq: u64,
        ram: u64,
    },
    Join {
        seq: u64,
        secret: &'a [u8; SECRET],
    },
    Leave {
        seq: u64,
        pool: u64,
    },
}

/// Writes a message; its length.
///
/// # Errors
/// [`Malformed`] where it does not fit, or holds more than a message may.
pub fn encode(message: &ToHost<'_>, into: &mut [u8]) -> Result<usize, Malformed> {
    let room = into.len();
    let mut out = Writer(into);
    match *message {
        ToHost::Hello { version, name } if name.len() <= MOST_NAME => {
            out.begin("hello", 2)?.number(version)?.text(name)?;
        }
        ToHost::Lease { seq, kind, pool, count } => out.numbers("lease", &[seq, kind, pool, count])?,
        ToHost::Give { seq, ids } if ids.len() <= MOST_GIVEN => {
            out.begin("give", 2)?.number(seq)?.list(ids)?;
        }
        ToHost::Claim { seq, kind, pool, ids } if ids.len() <= MOST_ASKED => {
            out.begin("claim", 4)?.number(seq)?.number(kind)?.number(pool)?.list(ids)?;
        }
        ToHost::Report { numbers } => out.numbers("report", &numbers)?,
        ToHost::Shrunk { seq, bytes } => out.numbers("shrunk", &[seq, bytes])?,
        ToHost::Ballooned { seq, ram } => out.numbers("ballooned", &[seq, ram])?,
        ToHost::Join { seq, secret } => {
            out.begin("join", 2)?.number(seq)?.binary(secret)?;
        }
        ToHost::Leave { seq, pool } => out.numbers("leave", &[seq, pool])?,
        ToHost::Hello { .. } | ToHost::Give { .. } | ToHost::Claim { .. } => return Err(Malformed),
    }
    Ok(room - out.0.len())
}

struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    fn begin(&mut self, word: &str, fields: u32) -> Result<&mut Self, Malformed> {
        encode::write_array_len(&mut self.0, fields + 1).map_err(|_| Malformed)?;
        self.text(word)
    }

    fn number(&mut self, number: u64) -> Result<&mut Self, Malformed> {
        encode::write_uint(&mut self.0, number).map_err(|_| Malformed)?;
        Ok(self)
    }

    fn text(&mut self, text: &str) -> Result<&mut Self, Malformed> {
        encode::write_str(&mut self.0, text).map_err(|_| Malformed)?;
        Ok(self)
    }

    fn binary(&mut self, bytes: &[u8]) -> Result<&mut Self, Malformed> {
        encode::write_bin(&mut self.0, bytes).map_err(|_| Malformed)?;
        Ok(self)
    }

    fn list(&mut self, numbers: &[u64]) -> Result<&mut Self, Malformed> {
        encode::write_array_len(&mut self.0, numbers.len() as u32).map_err(|_| Malformed)?;
        numbers.iter().try_fold(self, |out, &n| out.number(n))
    }

    fn numbers(&mut self, word: &str, numbers: &[u64]) -> Result<(), Malformed> {
        self.begin(word, numbers.len() as u32)?;
        numbers.iter().try_fold(self, |out, &n| out.number(n))?;
        Ok(())
    }
}

/// Reads a message of the host's.
///
/// # Errors
/// [`Malformed`].
pub fn decode(bytes: &[u8]) -> Result<FromHost<'_>, Malformed> {
    let mut from = Bytes::new(bytes);
    let fields = decode::read_array_len(&mut from).map_err(|_| Malformed)?;
    let word = text(&mut from)?;
    let from = &mut from;
    let message = match (word, fields) {
        ("welcome", 6) => FromHost::Welcome {
            version: number(from)?,
            guest: number(from)?,
            extent_bytes: number(from)?,
            most_bytes: number(from)?,
            report_ms: number(from)?,
        },
        ("granted", 3) => FromHost::Granted { seq: number(from)?, ids: list(from)? },
        ("refused", 4) => {
            FromHost::Refused { seq: number(from)?, reason: text(from)?, retry_ms: number(from)? }
        }
        ("done", 2) => FromHost::Done { seq: number(from)? },
        ("shrink", 3) => FromHost::Shrink { seq: number(from)?, bytes: number(from)? },
        ("balloon", 3) => FromHost::Balloon { seq: number(from)?, ram: number(from)? },
        ("set", 3) => FromHost::Set { frozen: truth(from)?, compress: truth(from)? },
        ("revoked", 2) => FromHost::Revoked { ids: list(from)? },
        ("joined", 4) => FromHost::Joined { seq: number(from)?, pool: number(from)?, member: number(from)? },
        ("member", 5) => FromHost::Member {
            pool: number(from)?,
            member: number(from)?,
            ids: list(from)?,
            kinds: list(from)?,
        },
        ("gone", 3) => FromHost::Gone { pool: number(from)?, member: number(from)? },
        ("error", 2) => FromHost::Error { text: text(from)? },
        _ => return Err(Malformed),
    };
    if from.remaining_slice().is_empty() { Ok(message) } else { Err(Malformed) }
}

fn number(from: &mut Bytes<'_>) -> Read<u64> {
    decode::read_int(from).map_err(|_| Malformed)
}

fn truth(from: &mut Bytes<'_>) -> Read<bool> {
    decode::read_bool(from).map_err(|_| Malformed)
}

fn text<'a>(from: &mut Bytes<'a>) -> Read<&'a str> {
    let len = decode::read_str_len(from).map_err(|_| Malformed)? as usize;
    let rest = from.remaining_slice();
    if len > MOST_TEXT || len > rest.len() {
        return Err(Malformed);
    }
    let (text, rest) = rest.split_at(len);
    *from = Bytes::new(rest);
    core::str::from_utf8(text).map_err(|_| Malformed)
}

fn list<'a>(from: &mut Bytes<'a>) -> Read<List<'a>> {
    let len = decode::read_array_len(from).map_err(|_| Malformed)? as usize;
    let bytes = from.remaining_slice();
    // Each takes a byte or more.
    if len > bytes.len() {
        return Err(Malformed);
    }
    (0..len).try_for_each(|_| number(from).map(drop))?;
    Ok(List { bytes, len })
}

#[cfg(test)]
#[path = "wire/tests.rs"]
mod tests;
