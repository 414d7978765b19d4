// SPDX-License-Identifier: Apache-2.0
//! Owns: the Python face of a connection to the daemon for pools: ephemeral pools in memory that the daemon may take back, the host
//! of persistent pools that takes memory on lease, shared pools. Caller: `python/tmem/guest.py`. The GIL is let go before any
//! lock is taken or a wait begins, and the connection's thread never asks for it.

use crate::error::{raise, reserve_to_python, store_to_python};
use crate::host::{Host, traffic};
use crate::lease::{Host as Where, reserve, standing_word};
use crate::leasedpool::{LeasedPool, Private, Shared};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use tmem_guest::{Client, Config, Joined, NotJoined, Pools, Standing, Tenant, When};
use tmem_store::HostConfig;
use tmem_store::lease::{Kind, Mailbox};
use tmem_store::revocable::shared::{Members, SECRET, SharedPool};
use tmem_store::revocable::{Revocable, RevocableConfig};
use tmem_sys::background::known_to_libc;
use tmem_sys::lease::LeaseFd;
use tmem_sys::{Errno, PAGE_SIZE, time};

/// How long a host has to let a guest into a pool, and to lease the pool's index.
const JOIN_MS: u64 = 3000;
/// As above, for one that was a member before and is not any more, and how often that is tried.
const REJOIN_MS: u64 = 300;
/// How long a daemon is waited for that is not connected: one that is there is within this.
const ALONE_MS: u64 = 1000;
const RETRY_NS: u64 = 1_000_000_000;
/// Pages that are expected of one byte of memory at most: what a page packs to is seldom less than 256 bytes.
const LEAST_PAGE: usize = 256;

/// What the connection has: kept by the guest and by each of its pools.
pub struct Connection {
    client: Client,
    pub store: Arc<Revocable>,
    host: Arc<tmem_store::Host>,
    members: Arc<Members>,
    joints: Mutex<Vec<([u8; SECRET], Weak<Joint>)>>,
    ended: std::sync::atomic::AtomicBool,
}

/// What the connection's thread says of shared pools.
struct Hears(Arc<Members>);

impl Pools for Hears {
    fn member(&self, pool: u64, member: u64, extent: u64, kind: Kind, fd: LeaseFd) {
        self.0.member(pool, member, extent, kind, fd);
    }

    fn gone(&self, pool: u64, member: u64) {
        self.0.gone(pool, member);
    }

    fn lost(&self) {
        self.0.lost();
    }
}

impl Connection {
    fn new(place: Where, limit: usize, most: usize) -> Result<Arc<Connection>, Errno> {
        // Never more than the machine has, whatever a host says.
        let leased = reserve();
        let most = most.min(leased).max(limit);
        let config = RevocableConfig { max_pages: leased / LEAST_PAGE, max_bytes: leased };
        let (store, members) = (Revocable::new(config)?, Members::new()?);
        let mailbox = Mailbox::new(Kind::Persistent)?;
        let host = HostConfig { limit_bytes: limit, reserve_bytes: most };
        let host = tmem_store::Host::leasing(host, leased, Arc::clone(&mailbox))?;
        let Where(path, name, host_uid) = place;
        let name = name.unwrap_or_else(crate::lease::program);
        let config =
            Config { path, name, host_uid, when: When::Now, maker: known_to_libc, ends_with_stores: false };
        let client = Client::new(config, Some(Arc::new(Hears(Arc::clone(&members)))));
        let store_if_there = Arc::downgrade(&store);
        let holder = Arc::new(Tenant(move || store_if_there.upgrade()));
        client.attach(Arc::clone(store.mailbox()), holder, 0)?;
        let host_if_there = Arc::downgrade(&host);
        client.attach(mailbox, Arc::new(Tenant(move || host_if_there.upgrade())), 0)?;
        client.start()?;
        let ended = false.into();
        Ok(Arc::new(Connection { client, store, host, members, joints: Mutex::default(), ended }))
    }

