// SPDX-License-Identifier: Apache-2.0
//! A host of a few lines that does what a test says, and a store's owner that holds extents.

#![allow(dead_code)]

use rmp::decode::{self, Bytes};
use rmp::encode;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tmem_guest::{Client, Config, Standing, When};
use tmem_store::lease::{Extent, Holder, Kind, Mailbox, Report};
use tmem_sys::background::known_to_libc;
use tmem_sys::lease::LeaseFd;
use tmem_sys::link::{Link, Listener, MOST_BYTES, Received};

pub const EXTENT: usize = 1 << 20;
pub const LONG: Duration = Duration::from_secs(10);

/// A message of a guest's: its word, its numbers, its list; texts are left out.
#[derive(Debug)]
pub struct Said {
    pub word: String,
    pub numbers: Vec<u64>,
    pub list: Vec<u64>,
    pub fds: Vec<LeaseFd>,
}

impl PartialEq<&str> for Said {
    fn eq(&self, word: &&str) -> bool {
        self.word == *word
    }
}

fn text(from: &mut Bytes<'_>) -> String {
    let len = decode::read_str_len(from).unwrap() as usize;
    let (text, rest) = from.remaining_slice().split_at(len);
    *from = Bytes::new(rest);
    String::from_utf8(text.to_vec()).unwrap()
}

fn parse(bytes: &[u8], fds: Vec<LeaseFd>) -> Said {
    let mut from = Bytes::new(bytes);
    let fields = decode::read_array_len(&mut from).unwrap();
    let mut said = Said { word: text(&mut from), numbers: Vec::new(), list: Vec::new(), fds };
    for _ in 1..fields {
        match from.remaining_slice()[0] {
            0x90..=0x9f | 0xdc | 0xdd => {
                let len = decode::read_array_len(&mut from).unwrap();
                said.list = (0..len).map(|_| decode::read_int(&mut from).unwrap()).collect();
            }
            0xa0..=0xbf | 0xd9 => drop(text(&mut from)),
            0xc4 => {
                let len = decode::read_bin_len(&mut from).unwrap() as usize;
                from = Bytes::new(&from.remaining_slice()[len..]);
            }
            _ => said.numbers.push(decode::read_int(&mut from).unwrap()),
        }
    }
    said
}

