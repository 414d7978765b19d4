// SPDX-License-Identifier: Apache-2.0
//! Owns: one end of a named `SOCK_SEQPACKET` socket, over which whole messages go with descriptors, and the bell that ends a wait
//! on it. Callers: the guests' connection, and tests that play a host. Locks: the caller's. No heap, system calls through the stub.
//!
//! Law 12: a program that closes what it did not open gives the number to another file; nothing is sent there, nothing of it is
//! read or closed. A descriptor that arrives has an owner at once, so that none is left open whatever becomes of its message.

use crate::errno::Errno;
use crate::file::{Identity, identity};
use crate::kept;
use crate::lease::LeaseFd;
use crate::syscall::{call, close};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The longest message.
pub const MOST_BYTES: usize = 1 << 16;
/// The most descriptors that come with a message.
pub const MOST_FDS: usize = 32;

const FD: usize = size_of::<i32>();
/// What the kernel puts before the descriptors, a multiple of a word.
const HEAD: usize = size_of::<libc::cmsghdr>();
const CONTROL_WORDS: usize = (HEAD + MOST_FDS * FD) / size_of::<usize>();

/// Who is at the other end, as the kernel saw it when the two were connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

/// Descriptors that came with a message.
#[derive(Debug, Default)]
pub struct Received([Option<LeaseFd>; MOST_FDS]);

impl Received {
    pub fn len(&self) -> usize {
        self.0.iter().flatten().count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The descriptor at a place of the message, to its new owner.
    pub fn take(&mut self, at: usize) -> Option<LeaseFd> {
        self.0.get_mut(at)?.take()
    }

    /// Closes all that nobody took.
    pub fn clear(&mut self) {
        self.0.iter_mut().for_each(|place| *place = None);
    }
}

/// What a message was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Of the message.
    pub bytes: usize,
    /// Descriptors did not all come: this process may open no more.
    pub is_short_of_fds: bool,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// There is a message, or the end of them.
    pub readable: bool,
    pub rung: bool,
}

/// One end, closed on drop. No call but [`wait`] waits.
#[derive(Debug)]
pub struct Link {
    fd: i32,
    identity: Identity,
}

impl Link {
    /// # Errors
    /// `ENOENT`, `ECONNREFUSED`: nobody is there; `EAGAIN`: too many are about to connect; `EACCES`; `EINVAL` for a path of more
    /// than 107 bytes.
    pub fn connect(path: &Path) -> Result<Link, Errno> {
        let (address, len) = address(path)?;
        let link = Link::own(socket()?);
        // SAFETY: a live address of that length.
        unsafe { call(libc::SYS_connect, [link.fd as usize, &raw const address as usize, len]) }?;
        Ok(link)
    }

    fn own(fd: i32) -> Link {
        let fd = kept::own(fd);
        Link { fd, identity: identity(fd) }
    }

    fn checked(&self) -> Result<usize, Errno> {
        if identity(self.fd) == self.identity { Ok(self.fd as usize) } else { Err(Errno::EBADF) }
    }

    /// # Errors
    /// `EBADF` when the program closed the descriptor.
    pub fn peer(&self) -> Result<Peer, Errno> {
        let (mut found, mut len) = ([0u32; 3], size_of::<[u32; 3]>() as u32);
        let (into, len) = (&raw mut found as usize, &raw mut len as usize);
        let args = [self.checked()?, libc::SOL_SOCKET as usize, libc::SO_PEERCRED as usize, into, len];
        // SAFETY: the kernel writes at most the three words, and the length, all of them live.
        unsafe { call(libc::SYS_getsockopt, args) }?;
        Ok(Peer { pid: found[0] as i32, uid: found[1], gid: found[2] })
    }

