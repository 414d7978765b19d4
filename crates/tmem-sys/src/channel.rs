// SPDX-License-Identifier: Apache-2.0
//! Owns: one end of a `SOCK_SEQPACKET` pair to another process: whole messages, a limit on every wait. Callers: the store's
//! process backend, on the path of a page: no heap, system calls through the stub. Locks: the caller's.
//! Law 12: a program that closes what it did not open gives the number to another file; nothing is sent there.

use crate::errno::Errno;
use crate::kept;
use crate::syscall::{call, close};
use crate::time::now_ns;

/// The duplicate gets a number above those that programs use by hand.
const LOWEST: usize = 64;

/// An own descriptor of the socket, closed on drop.
#[derive(Debug)]
pub struct Channel {
    fd: i32,
    limit_ns: u64,
    identity: (u64, u64),
}

impl Channel {
    /// A descriptor of its own for the socket `fd`, which stays the caller's. No call waits longer than `limit_ms`.
    ///
    /// # Errors
    /// `EBADF`, `EMFILE`, `ENOTSOCK`.
    pub fn new(fd: i32, limit_ms: u64) -> Result<Channel, Errno> {
        // SAFETY: no pointers.
        let own =
            unsafe { call(libc::SYS_fcntl, [fd as usize, libc::F_DUPFD_CLOEXEC as usize, LOWEST]) }? as i32;
        kept::keep(own);
        let limit_ms = limit_ms.max(1);
        let channel = Channel { fd: own, limit_ns: limit_ms * 1_000_000, identity: identity(own)? };
        let limit =
            libc::timeval { tv_sec: (limit_ms / 1000) as i64, tv_usec: (limit_ms % 1000 * 1000) as i64 };
        for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
            let at = &raw const limit as usize;
            let args =
                [own as usize, libc::SOL_SOCKET as usize, option as usize, at, size_of::<libc::timeval>()];
            // SAFETY: the kernel reads one live `timeval`.
            unsafe { call(libc::SYS_setsockopt, args) }?;
        }
        Ok(channel)
    }

    /// Sends one message whole.
    ///
    /// # Errors
    /// `EAGAIN` when the other side took nothing for the limit; `EPIPE` when it is gone; `EBADF` when the program closed
    /// the descriptor.
    pub fn send(&self, message: &[u8]) -> Result<(), Errno> {
        let args =
            [self.checked()?, message.as_ptr() as usize, message.len(), libc::MSG_NOSIGNAL as usize, 0, 0];
        // SAFETY: a live slice; no address.
        let sent = self.until_limit(|| unsafe { call(libc::SYS_sendto, args) })?;
        if sent == message.len() { Ok(()) } else { Err(Errno::EIO) }
    }

    /// Waits for one message; its length. What does not fit is cut off and makes the answer longer than `into`.
    ///
    /// # Errors
    /// `EAGAIN` when none came for the limit; `EPIPE` when the other side is gone; `EBADF` as for `send`.
    pub fn receive(&self, into: &mut [u8]) -> Result<usize, Errno> {
        let args = [self.checked()?, into.as_mut_ptr() as usize, into.len(), libc::MSG_TRUNC as usize, 0, 0];
        // SAFETY: a live mutable slice; no address is asked for.
        match self.until_limit(|| unsafe { call(libc::SYS_recvfrom, args) })? {
            0 => Err(Errno(libc::EPIPE)),
            n => Ok(n),
        }
    }

    /// Tries again what a signal interrupted, but not past the limit: a profiler's timer must not make the wait endless.
    fn until_limit(&self, mut attempt: impl FnMut() -> Result<usize, Errno>) -> Result<usize, Errno> {
        let begin = now_ns();
        loop {
            match attempt() {
                Err(Errno::EINTR) if now_ns() - begin < self.limit_ns => {}
                Err(Errno::EINTR) => return Err(Errno::EAGAIN),
                answer => return answer,
            }
        }
    }

    fn checked(&self) -> Result<usize, Errno> {
        if identity(self.fd)? == self.identity { Ok(self.fd as usize) } else { Err(Errno::EBADF) }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if self.checked().is_ok() {
            kept::close(self.fd);
        }
    }
}

/// Sockets have inode numbers of their own, which no file has that is open at the same time.
fn identity(fd: i32) -> Result<(u64, u64), Errno> {
    let mut found = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the structure, of plain numbers and zeroed, outlives the call.
    let found = unsafe {
        call(libc::SYS_fstat, [fd as usize, found.as_mut_ptr() as usize])?;
        found.assume_init()
    };
    Ok((found.st_dev, found.st_ino))
}

/// A connected pair, for whoever needs both ends in one process.
///
/// # Errors
/// `EMFILE`.
pub fn pair() -> Result<[i32; 2], Errno> {
    let mut fds = [0i32; 2];
    let kind = (libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC) as usize;
    // SAFETY: the kernel writes two descriptors into a live array.
    unsafe { call(libc::SYS_socketpair, [libc::AF_UNIX as usize, kind, 0, fds.as_mut_ptr() as usize]) }?;
    Ok(fds)
}

/// Closes an end of a [`pair`].
pub fn close_end(fd: i32) {
    close(fd);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_no_wait_is_endless() {
        let [a, b] = pair().unwrap();
        let (left, right) = (Channel::new(a, 20).unwrap(), Channel::new(b, 20).unwrap());
        let mut into = [0; 8];
        assert_eq!(right.receive(&mut into), Err(Errno::EAGAIN));
        left.send(b"one").unwrap();
        left.send(b"and twelve").unwrap();
        assert_eq!(right.receive(&mut into), Ok(3));
        assert_eq!(&into[..3], b"one");
        assert_eq!(right.receive(&mut into), Ok(10), "cut off, and told");
        close_end(a);
        drop(left);
        assert_eq!(right.receive(&mut into), Err(Errno(libc::EPIPE)));
        assert_eq!(right.send(b"x"), Err(Errno(libc::EPIPE)));
        close_end(b);
    }

    #[test]
    fn nothing_is_sent_to_a_file_that_took_the_number() {
        let [a, b] = pair().unwrap();
        let channel = Channel::new(a, 20).unwrap();
        let mut other = [0i32; 2];
        // SAFETY: a live array; the number of the channel's socket is given to a pipe on purpose.
        unsafe {
            assert_eq!(libc::pipe(other.as_mut_ptr()), 0);
            assert_eq!(libc::dup2(other[1], channel.fd), channel.fd);
        }
        assert_eq!(channel.send(b"page"), Err(Errno::EBADF));
        let taken = channel.fd;
        drop(channel);
        // SAFETY: no pointers; closes what was opened here, still open since the channel let the number be.
        unsafe {
            assert_eq!(libc::close(taken), 0);
            libc::close(other[0]);
            libc::close(other[1]);
        }
        close_end(a);
        close_end(b);
    }
}