    /// The membership in a pool; the same one for as long as somebody has it.
    fn joint(self: &Arc<Connection>, secret: [u8; SECRET]) -> Result<Arc<Joint>, Refusal> {
        let mut joints = self.joints.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let live = |joint: &Weak<Joint>| joint.upgrade().filter(|joint| joint.handles() > 0);
        joints.retain(|(_, joint)| live(joint).is_some());
        let known = joints.iter().find(|(known, _)| *known == secret).and_then(|(_, joint)| live(joint));
        if let Some(known) = known {
            known.handles.fetch_add(1, Ordering::AcqRel);
            return Ok(known);
        }
        let pool = SharedPool::new(&secret, reserve()).map_err(Refusal::Memory)?;
        let tried_ns = AtomicU64::new(time::now_ns());
        let handles = AtomicU64::new(1);
        let joint = Arc::new(Joint { connection: Arc::clone(self), pool, secret, tried_ns, handles });
        // Its index is there, or it has left again.
        joint.join(JOIN_MS)?;
        joints.push((secret, Arc::downgrade(&joint)));
        Ok(joint)
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.client.stop();
    }
}

/// Why a pool cannot be joined.
enum Refusal {
    Host(NotJoined),
    /// There is no memory for what this member is to write.
    NoIndex,
    TooMany,
    Memory(Errno),
}

impl Refusal {
    fn to_python(&self, py: Python<'_>, connection: &Connection) -> PyErr {
        let text = match self {
            Refusal::Memory(errno) => return reserve_to_python(py, *errno),
            Refusal::Host(NotJoined::Refused(reason)) if reason == "not-granted" => {
                let guest = connection.client.status().guest;
                format!(
                    "this guest was not granted the shared pool (not-granted): the administrator allows it with \
                     `tmem shared-auth {guest} --uuid SECRET -A 1`, where SECRET is secret.hex()"
                )
            }
            Refusal::Host(NotJoined::Refused(reason)) => {
                format!("the daemon does not let this guest into the shared pool ({reason}): ask its administrator")
            }
            Refusal::Host(NotJoined::Alone) if connection.client.standing() == Standing::Distrusted => {
                "the daemon runs as a user whom this process does not trust: set TMEM_HOST_UID to that user's number if \
                 that is meant"
                    .to_owned()
            }
            Refusal::Host(NotJoined::Alone) => {
                "no daemon is connected, and a shared pool is a daemon's: start `tmem daemon`, or name its socket by \
                 Guest(host=...)"
                    .to_owned()
            }
            Refusal::Host(NotJoined::Late) => "the daemon did not answer in time: try again".to_owned(),
            Refusal::NoIndex => {
                "the daemon has no memory for this guest's part of the shared pool: try again when it has, or ask for a \
                 larger --capacity"
                    .to_owned()
            }
            Refusal::TooMany => {
                "a guest is a member of 16 shared pools at most: leave one, or make another Guest".to_owned()
            }
        };
        raise(py, "PoolError", text)
    }
}

/// A membership in a shared pool.
pub struct Joint {
    connection: Arc<Connection>,
    pub pool: Arc<SharedPool>,
    secret: [u8; SECRET],
    /// When it was last tried to join.
    tried_ns: AtomicU64,
    /// Who has it; with none it has ended.
    handles: AtomicU64,
}

impl Joint {
    fn join(&self, wait_ms: u64) -> Result<(), Refusal> {
        self.forget();
        let client = &self.connection.client;
        let is_there = client.standing() == Standing::Connected;
        let join_ms = if is_there { wait_ms } else { wait_ms.min(ALONE_MS) };
        let Joined { pool: number, member, board } =
            client.join(&self.secret, join_ms).map_err(Refusal::Host)?;
        let entered = self.connection.members.enter(&self.pool, number, member as usize, board);
        let attached = entered && {
            let lanes = self.pool.mailboxes().into_iter().zip(self.pool.holders());
            lanes
                .map(|(mail, holder)| client.attach(Arc::clone(mail), holder, number))
                .all(|done| done.is_ok())
        };
        if attached && self.pool.wait_for_index(wait_ms) {
            return Ok(());
        }
        self.leave();
        Err(if attached { Refusal::NoIndex } else { Refusal::TooMany })
    }

    /// Joins again where the membership was lost with its host, now and then; whether this guest is a member.
    pub fn is_member(&self) -> bool {
        if self.pool.number().is_some() {
            return true;
        }
        let (now, tried) = (time::now_ns(), self.tried_ns.load(Ordering::Acquire));
        let mine = now.saturating_sub(tried) >= RETRY_NS
            && self.tried_ns.compare_exchange(tried, now, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        mine && self.handles() > 0 && !self.connection.has_ended() && self.join(REJOIN_MS).is_ok()
    }

    fn handles(&self) -> u64 {
        self.handles.load(Ordering::Acquire)
    }

    /// One has it no more. The host hears of it when nobody has.
    pub fn release(&self) {
        let _turn = self.connection.joints.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.leave();
        }
    }