    /// Sends one message whole, with descriptors that stay the caller's.
    ///
    /// # Errors
    /// `EAGAIN` while the other side takes none; `EPIPE`, `ECONNRESET` when it is gone; `EBADF` when the program closed a
    /// descriptor; `EINVAL` for too much at once.
    pub fn send(&self, message: &[u8], fds: &[i32]) -> Result<(), Errno> {
        if message.is_empty() || message.len() > MOST_BYTES || fds.len() > MOST_FDS {
            return Err(Errno::EINVAL);
        }
        let mut part = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
        let mut control = [0usize; CONTROL_WORDS];
        let mut head = header(&mut part);
        if !fds.is_empty() {
            control[0] = HEAD + size_of_val(fds);
            control[1] = libc::SOL_SOCKET as usize | (libc::SCM_RIGHTS as usize) << 32;
            for (pair, word) in fds.chunks(2).zip(&mut control[2..]) {
                let high = pair.get(1).map_or(0, |&fd| fd as u32 as usize);
                *word = pair[0] as u32 as usize | high << 32;
            }
            head.msg_control = control.as_mut_ptr().cast();
            head.msg_controllen = (HEAD + size_of_val(fds)).next_multiple_of(size_of::<usize>());
        }
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) as usize;
        // SAFETY: the header refers to the live message, which is only read, and to the live control words.
        let sent =
            again(|| unsafe { call(libc::SYS_sendmsg, [self.checked()?, &raw const head as usize, flags]) })?;
        if sent == message.len() { Ok(()) } else { Err(Errno::EIO) }
    }

    /// The next message, and what came with it in `fds`, whose own are closed before.
    ///
    /// # Errors
    /// `EAGAIN` while there is none; `EPIPE` after the last; `EBADMSG` for one that is longer than `into` or brings what nobody
    /// asked for; `EBADF` when the program closed the descriptor.
    pub fn receive(&self, into: &mut [u8], fds: &mut Received) -> Result<Arrival, Errno> {
        fds.clear();
        let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let mut control = [0usize; CONTROL_WORDS];
        let mut head = header(&mut part);
        head.msg_control = control.as_mut_ptr().cast();
        head.msg_controllen = size_of_val(&control);
        let flags = (libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) as usize;
        // SAFETY: the header refers to the live mutable slice and control words, of these lengths.
        let mut once =
            || unsafe { call(libc::SYS_recvmsg, [self.checked()?, &raw mut head as usize, flags]) };
        let bytes = again(|| match once() {
            // The other end went without having read everything, which is told once: what it said before can still be read.
            Err(Errno(libc::ECONNRESET)) => Err(Errno::EINTR),
            got => got,
        })?;
        let is_known = own_all(&control[..head.msg_controllen.min(size_of_val(&control)) / 8], fds);
        if bytes == 0 {
            return Err(Errno(libc::EPIPE));
        }
        if !is_known || head.msg_flags & libc::MSG_TRUNC != 0 {
            return Err(Errno::EBADMSG);
        }
        Ok(Arrival { bytes, is_short_of_fds: head.msg_flags & libc::MSG_CTRUNC != 0 })
    }

    /// The descriptor's number, to be closed in a forked child.
    pub fn raw(&self) -> i32 {
        self.fd
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.checked().is_ok() {
            kept::close(self.fd);
        }
    }
}

/// The user as whom this process acts.
pub fn user() -> u32 {
    // SAFETY: no pointers; never fails.
    unsafe { call(libc::SYS_geteuid, []) }.map_or(u32::MAX, |uid| uid as u32)
}

/// In a forked child: the child's own copy of a link or a bell of that number.
pub fn close_copy(fd: i32) {
    if fd >= 0 && kept::is_kept(fd as usize) {
        kept::close(fd);
    }
}

/// Tries again what a signal interrupted.
fn again(mut attempt: impl FnMut() -> Result<usize, Errno>) -> Result<usize, Errno> {
    loop {
        match attempt() {
            Err(Errno::EINTR) => {}
            answer => return answer,
        }
    }
}

fn header(part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: a structure of plain numbers and pointers.
    let mut head: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    head.msg_iov = part;
    head.msg_iovlen = 1;
    head
}

/// Takes over every descriptor of a control message; false where there is something else in it.
fn own_all(control: &[usize], fds: &mut Received) -> bool {
    let (mut rest, mut places, mut is_known) = (control, fds.0.iter_mut(), true);
    while let [len, what, data @ ..] = rest {
        let words = (len.saturating_sub(HEAD)).div_ceil(size_of::<usize>()).min(data.len());
        if *what == libc::SOL_SOCKET as usize | (libc::SCM_RIGHTS as usize) << 32 {
            let count = len.saturating_sub(HEAD) / FD;
            for n in 0..count.min(words * 2) {
                let fd = (data[n / 2] >> (n % 2 * 32)) as i32;
                match places.next() {
                    Some(place) => *place = Some(LeaseFd::own(fd)),
                    None => close(fd),
                }
            }
        } else {
            is_known = false;
        }
        rest = &data[words..];
    }
    is_known
}

