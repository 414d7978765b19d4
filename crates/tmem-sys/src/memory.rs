// SPDX-License-Identifier: Apache-2.0
//! Owns: copies between a buffer and memory of this process that is known by its address only. The kernel makes them, and what
//! cannot be read or written is an error and no signal. Callers: tests of the floors above, which hold no unsafe code. No locks.
//! Law 16: a page that a userfaultfd serves is served, where that serves the kernel.

use crate::errno::Errno;
use crate::syscall::{call, getpid};

/// Reads memory into a buffer.
///
/// # Errors
/// `EFAULT` where any of it cannot be read; the buffer may hold a part then.
pub fn read(addr: usize, into: &mut [u8]) -> Result<(), Errno> {
    transfer(libc::SYS_process_vm_readv, addr, into.as_mut_ptr() as usize, into.len())
}

/// Writes a buffer to memory that nothing in this process but the program's own pointers refers to, as through `/proc/self/mem`.
///
/// # Errors
/// `EFAULT` where any of it cannot be written; a part may be then.
pub fn write(addr: usize, from: &[u8]) -> Result<(), Errno> {
    transfer(libc::SYS_process_vm_writev, addr, from.as_ptr() as usize, from.len())
}

fn transfer(nr: libc::c_long, addr: usize, buffer: usize, len: usize) -> Result<(), Errno> {
    let (local, remote) = ([buffer, len], [addr, len]);
    let args = [getpid() as usize, local.as_ptr() as usize, 1, remote.as_ptr() as usize, 1, 0];
    // SAFETY: the buffer is live and of that length in both callers, written to by the first only, and one vector describes
    // each side. What is at the other side the kernel finds out.
    match unsafe { call(nr, args) } {
        Ok(done) if done == len => Ok(()),
        Ok(_) => Err(Errno::EFAULT),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mapping;
    use crate::page::PAGE_SIZE;

    #[test]
    fn what_may_not_be_touched_is_an_error() {
        let map = Mapping::closed(2 * PAGE_SIZE, PAGE_SIZE).unwrap();
        map.set_open(0..PAGE_SIZE, true).unwrap();
        let mut found = [1; 8];
        write(map.addr() + PAGE_SIZE - 4, &[7; 4]).unwrap();
        read(map.addr() + PAGE_SIZE - 8, &mut found).unwrap();
        assert_eq!(found, [0, 0, 0, 0, 7, 7, 7, 7]);
        assert_eq!(read(map.addr() + PAGE_SIZE - 4, &mut found), Err(Errno::EFAULT));
        assert_eq!(write(map.addr() + PAGE_SIZE, &found), Err(Errno::EFAULT));
    }
}
