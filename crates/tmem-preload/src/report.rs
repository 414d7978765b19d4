// SPDX-License-Identifier: Apache-2.0
//! Owns: what is told when the first program of a tree ends: on standard error, and as JSON in a file. Caller: `_exit`, which every
//! orderly end comes to. Locks: those of the ledger. A program that is killed tells nothing.

use crate::door;
use crate::ledger;
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::shared::{Head, Of};
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use tmem_sys::Errno;
use tmem_sys::entry::Entry;
use tmem_sys::kept;
use tmem_sys::signals::Blocked;
use tmem_sys::syscall::{call, close, getpid, write_stderr};
use tmem_sys::time::now_ns;

/// The process that this library is in: a child of `vfork` that ends is another, and has nothing to tell.
static PROCESS: AtomicI32 = AtomicI32::new(0);
static BEGAN_NS: AtomicU64 = AtomicU64::new(0);

/// Where standard error leads as the program begins, if a report is asked for: many programs close theirs as they end.
static ERRORS: AtomicI32 = AtomicI32::new(-1);

/// The program begins.
pub fn begin(settings: &Settings) {
    PROCESS.store(getpid(), Ordering::Relaxed);
    BEGAN_NS.store(now_ns(), Ordering::Relaxed);
    if settings.report && settings.root == getpid() {
        ERRORS.store(kept::duplicate(libc::STDERR_FILENO).unwrap_or(-1), Ordering::Relaxed);
    }
}

/// In a forked child: it tells nothing, and whoever reads what its parent writes does not wait for it.
pub fn forked() {
    PROCESS.store(getpid(), Ordering::Relaxed);
    let errors = ERRORS.swap(-1, Ordering::Relaxed);
    if errors >= 0 {
        kept::close(errors);
    }
}

/// The process is about to end.
pub fn at_exit() {
    let pid = getpid();
    let Some(settings) = door::settings() else { return };
    if PROCESS.load(Ordering::Relaxed) != pid {
        return;
    }
    let _blocked = Blocked::new();
    ledger::look_at_exit();
    let is_root = ledger::is_root(settings);
    if is_root {
        let told = Told::gather(settings);
        if settings.report {
            let text = told.text();
            let errors = ERRORS.load(Ordering::Relaxed);
            if errors < 0 || write_all(errors as usize, text.as_bytes()).is_err() {
                write_stderr(&text);
            }
        }
        if let Some(file) = &settings.json
            && let Err(e) = write_file(file.as_os_str().as_bytes(), told.json().as_bytes())
        {
            door::tell("the report could not be written", e.name());
        }
    }
    ledger::leave();
    if is_root {
        ledger::remove(settings);
    }
}

/// What is told. Sizes in bytes; of the whole tree where nothing else is said.
struct Told {
    program: String,
    pid: i32,
    ram: u64,
    wall_s: f64,
    processes: u64,
    /// The processes' peaks, added.
    managed: u64,
    unmanaged: u64,
    resident: u64,
    /// The most that all used at a time, as far as was looked.
    peak_tree: u64,
    faults: u64,
    evictions: u64,
    stall_s: f64,
    swap_used: u64,
    /// The processes' peaks, added; nothing where there was no daemon.
    leased: u64,
    ratio: f64,
    entry: &'static str,
    /// Calls that were refused for the budget's sake, by name; none that were not.
    refusals: Vec<(&'static str, u64)>,
}

impl Told {
    fn gather(settings: &Settings) -> Told {
        let (packed, into) = (ledger::totals(Of::Packed), ledger::totals(Of::PackedInto));
        Told {
            program: program(),
            pid: getpid(),
            ram: settings.ram as u64,
            wall_s: (now_ns() - BEGAN_NS.load(Ordering::Relaxed)) as f64 / 1e9,
            processes: ledger::head(Head::Joined),
            managed: ledger::totals(Of::Managed),
            unmanaged: ledger::totals(Of::Unmanaged),
            resident: ledger::totals(Of::Resident),
            peak_tree: ledger::head(Head::Peak),
            faults: ledger::totals(Of::Faults),
            evictions: ledger::totals(Of::Evictions),
            stall_s: ledger::totals(Of::FaultNs) as f64 / 1e9,
            swap_used: ledger::totals(Of::SwapUsed),
            leased: ledger::totals(Of::Leased),
            ratio: if into == 0 { 0.0 } else { packed as f64 / into as f64 },
            entry: [Entry::Signal, Entry::Thread]
                .into_iter()
                .find(|&entry| entry as u64 + 1 == ledger::head(Head::Entry))
                .map_or("none", Entry::name),
            refusals: Refusal::ALL
                .into_iter()
                .map(|what| (what.name(), ledger::refusals(what)))
                .filter(|&(_, times)| times > 0)
                .collect(),
        }
    }