fn socket() -> Result<i32, Errno> {
    let kind = (libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as usize;
    // SAFETY: no pointers.
    unsafe { call(libc::SYS_socket, [libc::AF_UNIX as usize, kind, 0]) }.map(|fd| fd as i32)
}

fn address(path: &Path) -> Result<(libc::sockaddr_un, usize), Errno> {
    // SAFETY: a structure of plain numbers.
    let mut address: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // One byte stays zero: the end of the path.
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(Errno::EINVAL);
    }
    address.sun_path.iter_mut().zip(bytes).for_each(|(place, &byte)| *place = byte as libc::c_char);
    Ok((address, size_of::<libc::sa_family_t>() + bytes.len() + 1))
}

/// Ends a wait on a link from another thread: an event descriptor, closed on drop. Rung by `lease::ring`.
#[derive(Debug)]
pub struct Bell {
    fd: i32,
}

impl Bell {
    /// # Errors
    /// `EMFILE`.
    pub fn new() -> Result<Bell, Errno> {
        let flags = (libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) as usize;
        // SAFETY: no pointers.
        let fd = unsafe { call(libc::SYS_eventfd2, [0, flags]) }?;
        Ok(Bell { fd: kept::own(fd as i32) })
    }

    pub fn raw(&self) -> i32 {
        self.fd
    }

    fn hush(&self) {
        let mut count = 0u64;
        // SAFETY: one live word.
        let _ = unsafe { call(libc::SYS_read, [self.fd as usize, &raw mut count as usize, 8]) };
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        kept::close(self.fd);
    }
}

/// Waits until a message came on the link, or the bell was rung, or for so long.
///
/// # Errors
/// `EBADF` when the program closed the link's descriptor.
pub fn wait(link: Option<&Link>, bell: &Bell, ms: u64) -> Result<Ready, Errno> {
    // One without a number is passed over.
    let on = link.map_or(Ok(-1), |link| link.checked().map(|fd| fd as i32))?;
    let [on, rung] = poll([(on, libc::POLLIN), (bell.fd, libc::POLLIN)], ms)?;
    if rung {
        bell.hush();
    }
    Ok(Ready { readable: on, rung })
}

/// Waits until the link takes a message, or its other end is gone, or for so long; whether it does.
///
/// # Errors
/// As [`wait`].
pub fn wait_writable(link: &Link, ms: u64) -> Result<bool, Errno> {
    let on = link.checked()? as i32;
    Ok(poll([(on, libc::POLLOUT), (-1, 0)], ms)?[0])
}

/// Which of two descriptors has news of this kind, or its end.
fn poll(asked: [(i32, libc::c_short); 2], ms: u64) -> Result<[bool; 2], Errno> {
    let mut asked = asked.map(|(fd, events)| libc::pollfd { fd, events, revents: 0 });
    let ms = ms.min(i32::MAX as u64) as usize;
    // SAFETY: the two structures outlive the call.
    match unsafe { call(libc::SYS_poll, [asked.as_mut_ptr() as usize, asked.len(), ms]) } {
        Err(Errno::EINTR) => return Ok([false; 2]),
        answer => answer?,
    };
    Ok(asked.map(|one| one.revents != 0))
}

/// A socket that others connect to; its path stays where it is.
#[derive(Debug)]
pub struct Listener {
    link: Link,
}

impl Listener {
    /// # Errors
    /// `EADDRINUSE` where the path exists; `EINVAL` for one of more than 107 bytes; the kernel's.
    pub fn bind(path: &Path) -> Result<Listener, Errno> {
        let (address, len) = address(path)?;
        let link = Link::own(socket()?);
        // SAFETY: a live address of that length; no pointers in the other call.
        unsafe {
            call(libc::SYS_bind, [link.fd as usize, &raw const address as usize, len])?;
            call(libc::SYS_listen, [link.fd as usize, 16])?;
        }
        Ok(Listener { link })
    }

