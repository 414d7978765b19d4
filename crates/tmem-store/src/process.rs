// SPDX-License-Identifier: Apache-2.0
//! Owns: the backend whose pages are in a process of its own, at the other end of a channel: how questions and answers look,
//! and what this side keeps of each page. Callers: the frontswap hook, on the path of a page: no heap. Locks: the caller's.
//! Laws: 12, a page leaves this process's private memory, so its checksum stays here, keyed with a secret; 15, a forked child
//! does not talk on its parent's channel; 17, every wait has a limit, and a process that passed it once is never asked again.

use crate::areas::Areas;
use crate::ops::{BackendOps, Corrupt, Loaded, Outcome, Reason};
use crate::page_bytes;
use tmem_sys::channel::Channel;
use tmem_sys::syscall::{stderr_has_room, write_stderr};
use tmem_sys::{Errno, PAGE_SIZE, Page, Table};
use xxhash_rust::xxh3::xxh3_64_with_secret;

/// verb u32, area u32, page u64, number u64; a page follows with a store.
pub const QUESTION: usize = 24;
/// number u64, code u32, unused u32; a page follows with a load that hit.
pub const ANSWER: usize = 16;
const LONGEST: usize = QUESTION + PAGE_SIZE;
const SECRET_LEN: usize = 192;

/// The verbs on the wire. Only store and load are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verb {
    Init = 0,
    Store = 1,
    Load = 2,
    InvalidatePage = 3,
    InvalidateArea = 4,
}

/// The code of a load that missed; other codes than this and 0 say that the backend failed.
pub const MISS: u32 = 254;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Alive,
    Gone,
    /// This is a forked child, and the process is its parent's.
    NotInherited,
}

pub struct ProcessBackend {
    channel: Option<Channel>,
    reach: Reach,
    areas: Areas,
    /// The checksum of each page over there; 0 for none.
    sums: Table<u64>,
    held: usize,
    /// One past the highest place of `sums` that was written.
    top: usize,
    number: u64,
    message: Box<[u8; LONGEST]>,
    secret: Box<[u8; SECRET_LEN]>,
}

impl ProcessBackend {
    /// A backend at the other end of the socket `fd`, which stays the caller's. `limit_ms` is the longest wait.
    ///
    /// # Errors
    /// The kernel's, for the descriptor; `ENOMEM` when the address space cannot hold `max_pages` checksums.
    pub fn new(fd: i32, limit_ms: u64, max_pages: usize) -> Result<ProcessBackend, Errno> {
        let mut secret = Box::new([0; SECRET_LEN]);
        tmem_sys::random::random_bytes(&mut secret[..])?;
        Ok(ProcessBackend {
            channel: Some(Channel::new(fd, limit_ms)?),
            reach: Reach::Alive,
            areas: Areas::new(max_pages),
            sums: Table::new(max_pages)?,
            held: 0,
            top: 0,
            number: 0,
            message: Box::new([0; LONGEST]),
            secret,
        })
    }

    /// Whether the process still answers, as far as is known.
    pub fn is_alive(&self) -> bool {
        self.reach == Reach::Alive
    }

    /// Sends a question; with `data` a page follows it.
    fn tell(&mut self, verb: Verb, area: u32, page: u64, data: Option<&Page>) -> Result<(), Errno> {
        let Some(channel) = self.channel.as_ref().filter(|_| self.reach == Reach::Alive) else {
            return Err(Errno::EBADF);
        };
        self.number += 1;
        let message = &mut self.message;
        message[..4].copy_from_slice(&(verb as u32).to_ne_bytes());
        message[4..8].copy_from_slice(&area.to_ne_bytes());
        message[8..16].copy_from_slice(&page.to_ne_bytes());
        message[16..24].copy_from_slice(&self.number.to_ne_bytes());
        let len = match data {
            Some(data) => {
                message[QUESTION..].copy_from_slice(data);
                LONGEST
            }
            None => QUESTION,
        };
        channel.send(&message[..len])
    }

    /// Asks and waits; the code of the answer. Of a load that hit, the page is in `message` after the answer's head.
    fn ask(&mut self, verb: Verb, area: u32, page: u64, data: Option<&Page>) -> Result<u32, Errno> {
        self.tell(verb, area, page, data)?;
        let Some(channel) = &self.channel else { return Err(Errno::EBADF) };
        let len = channel.receive(&mut self.message[..])?;
        let number = u64::from_ne_bytes(self.word());
        let mut code = [0; 4];
        code.copy_from_slice(&self.message[8..12]);
        let code = u32::from_ne_bytes(code);
        let wanted = if verb == Verb::Load && code == 0 { ANSWER + PAGE_SIZE } else { ANSWER };
        // What is no answer to this question ends it: from here on nothing that comes could be told apart.
        if len == wanted && number == self.number { Ok(code) } else { Err(Errno::EIO) }
    }

