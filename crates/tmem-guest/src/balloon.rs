// SPDX-License-Identifier: Apache-2.0
//! Owns: how a guest comes to the resident set that its host wants. Callers: `orders` and `serve`, in the connection's thread. Locks:
//! the stores' owners', inside `Holder`, for a step.
//!
//! What leaves the resident set is stored by this thread, which cannot fetch room for it meanwhile. So it shrinks a step at a time,
//! and asks for that room before: what the host has none for goes to the swap device.

use crate::lane::Lane;
use crate::serve::Serving;
use crate::session::{End, Worker};
use crate::wire::ToHost;
use tmem_store::lease::Kind;
use tmem_sys::beyond::has_room;
use tmem_sys::link::Link;
use tmem_sys::time::now_ns;

/// A resident set shrinks by so much at a time, or by this part of what is left of the way.
const STEP: u64 = 8 << 20;
const PART: u64 = 64;
/// Extents that are asked for before a step, at most.
const MOST_AHEAD: u64 = 8;

/// A target that is not reached yet.
pub(crate) struct Balloon {
    seq: u64,
    /// 0 for the guest's own budget.
    target: u64,
    /// What the last step came to.
    came: u64,
    /// For the next step, room was asked for.
    has_asked: bool,
}

impl Serving {
    /// Sets out for a target. The one before is answered with what it came to.
    pub fn begin_shrinking(
        &mut self,
        at: &mut Worker<'_>,
        link: &Link,
        seq: u64,
        target: u64,
    ) -> Result<(), End> {
        let before = self.balloon.replace(Balloon { seq, target, came: 0, has_asked: false });
        match before {
            Some(Balloon { seq, came, .. }) => at.send(link, &ToHost::Ballooned { seq, ram: came }, &[]),
            None => Ok(()),
        }
    }

    /// One step, unless an answer is waited for.
    pub fn go_on_shrinking(&mut self, at: &mut Worker<'_>, link: &Link) -> Result<(), End> {
        let Some(mut balloon) = self.balloon.take() else { return Ok(()) };
        if self.asked.is_some() {
            self.balloon = Some(balloon);
            return Ok(());
        }
        let is_persistent = |(_, lane): &(usize, Lane)| lane.mailbox.kind() == Kind::Persistent;
        let Some((place, lane)) = at.shared.lanes().find(is_persistent) else {
            return at.send(link, &ToHost::Ballooned { seq: balloon.seq, ram: 0 }, &[]);
        };
        let now = self.quietly(place, &lane, |holder| holder.report()).ram;
        let step = STEP.max(now.saturating_sub(balloon.target) / PART);
        let next = now.saturating_sub(step).max(balloon.target);
        let is_last = balloon.target == 0 || next == balloon.target || next >= now;
        if balloon.target != 0 && next < now && !balloon.has_asked {
            balloon.has_asked = true;
            self.balloon = Some(balloon);
            return self.make_ready(at, link, place, step);
        }
        let aim = if is_last { balloon.target } else { next };
        let aim = usize::try_from(aim).unwrap_or(usize::MAX);
        balloon.came = self.quietly(place, &lane, |holder| holder.balloon(aim)) as u64;
        if is_last {
            let (seq, ram) = (balloon.seq, balloon.came);
            return at.send(link, &ToHost::Ballooned { seq, ram }, &[]);
        }
        balloon.has_asked = false;
        self.balloon = Some(balloon);
        // The next step follows at once.
        at.shared.ring();
        Ok(())
    }

    /// Asks for room for what leaves in one step, as far as it does not lie ready.
    fn make_ready(&mut self, at: &mut Worker<'_>, link: &Link, place: usize, step: u64) -> Result<(), End> {
        at.shared.ring();
        let Some((lane, generation)) = at.shared.lane(place) else { return Ok(()) };
        let extents = (step / self.welcome.extent_bytes as u64).clamp(1, MOST_AHEAD) as u32;
        let lacking = extents.saturating_sub(lane.mailbox.waiting());
        if lacking == 0 || !has_room(lacking as usize) || now_ns() < self.paces[place].not_before_ns {
            return Ok(());
        }
        self.request(at, link, (place, generation), &lane, lacking)
    }
}
