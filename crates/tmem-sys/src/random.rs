// SPDX-License-Identifier: Apache-2.0
//! Owns: secrets of the process, from the kernel.

use crate::errno::Errno;
use crate::syscall::call;

/// Fills `out` with random bytes.
///
/// # Errors
/// The kernel's, on systems without `getrandom`.
pub fn random_bytes(out: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < out.len() {
        let rest = &mut out[done..];
        // SAFETY: the pointer and length are those of a live mutable slice.
        match unsafe { call(libc::SYS_getrandom, [rest.as_mut_ptr() as usize, rest.len(), 0]) } {
            Ok(n) => done += n,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