    fn word(&self) -> [u8; 8] {
        let mut word = [0; 8];
        word.copy_from_slice(&self.message[..8]);
        word
    }

    /// Notes, once, that the process is not to be asked any more.
    fn lose(&mut self) {
        if self.reach == Reach::Alive {
            self.reach = Reach::Gone;
            if stderr_has_room() {
                write_stderr(
                    "tmem: warning: a backend process is gone or does not answer: pages go to the next backend or the \
                     swap device, and a page that only it has ends the program when it is needed\n",
                );
            }
        }
    }

    fn forget(&mut self, slot: usize) {
        if self.sums[slot] != 0 {
            self.sums[slot] = 0;
            self.held -= 1;
        }
    }

    /// Never 0, which stands for no page.
    fn sum(&self, page: &[u8]) -> u64 {
        xxh3_64_with_secret(page, &self.secret[..]).max(1)
    }
}

impl BackendOps for ProcessBackend {
    fn init(&mut self, area: u32, pages: u64) {
        self.areas.init(area, pages);
        if self.tell(Verb::Init, area, pages, None).is_err() {
            self.lose();
        }
    }

    fn store(&mut self, area: u32, page: u64, data: &Page) -> Outcome {
        let slot = match self.areas.slot(area, page) {
            Ok(slot) => slot,
            Err(reason) => {
                self.invalidate_page(area, page);
                return Outcome::Refused(reason);
            }
        };
        self.forget(slot);
        let failed = Outcome::Refused(Reason::BackendFailed);
        if self.reach != Reach::Alive {
            return failed;
        }
        match self.ask(Verb::Store, area, page, Some(data)) {
            Ok(0) => {
                self.sums[slot] = self.sum(data);
                self.held += 1;
                self.top = self.top.max(slot + 1);
                Outcome::Stored
            }
            Ok(code) => u8::try_from(code).ok().and_then(Outcome::from_code).unwrap_or(failed),
            Err(_) => {
                self.lose();
                failed
            }
        }
    }

    fn load(&mut self, area: u32, page: u64, into: &mut Page) -> Result<Loaded, Corrupt> {
        let Some(slot) = self.areas.find(area, page).filter(|slot| self.sums[*slot] != 0) else {
            return Ok(Loaded::Absent);
        };
        match self.reach {
            Reach::Alive => {}
            Reach::Gone => return Err(Corrupt::ProcessGone),
            Reach::NotInherited => return Err(Corrupt::NotInherited),
        }
        match self.ask(Verb::Load, area, page, None) {
            Ok(0) => {
                let found = &self.message[ANSWER..ANSWER + PAGE_SIZE];
                if self.sum(found) != self.sums[slot] {
                    return Err(Corrupt::Checksum);
                }
                into.copy_from_slice(found);
                Ok(Loaded::Loaded)
            }
            Ok(_) => Err(Corrupt::NotGiven),
            Err(_) => {
                self.lose();
                Err(Corrupt::ProcessGone)
            }
        }
    }

    fn invalidate_page(&mut self, area: u32, page: u64) {
        // What is not known here to be there was refused, and is not worth a message.
        let Some(slot) = self.areas.find(area, page).filter(|slot| self.sums[*slot] != 0) else { return };
        self.forget(slot);
        if self.tell(Verb::InvalidatePage, area, page, None).is_err() {
            self.lose();
        }
    }

    fn invalidate_area(&mut self, area: u32) {
        for slot in self.areas.end(area) {
            if self.held == 0 {
                break;
            }
            self.forget(slot);
        }
        if self.tell(Verb::InvalidateArea, area, 0, None).is_err() {
            self.lose();
        }
    }

    fn after_fork_in_child(&mut self) -> bool {
        // Closed here, so that the process sees the end of its guest and not that of the guest's children.
        self.channel = None;
        self.reach = Reach::NotInherited;
        false
    }

    /// The checksums. The pages are in the other process, whose memory is its own.
    fn footprint(&self) -> usize {
        page_bytes(self.top * size_of::<u64>()) + 2 * PAGE_SIZE
    }

