// SPDX-License-Identifier: Apache-2.0
//! Owns: a pool of ephemeral pages that several guests share. Callers: the doors. `pool` is what they use, `state` what is under
//! its lock, `look` what all indexes say of a page; `part` is what this guest writes, `others` what it reads of the other members, `format` how both look.
//!
//! Every member writes its own index and data and reads those of all, without a word between them: a get looks into one bucket
//! of each member's index and believes the newest entry. What could hide something newer ends as a miss: a member whose index is not
//! known or not there, a bucket that is being written over, a floor above the page. A shared page may vanish at any time (law 6), but
//! what was flushed or put over never comes back (laws 3 and 4), and what comes back is what was put (law 12).

mod format;
mod look;
mod members;
mod others;
mod part;
mod pool;
mod state;

pub use format::{MOST_MEMBERS, SECRET};
pub use members::Members;
pub use pool::SharedPool;
pub use state::SharedStats;

#[cfg(all(test, not(loom)))]
mod tests;
