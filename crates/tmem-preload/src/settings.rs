// SPDX-License-Identifier: Apache-2.0
//! Owns: what `tmem run` tells the door, in the one variable of the environment that reaches every program of the tree.
//! Caller: `start`, once, before the program's first instruction. Pure but for the environment it is handed.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use tmem_pager::Choice;
use tmem_sys::entry::Entry;

/// The variable: `key=value` joined by `;`, values percent-encoded.
pub const VARIABLE: &[u8] = b"TMEM_RUN=";

/// The only form of the variable there is.
const VERSION: &[u8] = b"1";

/// What the program may use, and what is told of it afterwards.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The budget of the whole tree, in bytes.
    pub ram: usize,
    /// Directory and size in bytes of each process's swap device.
    pub swap: Option<(PathBuf, u64)>,
    pub faults: Choice,
    /// A report on standard error when the first program ends.
    pub report: bool,
    /// A report in this file.
    pub json: Option<PathBuf>,
    /// The socket of a daemon that leases memory.
    pub host: Option<PathBuf>,
    /// A user beside root and this one that the daemon may run as.
    pub host_uid: Option<u32>,
    /// The budget's ledger.
    pub ledger: PathBuf,
    /// The first program's process.
    pub root: i32,
}

impl Settings {
    /// Reads the variable's value; `None` where it is of another form, or a part is missing or makes no sense.
    pub fn parse(value: &[u8]) -> Option<Settings> {
        let field = |key: &str| {
            value.split(|&b| b == b';').find_map(|pair| pair.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
        };
        let number = |key: &str| -> Option<u64> { std::str::from_utf8(field(key)?).ok()?.parse().ok() };
        if field("v")? != VERSION {
            return None;
        }
        let swap = match field("swap")? {
            b"none" => None,
            dir => Some((path(dir)?, number("swap_max")?)),
        };
        let faults = match field("faults")? {
            b"auto" => Choice::Auto,
            b"signal" => Choice::Only(Entry::Signal),
            b"thread" => Choice::Only(Entry::Thread),
            _ => return None,
        };
        Some(Settings {
            ram: usize::try_from(number("ram")?).ok()?,
            swap,
            faults,
            report: field("report")? == b"1",
            json: match field("json") {
                Some(file) => Some(path(file)?),
                None => None,
            },
            host: match field("host") {
                Some(socket) => Some(path(socket)?),
                None => None,
            },
            host_uid: match field("host_uid") {
                Some(_) => Some(u32::try_from(number("host_uid")?).ok()?),
                None => None,
            },
            ledger: path(field("ledger")?)?,
            root: i32::try_from(number("root")?).ok()?,
        })
    }
}

/// A percent-encoded path.
fn path(text: &[u8]) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let code = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(code, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    (!bytes.is_empty()).then(|| PathBuf::from(OsString::from_vec(bytes)))
}