    fn check(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let counted = self.sums[..self.top].iter().filter(|s| **s != 0).count();
        if counted != self.held {
            broken.push(format!("backend process: {counted} checksums, {} noted", self.held));
        }
        if self.reach == Reach::Gone && self.held > 0 {
            broken.push(format!("law 5: {} page(s) are lost with their backend process", self.held));
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::thread;
    use tmem_sys::channel::{close_end, pair};

    /// Plays the process: keeps pages in a map; `damage` is done to each page that it gives back.
    fn serve(fd: i32, questions: usize, damage: fn(&mut [u8])) {
        let channel = Channel::new(fd, 2000).unwrap();
        close_end(fd);
        let (mut pages, mut message) = (BTreeMap::new(), [0u8; LONGEST]);
        for _ in 0..questions {
            let Ok(len) = channel.receive(&mut message) else { return };
            let (verb, key) = (message[0], message[4..16].to_vec());
            let mut answer = message[16..24].to_vec();
            answer.resize(ANSWER, 0);
            match u32::from(verb) {
                v if v == Verb::Store as u32 => {
                    pages.insert(key, message[QUESTION..len].to_vec());
                }
                v if v == Verb::Load as u32 => {
                    let mut page: Vec<u8> = pages[&key].clone();
                    damage(&mut page);
                    answer.extend(page);
                }
                _ => continue,
            }
            channel.send(&answer).unwrap();
        }
    }

    fn run<R>(questions: usize, damage: fn(&mut [u8]), work: impl FnOnce(&mut ProcessBackend) -> R) -> R {
        let [ours, theirs] = pair().unwrap();
        let process = thread::spawn(move || serve(theirs, questions, damage));
        let mut backend = ProcessBackend::new(ours, 2000, 100).unwrap();
        close_end(ours);
        backend.init(0, 50);
        let result = work(&mut backend);
        drop(backend);
        process.join().unwrap();
        result
    }

    #[test]
    fn pages_go_over_and_come_back() {
        run(
            usize::MAX,
            |_| (),
            |b| {
                let mut into = [0; PAGE_SIZE];
                assert_eq!(b.store(0, 7, &[7; PAGE_SIZE]), Outcome::Stored);
                assert_eq!(b.store(0, 7, &[8; PAGE_SIZE]), Outcome::Stored);
                assert_eq!(b.store(0, 50, &[8; PAGE_SIZE]), Outcome::Refused(Reason::OutOfRange));
                assert_eq!(b.load(0, 7, &mut into), Ok(Loaded::Loaded));
                assert_eq!(into, [8; PAGE_SIZE]);
                assert_eq!(b.load(0, 8, &mut into), Ok(Loaded::Absent), "known here, not asked");
                b.invalidate_page(0, 7);
                assert_eq!(b.load(0, 7, &mut into), Ok(Loaded::Absent));
                b.invalidate_area(0);
                assert_eq!(b.store(0, 7, &[7; PAGE_SIZE]), Outcome::Refused(Reason::NoArea));
                assert!(b.check().is_empty());
            },
        );
    }

    #[test]
    fn a_page_that_was_changed_over_there_is_found_out() {
        run(
            usize::MAX,
            |page| page[100] ^= 1,
            |b| {
                let mut into = [0; PAGE_SIZE];
                assert_eq!(b.store(0, 7, &[7; PAGE_SIZE]), Outcome::Stored);
                assert_eq!(b.load(0, 7, &mut into), Err(Corrupt::Checksum));
                assert_eq!(into, [0; PAGE_SIZE], "the target stays untouched");
            },
        );
    }

    #[test]
    fn a_process_that_is_gone_refuses_and_its_pages_are_lost() {
        // The area's, and one store: then it ends.
        run(
            2,
            |_| (),
            |b| {
                let mut into = [0; PAGE_SIZE];
                assert_eq!(b.store(0, 7, &[7; PAGE_SIZE]), Outcome::Stored);
                assert_eq!(b.store(0, 8, &[8; PAGE_SIZE]), Outcome::Refused(Reason::BackendFailed));
                assert!(!b.is_alive());
                assert_eq!(b.load(0, 8, &mut into), Ok(Loaded::Absent));
                assert_eq!(b.load(0, 7, &mut into), Err(Corrupt::ProcessGone));
                assert_eq!(b.check().len(), 1);
            },
        );
    }

    #[test]
    fn a_forked_child_has_no_process() {
        run(
            usize::MAX,
            |_| (),
            |b| {
                assert_eq!(b.store(0, 7, &[7; PAGE_SIZE]), Outcome::Stored);
                assert!(!b.after_fork_in_child());
                assert_eq!(b.store(0, 8, &[7; PAGE_SIZE]), Outcome::Refused(Reason::BackendFailed));
                assert_eq!(b.load(0, 7, &mut [0; PAGE_SIZE]), Err(Corrupt::NotInherited));
            },
        );
    }
}
