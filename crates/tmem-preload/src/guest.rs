// SPDX-License-Identifier: Apache-2.0
//! Owns: this process as a guest of a daemon, where `tmem run --host` says so: the pager's store takes memory on lease beside the
//! budget. Callers: `door` as the pager is made, the ledger's thread. No locks of its own.
//! Law 16: the connection's thread hands the kernel no memory but its own.

use crate::door::{self, Door};
use crate::procfs;
use crate::settings::Settings;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tmem_guest::{Client, Config, Standing, Tenant, When};
use tmem_pager::Backend;
use tmem_store::lease::{Kind, Mailbox};
use tmem_sys::Errno;
use tmem_sys::background::unknown_to_libc;
use tmem_sys::syscall::call;

const MIB: usize = 1 << 20;
/// How long a page waits for a lease that has nowhere else to go.
const PATIENCE_MS: u64 = 500;

/// The process's connection; in a forked child it has a thread of its own.
static CLIENT: OnceLock<Client> = OnceLock::new();

/// Where pages go before the swap device. Leases take address space: as much as the machine has RAM, or a quarter of what this
/// process may map.
pub fn backend(settings: &Settings, may_map: usize) -> Backend {
    match settings.host {
        Some(_) => Backend::Leasing { reserve: machine_ram().min(may_map / 4) & !(MIB - 1) },
        None => Backend::Store,
    }
}

/// The pager was made: its store may ask for memory from now on. It is connected when it first does.
pub fn begin(settings: &Settings, door: &'static Door) {
    let Some(path) = &settings.host else { return };
    let config = Config {
        path: path.clone(),
        name: name(),
        host_uid: settings.host_uid,
        when: When::Wanted,
        maker: unknown_to_libc,
        ends_with_stores: false,
    };
    if let Err(e) = connect(Client::new(config, None), door) {
        door::tell("this process takes no memory on lease", e.name());
    }
}

fn connect(client: Client, door: &'static Door) -> Result<(), Errno> {
    let mailbox = Mailbox::new(Kind::Persistent)?;
    // A pager of this process never ends.
    let tenant = Arc::new(Tenant(|| Some(&door.pager)));
    if door::settings().is_some_and(|s| s.swap.is_none()) {
        // Pages have nowhere else to go.
        mailbox.set_patience(PATIENCE_MS);
    }
    client.attach(Arc::clone(&mailbox), tenant, 0)?;
    client.start()?;
    let _ = door.pager.set_mailbox(Some(mailbox));
    let _ = CLIENT.set(client);
    Ok(())
}

/// Tells once why there are no leases where that is for somebody to mend.
pub fn look() {
    static TOLD: AtomicBool = AtomicBool::new(false);
    let Some(client) = CLIENT.get() else { return };
    let (what, why) = match client.standing() {
        Standing::Distrusted => {
            let uid = client.status().host_uid.unwrap_or_default();
            let what = "no memory is taken on lease from a daemon that this user does not trust";
            (what, format!("it runs as user {uid}; set TMEM_HOST_UID={uid} if that is meant"))
        }
        Standing::TurnedAway => ("the daemon turned this process away", client.status().text),
        Standing::Garbled => {
            ("the daemon is not understood", "start one of the same version of tmem".to_owned())
        }
        _ => return,
    };
    if !TOLD.swap(true, Ordering::Relaxed) {
        door::tell(what, &why);
    }
}

/// What the kernel calls the program.
fn name() -> String {
    let mut text = [0u8; 64];
    let len = procfs::read(c"/proc/self/comm", &mut text).unwrap_or(0);
    String::from_utf8_lossy(&text[..len]).trim_end().to_owned()
}

/// Bytes of RAM of the machine.
fn machine_ram() -> usize {
    // SAFETY: a structure of plain numbers.
    let mut found: libc::sysinfo = unsafe { core::mem::zeroed() };
    // SAFETY: the kernel writes the structure, which is live.
    let got = unsafe { call(libc::SYS_sysinfo, [&raw mut found as usize]) };
    got.map_or(0, |_| found.totalram as usize * found.mem_unit as usize)
}