    /// The next who connected.
    ///
    /// # Errors
    /// `EAGAIN` while there is none.
    pub fn accept(&self) -> Result<Link, Errno> {
        let flags = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as usize;
        // SAFETY: no address is asked for.
        let made = again(|| unsafe { call(libc::SYS_accept4, [self.link.checked()?, 0, 0, flags]) })?;
        Ok(Link::own(made as i32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::ring;
    use crate::syscall::getpid;

    fn pair(name: &str) -> (Link, Link) {
        let path = std::env::temp_dir().join(format!("tmem-link-{name}-{}", getpid()));
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(listener.accept().unwrap_err(), Errno::EAGAIN);
        let near = Link::connect(&path).unwrap();
        let far = listener.accept().unwrap();
        std::fs::remove_file(&path).unwrap();
        (near, far)
    }

    #[test]
    fn messages_arrive_whole_with_their_descriptors() {
        let (near, far) = pair("whole");
        let peer = near.peer().unwrap();
        assert_eq!((peer.pid, peer.uid), (getpid(), user()));
        let (mut into, mut fds) = ([0; 64], Received::default());
        assert_eq!(far.receive(&mut into, &mut fds), Err(Errno::EAGAIN));
        let memory: Vec<_> = (0..MOST_FDS).map(|_| LeaseFd::new(4096).unwrap()).collect();
        for count in [0, 1, 2, 3, MOST_FDS] {
            for (n, one) in memory.iter().enumerate() {
                one.write_at(0, &[(n + count) as u8]).unwrap();
            }
            let raw: Vec<_> = memory[..count].iter().map(LeaseFd::raw).collect();
            near.send(b"so many", &raw).unwrap();
            let got = far.receive(&mut into, &mut fds).unwrap();
            assert_eq!((&into[..got.bytes], got.is_short_of_fds, fds.len()), (&b"so many"[..], false, count));
            for n in 0..count {
                let mut byte = [0];
                fds.take(n).unwrap().read_at(0, &mut byte).unwrap();
                assert_eq!(byte[0], (n + count) as u8);
            }
            assert!(fds.is_empty() && fds.take(MOST_FDS).is_none());
        }
        assert_eq!(near.send(b"", &[]), Err(Errno::EINVAL));
        assert_eq!(near.send(b"x", &[0; MOST_FDS + 1]), Err(Errno::EINVAL));
        near.send(&[1; 65], &[memory[0].raw()]).unwrap();
        assert_eq!(far.receive(&mut into, &mut fds), Err(Errno::EBADMSG), "cut off, and told");
        drop(near);
        assert_eq!(far.receive(&mut into, &mut fds), Err(Errno(libc::EPIPE)));
        assert_eq!(far.send(b"x", &[]), Err(Errno(libc::EPIPE)));
    }

    #[test]
    fn what_was_said_before_the_end_is_heard_whatever_was_not() {
        let (near, far) = pair("end");
        near.send(b"never read", &[]).unwrap();
        far.send(b"last words", &[]).unwrap();
        drop(far);
        let (mut into, mut fds) = ([0; 64], Received::default());
        assert_eq!(near.receive(&mut into, &mut fds).map(|arrival| arrival.bytes), Ok(10));
        assert_eq!(near.receive(&mut into, &mut fds), Err(Errno(libc::EPIPE)));
    }

    #[test]
    fn a_wait_ends_by_a_message_the_bell_or_time() {
        let (near, far) = pair("wait");
        let bell = Bell::new().unwrap();
        assert_eq!(wait(Some(&near), &bell, 5), Ok(Ready::default()));
        ring(bell.raw());
        ring(bell.raw());
        assert!(wait(Some(&near), &bell, 1000).unwrap().rung);
        assert!(!wait(None, &bell, 0).unwrap().rung, "once");
        far.send(b"x", &[]).unwrap();
        assert_eq!(wait(Some(&near), &bell, 1000), Ok(Ready { readable: true, rung: false }));
        assert_eq!(wait_writable(&near, 1000), Ok(true));
        while near.send(&[0; 4096], &[]).is_ok() {}
        assert_eq!(wait_writable(&near, 5), Ok(false));
        drop(far);
        assert!(wait(Some(&near), &bell, 1000).unwrap().readable, "the end is news, too");
    }

    #[test]
    fn nobody_there_is_an_error_at_once() {
        let nowhere = Path::new("/nonexistent/tmem.sock");
        assert_eq!(Link::connect(nowhere).unwrap_err(), Errno::ENOENT);
        assert_eq!(Link::connect(Path::new(&"x".repeat(108))).unwrap_err(), Errno::EINVAL);
        assert_eq!(Link::connect(Path::new("")).unwrap_err(), Errno::EINVAL);
    }
}