    /// The connection fetches nothing for it any more.
    fn forget(&self) {
        self.connection.members.remove(&self.pool);
        self.pool.mailboxes().into_iter().for_each(|mail| self.connection.client.detach(mail));
    }

    fn leave(&self) {
        self.forget();
        if let Some(number) = self.pool.leave() {
            self.connection.client.leave(number);
        }
    }
}

/// A connection to the daemon, for pools.
#[pyclass(frozen, module = "tmem._core")]
pub struct Guest(Mutex<Option<Arc<Connection>>>);

impl Guest {
    fn connection(&self, py: Python<'_>) -> PyResult<Arc<Connection>> {
        let held = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        held.ok_or_else(|| raise(py, "ClosedError", "the Guest was closed: make a new one".to_owned()))
    }
}

#[pymethods]
impl Guest {
    #[new]
    #[pyo3(signature = (place, *, limit, most))]
    fn new(py: Python<'_>, place: Where, limit: usize, most: usize) -> PyResult<Guest> {
        let made = py.detach(|| Connection::new(place, limit, most));
        made.map(|made| Guest(Mutex::new(Some(made)))).map_err(|e| reserve_to_python(py, e))
    }

    /// The host of persistent pools.
    fn host(&self, py: Python<'_>) -> PyResult<Host> {
        Ok(Host { host: Arc::clone(&self.connection(py)?.host) })
    }

    /// Makes an ephemeral pool.
    #[pyo3(signature = (*, exclusive, pack, raw))]
    fn pool(&self, py: Python<'_>, exclusive: bool, pack: bool, raw: bool) -> PyResult<LeasedPool> {
        let connection = self.connection(py)?;
        let made = py.detach(|| connection.store.new_pool(exclusive, pack, raw));
        let id = made.map_err(|e| store_to_python(py, e))?;
        Ok(LeasedPool::new(Box::new(Private::new(connection, id))))
    }

    /// Becomes a member of a shared pool.
    fn join(&self, py: Python<'_>, secret: [u8; SECRET]) -> PyResult<LeasedPool> {
        let connection = self.connection(py)?;
        let joined = py.detach(|| connection.joint(secret));
        let joint = joined.map_err(|refusal| refusal.to_python(py, &connection))?;
        Ok(LeasedPool::new(Box::new(Shared(joint))))
    }

    /// How the connection stands, and all counters of the ephemeral pools' store.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let connection = self.connection(py)?;
        let (status, store) = py.detach(|| (connection.client.status(), connection.store.stats()));
        let numbers = traffic(py, &store.traffic)?;
        numbers.set_item("state", standing_word(status.standing))?;
        numbers.set_item("text", status.text)?;
        for (name, value) in [
            ("guest", status.guest),
            ("extent_bytes", status.extent_bytes),
            ("most_bytes", status.most_bytes),
            ("held", status.held),
            ("granted", status.granted),
            ("refused_leases", status.refused),
            ("connections", status.connections),
            ("pages", store.pages),
            ("same_pages", store.same_pages),
            ("data_bytes", store.data_bytes),
            ("extents", store.extents),
            ("leased_bytes", store.leased_bytes),
            ("footprint", store.footprint_bytes),
            ("revoked", store.revoked),
            ("revoked_pages", store.revoked_pages),
            ("damaged", store.damaged),
        ] {
            numbers.set_item(name, value)?;
        }
        Ok(numbers)
    }

    /// Every broken law, in words.
    fn check(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let connection = self.connection(py)?;
        Ok(py.detach(|| [connection.store.check(), connection.host.check()].concat()))
    }

    /// Ends the connection. What its pools hold of the daemon's memory goes; twice does no harm.
    fn close(&self, py: Python<'_>) {
        let taken = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        py.detach(|| {
            if let Some(connection) = taken {
                connection.ended.store(true, Ordering::Release);
                connection.client.stop();
            }
        });
    }

    #[getter]
    fn closed(&self) -> bool {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_none()
    }
}

const _: () = assert!(LEAST_PAGE < PAGE_SIZE);
