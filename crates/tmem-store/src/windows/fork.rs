// SPDX-License-Identifier: Apache-2.0
//! Owns: windows around a fork. Callers: `vacate`, for the handlers of whoever owns the store. Locks: the store's, held across the
//! fork. Law 15: the child sees what was stored, in memory of its own; it has no leases.

use crate::class::CHUNK;
use crate::slab::Slab;
use tmem_sys::Errno;
use tmem_sys::overlay::UNIT;

impl Slab {
    /// Before a fork: whether there is anything that the child has to copy.
    pub fn before_fork(&mut self) -> bool {
        let Some(windows) = &self.windows else { return false };
        if let Some(mailbox) = &windows.mailbox {
            mailbox.before_fork();
        }
        self.extents().next().is_some()
    }

    /// Has the child inherit the windows, or no more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_inherited(&mut self, yes: bool) -> Result<(), Errno> {
        let Some(windows) = &mut self.windows else { return Ok(()) };
        windows.inherited = yes;
        let leased = windows.all.iter().filter(|w| w.extent.is_some());
        leased.into_iter().try_for_each(|w| self.bytes.set_inherited(w.bytes(), yes))
    }

    pub fn after_fork_in_parent(&mut self) {
        if let Some(mailbox) = self.mailbox() {
            mailbox.after_fork_in_parent();
        }
    }

    /// In the child: what is in the windows becomes its own, and is only emptied. It has no leases.
    ///
    /// # Errors
    /// `ENOMEM`; `EFAULT` where the windows were not inherited.
    pub fn after_fork_in_child(&mut self) -> Result<(), Errno> {
        let Slab { windows, chunks, bytes, .. } = self;
        let Some(windows) = windows else { return Ok(()) };
        if let Some(mailbox) = &windows.mailbox {
            mailbox.after_fork_in_child();
        }
        for number in (0..windows.all.len()).rev() {
            let window = &mut windows.all[number];
            let (part, places) = (window.bytes(), window.chunks.clone());
            let Some(extent) = window.extent.take() else { continue };
            drop(extent);
            windows.leased -= part.len() / UNIT;
            let window = &windows.all[number];
            if window.used == 0 {
                bytes.uncover(part)?;
            } else if windows.inherited {
                let used = places.clone().filter(|chunk| chunks.get(*chunk).is_some());
                bytes.make_own(part, used.map(|chunk| chunk * CHUNK..(chunk + 1) * CHUNK))?;
            } else {
                return Err(Errno::EFAULT);
            }
            let empty = window.used == 0;
            places.for_each(|chunk| chunks.drain(chunk, true));
            if empty {
                windows.remove(number);
            }
        }
        windows.inherited = false;
        Ok(())
    }
}