    /// Of the anonymous memory that was written, the part that is managed.
    fn share(&self) -> f64 {
        let whole = self.managed + self.unmanaged;
        if whole == 0 { 0.0 } else { self.managed as f64 / whole as f64 }
    }

    fn text(&self) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let mut text = String::new();
        let _ = writeln!(
            text,
            "tmem: {}: {:.1} MiB managed at the peak, {:.0} % of its anonymous memory, in a budget of {:.1} MiB; {} process(es) paged",
            self.program,
            mib(self.managed),
            self.share() * 100.0,
            mib(self.ram),
            self.processes
        );
        let _ = writeln!(
            text,
            "tmem: {} faults, {} evictions, {:.2} s of {:.2} s stalled; store {:.1} to 1, swap {:.1} MiB; most in use {:.1} MiB; entry {}",
            self.faults,
            self.evictions,
            self.stall_s,
            self.wall_s,
            self.ratio,
            mib(self.swap_used),
            mib(self.peak_tree),
            self.entry
        );
        if self.leased > 0 {
            let _ = writeln!(text, "tmem: {:.1} MiB on lease from the daemon at the peak", mib(self.leased));
        }
        for (name, times) in &self.refusals {
            let _ =
                writeln!(text, "tmem: {name} was refused {times} time(s): the RAM budget has no room for it");
        }
        text
    }

    /// The refusals as a JSON object.
    fn refusals_json(&self) -> String {
        let each: Vec<_> = self.refusals.iter().map(|(name, times)| format!("\"{name}\":{times}")).collect();
        format!("{{{}}}", each.join(","))
    }

    fn json(&self) -> String {
        let mut program = String::new();
        for c in self.program.chars() {
            match c {
                '"' | '\\' => program.extend(['\\', c]),
                c if c < ' ' => drop(write!(program, "\\u{:04x}", c as u32)),
                c => program.push(c),
            }
        }
        format!(
            "{{\"version\":1,\"program\":\"{program}\",\"pid\":{},\"ram\":{},\"wall_s\":{:.6},\"processes\":{},\
             \"peak_managed\":{},\"peak_resident\":{},\"peak_tree\":{},\"ratio\":{:.4},\"swap_used\":{},\"leased\":{},\"faults\":{},\
             \"evictions\":{},\"stall_s\":{:.6},\"managed\":{},\"unmanaged\":{},\"share\":{:.4},\"entry\":\"{}\",\"refusals\":{}}}\n",
            self.pid,
            self.ram,
            self.wall_s,
            self.processes,
            self.managed,
            self.resident,
            self.peak_tree,
            self.ratio,
            self.swap_used,
            self.leased,
            self.faults,
            self.evictions,
            self.stall_s,
            self.managed,
            self.unmanaged,
            self.share(),
            self.entry,
            self.refusals_json()
        )
    }
}

/// The program's name, as the kernel has it.
fn program() -> String {
    let mut text = [0u8; 256];
    let name = c"/proc/self/exe";
    let at = libc::AT_FDCWD as usize;
    // SAFETY: a live string, and a live slice of that length.
    let got = unsafe {
        call(libc::SYS_readlinkat, [at, name.as_ptr() as usize, text.as_mut_ptr() as usize, text.len()])
    };
    let whole = String::from_utf8_lossy(&text[..got.unwrap_or(0)]);
    whole.rsplit('/').next().unwrap_or_default().to_owned()
}

fn write_file(path: &[u8], bytes: &[u8]) -> Result<(), Errno> {
    let name = std::ffi::CString::new(path).map_err(|_| Errno::EINVAL)?;
    let flags = (libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC) as usize;
    let at = libc::AT_FDCWD as usize;
    // SAFETY: a live string.
    let fd = unsafe { call(libc::SYS_openat, [at, name.as_ptr() as usize, flags, 0o666])? };
    let done = write_all(fd, bytes);
    close(fd as i32);
    done
}

fn write_all(fd: usize, bytes: &[u8]) -> Result<(), Errno> {
    let mut rest = bytes;
    while !rest.is_empty() {
        // SAFETY: a live slice.
        match unsafe { call(libc::SYS_write, [fd, rest.as_ptr() as usize, rest.len()]) } {
            Ok(n) => rest = &rest[n.min(rest.len())..],
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