/// Words, numbers and lists, as a message.
pub enum Field<'a> {
    N(u64),
    T(&'a str),
    L(&'a [u64]),
    B(bool),
}

pub fn message(word: &str, fields: &[Field<'_>]) -> Vec<u8> {
    let mut into = Vec::new();
    encode::write_array_len(&mut into, fields.len() as u32 + 1).unwrap();
    encode::write_str(&mut into, word).unwrap();
    for field in fields {
        match field {
            Field::N(n) => {
                encode::write_uint(&mut into, *n).unwrap();
            }
            Field::T(text) => encode::write_str(&mut into, text).unwrap(),
            Field::B(truth) => encode::write_bool(&mut into, *truth).unwrap(),
            Field::L(list) => {
                encode::write_array_len(&mut into, list.len() as u32).unwrap();
                for &n in *list {
                    encode::write_uint(&mut into, n).unwrap();
                }
            }
        }
    }
    into
}

/// Where a host listens.
pub struct Place {
    pub path: PathBuf,
    listener: Option<Listener>,
}

impl Place {
    pub fn new() -> Place {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tmem-guest-{}-{n}", std::process::id()));
        Place { path, listener: None }
    }

    pub fn open(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        self.listener = Some(Listener::bind(&self.path).unwrap());
    }

    pub fn close(&mut self) {
        self.listener = None;
        let _ = std::fs::remove_file(&self.path);
    }

    /// A guest that connects.
    pub fn accept(&self) -> Host {
        let link = until("a guest connects", || self.listener.as_ref().unwrap().accept().ok());
        Host { link, next: 1, extents: Vec::new(), granted: Vec::new() }
    }

    /// A guest that connects and is welcome.
    pub fn welcome(&self) -> Host {
        let host = self.accept();
        assert_eq!(host.hear(), "hello");
        host.say(
            "welcome",
            &[Field::N(1), Field::N(9), Field::N(EXTENT as u64), Field::N(1 << 40), Field::N(100)],
        );
        host
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.close();
    }
}

/// The host's side of one connection.
pub struct Host {
    pub link: Link,
    next: u64,
    pub extents: Vec<(u64, LeaseFd)>,
    /// How many extents each request got.
    pub granted: Vec<u64>,
}

impl Host {
    pub fn say(&self, word: &str, fields: &[Field<'_>]) {
        self.link.send(&message(word, fields), &[]).unwrap();
    }

    /// The next message, if there is one.
    pub fn heard(&self) -> Option<Said> {
        let (mut into, mut fds) = (vec![0; MOST_BYTES], Received::default());
        let arrival = self.link.receive(&mut into, &mut fds).ok()?;
        let fds = (0..fds.len()).map(|n| fds.take(n).unwrap()).collect();
        Some(parse(&into[..arrival.bytes], fds))
    }

    /// The next message that is no report.
    pub fn hear(&self) -> Said {
        until("a message", || self.heard().filter(|said| *said != "report"))
    }

    pub fn has_hung_up(&self) -> bool {
        let (mut into, mut fds) = (vec![0; MOST_BYTES], Received::default());
        loop {
            match self.link.receive(&mut into, &mut fds) {
                Ok(_) => {}
                Err(e) => return e != tmem_sys::Errno::EAGAIN,
            }
        }
    }

    /// Grants a request; the ids.
    pub fn grant(&mut self, lease: &Said, most: u64) -> Vec<u64> {
        assert_eq!(*lease, "lease");
        let count = lease.numbers[3].min(most);
        let ids: Vec<_> = (self.next..self.next + count).collect();
        self.next += count;
        let fds: Vec<_> = ids.iter().map(|_| LeaseFd::new(EXTENT).unwrap()).collect();
        let raw: Vec<_> = fds.iter().map(LeaseFd::raw).collect();
        let granted = message("granted", &[Field::N(lease.numbers[0]), Field::L(&ids)]);
        self.link.send(&granted, &raw).unwrap();
        self.extents.extend(ids.iter().copied().zip(fds));
        self.granted.push(count);
        ids
    }

    /// Ends as a daemon that is killed.
    pub fn die(self) {
        drop(self);
    }
}

/// What is there within a time, looked at often.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < LONG, "waited in vain until {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A store and its owner.
pub struct Store {
    pub mailbox: Arc<Mailbox>,
    pub inside: Mutex<Vec<Extent>>,
    pub lost: Mutex<Vec<u64>>,
    pub revoked: Mutex<Vec<u64>>,
    pub told: Mutex<Vec<(bool, bool)>>,
    /// Bytes that cannot be moved out.
    pub full: AtomicUsize,
    pub surplus: AtomicUsize,
    pub target: AtomicU64,
}

impl Store {
    pub fn new(kind: Kind) -> Arc<Store> {
        Arc::new(Store {
            mailbox: Mailbox::new(kind).unwrap(),
            inside: Mutex::default(),
            lost: Mutex::default(),
            revoked: Mutex::default(),
            told: Mutex::default(),
            full: AtomicUsize::new(0),
            surplus: AtomicUsize::new(0),
            target: AtomicU64::new(u64::MAX),
        })
    }

    /// Takes what comes, up to so many.
    pub fn fill(&self, extents: usize) {
        until("the store is filled", || {
            let mut inside = self.inside.lock().unwrap();
            if inside.len() < extents {
                self.mailbox.want(1);
                inside.extend(self.mailbox.take(20));
            }
            (inside.len() >= extents).then_some(())
        });
        self.mailbox.want(0);
    }

    pub fn ids(&self) -> Vec<u64> {
        self.inside.lock().unwrap().iter().map(|extent| extent.id).collect()
    }

    pub fn host_ids(&self) -> Vec<u64> {
        let mut ids: Vec<_> = self.ids().into_iter().map(tmem_guest::host_id).collect();
        ids.sort_unstable();
        ids
    }
}

/// The owner, apart from the store, as `Weak` in the doors.
pub struct Owner(pub Arc<Store>);

impl Holder for Owner {
    fn held(&self, each: &mut dyn FnMut(u64, i32, Kind)) {
        let kind = self.0.mailbox.kind();
        self.0.inside.lock().unwrap().iter().for_each(|e| each(e.id, e.fd.raw(), kind));
    }

    fn renumber(&self, old: u64, new: u64) {
        let mut inside = self.0.inside.lock().unwrap();
        assert!(inside.iter().all(|e| e.id != new), "two extents have one number");
        inside.iter_mut().find(|e| e.id == old).unwrap().id = new;
    }

    fn lose(&self, id: u64) {
        assert!(self.ids().contains(&id));
        self.0.lost.lock().unwrap().push(id);
    }

    fn give(&self, bytes: usize, give: &mut dyn FnMut(u64)) {
        let mut inside = self.0.inside.lock().unwrap();
        let most = inside.len().saturating_sub(self.0.full.load(Ordering::Relaxed) / EXTENT);
        let count = bytes.div_ceil(EXTENT).min(most);
        inside.drain(..count).for_each(|e| give(e.id));
    }

    fn surplus(&self) -> usize {
        self.0.surplus.load(Ordering::Relaxed).min(self.0.inside.lock().unwrap().len() * EXTENT)
    }

    fn revoked(&self, ids: &[u64]) {
        self.0.inside.lock().unwrap().retain(|e| !ids.contains(&e.id));
        self.0.revoked.lock().unwrap().extend(ids);
    }

    fn set(&self, frozen: bool, compress: bool) {
        self.0.told.lock().unwrap().push((frozen, compress));
    }

    fn balloon(&self, ram: usize) -> usize {
        self.0.target.store(ram as u64, Ordering::Relaxed);
        ram.max(16 << 20)
    }

    fn report(&self) -> Report {
        let ram = self.0.target.load(Ordering::Relaxed).min(64 << 20);
        Report { ram, leased_used: (self.ids().len() * EXTENT) as u64, ..Report::default() }
    }
}

impl std::ops::Deref for Owner {
    type Target = Store;
    fn deref(&self) -> &Store {
        &self.0
    }
}

pub fn config(place: &Place) -> Config {
    Config {
        path: place.path.clone(),
        name: "a test".to_owned(),
        host_uid: None,
        when: When::Now,
        maker: known_to_libc,
        ends_with_stores: false,
    }
}

/// A guest of one store.
pub fn guest(place: &Place, kind: Kind) -> (Client, Arc<Store>) {
    let (client, store) = (Client::new(config(place), None), Store::new(kind));
    client.attach(Arc::clone(&store.mailbox), Arc::new(Owner(Arc::clone(&store))), 0).unwrap();
    client.start().unwrap();
    (client, store)
}

pub fn await_standing(client: &Client, standing: Standing) {
    until(&format!("it is {standing:?}"), || (client.status().standing == standing).then_some(()));
}
