// SPDX-License-Identifier: Apache-2.0
//! Owns: the streams of faults that look like sequential, backward or strided access, and their windows.
//! Callers: `fault`. A stream doubles its window each time the fault it predicted comes; anything else is random
//! access, which is served as wide as has proved right, most often one page at a time: unwanted pages cost a frame each.
//! What a stream has left behind gives the frames for what comes next: data larger than the budget that is read again and
//! again would lose by age just what it needs next, all of it. But a part of the data that is gone over several times is to
//! come to stay. So a stream keeps every other window, for which the oldest pages of all give way, and one in eight once it
//! went over as much as half of the frames there are.

use crate::chance::{Chance, Trial, enough};
use std::ops::Range;
use tmem_sys::entry::Entry;

/// Streams followed at once.
const STREAMS: usize = 16;
/// The widest window in pages.
pub const MAX_WINDOW: usize = 128;
/// Windows from this width on are a stream's: narrower ones may be chance.
pub const STREAM: usize = 16;
/// One window of a stream in this many stays, of a short stream and of a long one.
const KEPT: [u32; 2] = [2, 8];

#[derive(Clone, Copy, Default)]
struct Stream {
    /// The fault expected next; meaningful only when `stride` is not zero.
    next: i64,
    last: i64,
    stride: i64,
    window: usize,
    /// Where it began.
    start: i64,
    stamp: u64,
    /// How it began, and how it went on.
    trial: Trial,
    again: Trial,
    /// The windows brought in last, the older one first; `count` is 0 where there is none.
    past: [Window; 2],
    turn: u32,
}

/// What to bring in: `count` pages from `first`, `stride` apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    pub first: usize,
    pub stride: i64,
    pub count: usize,
}

impl Window {
    pub fn single(page: usize) -> Window {
        Window { first: page, stride: 1, count: 1 }
    }

    /// The `i`th page, if it is a page number at all.
    pub fn page(&self, i: usize) -> Option<usize> {
        usize::try_from(self.first as i64 + i as i64 * self.stride).ok()
    }

    /// As many pages from the lowest on as lie side by side: all, or one where the window has gaps. `None` for a window
    /// without pages.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> {
        let (window, whole) = (*self, self.stride.abs() == 1);
        let times = if whole { usize::from(self.count > 0) } else { self.count };
        (0..times).filter_map(move |i| match window.stride {
            1 => Some(window.first..window.first + window.count),
            -1 => Some((window.first + 1).saturating_sub(window.count)..window.first + 1),
            _ => window.page(i).map(|page| page..page + 1),
        })
    }
}

/// What to do at a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub window: Window,
    /// What the stream has left behind and does not need again soon.
    pub behind: Option<Window>,
    /// The stream, for [`ReadAhead::expect`]; none for random access.
    pub stream: Option<usize>,
}

pub struct ReadAhead {
    streams: [Stream; STREAMS],
    clock: u64,
    lone: Chance,
    again: Chance,
    /// Of a hundred windows that are not yet a stream's, how many must be continued for a page more.
    pub enough: u32,
    /// Frames there are: whoever goes over more than these at once is to leave the others alone.
    pub frames: usize,
}

impl Default for ReadAhead {
    fn default() -> ReadAhead {
        ReadAhead {
            streams: [Stream::default(); STREAMS],
            clock: 0,
            lone: Chance::LONE,
            again: Chance::AGAIN,
            enough: enough(Entry::Signal),
            frames: 0,
        }
    }
}

/// How the program says it will use a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Pattern {
    #[default]
    Normal = 0,
    Sequential = 1,
    Random = 2,
}

impl Stream {
    /// Notes a window that comes in; the one to drop for it. The window before stays for the moment: an instruction may be
    /// at its last page still.
    fn advance(&mut self, window: Window, fresh: bool, frames: usize) -> Option<Window> {
        let long = self.start.abs_diff(window.first as i64) >= frames as u64 / 2;
        let comes = if fresh || window.count < STREAM { Window::default() } else { window };
        let [left, last] = self.past;
        self.past = [last, comes];
        if left.count == 0 {
            return None;
        }
        self.turn = self.turn.wrapping_add(1);
        (!self.turn.is_multiple_of(KEPT[usize::from(long)])).then_some(left)
    }
}

impl ReadAhead {
    /// What to bring in for a fault at `page`. What was never written before is `fresh`: it is most likely to be used soon
    /// and is not left behind. `in_ram(a, b)` tells whether all pages of `a..b` are there, so that none of them can fault.
    pub fn plan(
        &mut self,
        page: usize,
        pattern: Pattern,
        fresh: bool,
        in_ram: impl Fn(usize, usize) -> bool,
    ) -> Plan {
        if pattern == Pattern::Random {
            return Plan { window: Window::single(page), behind: None, stream: None };
        }
        self.clock += 1;
        let at = page as i64;
        let index = self
            .predicted(at)
            .or_else(|| self.adjacent(at, fresh, in_ram))
            .unwrap_or_else(|| self.oldest(at, fresh));
        let (stream, frames) = (&mut self.streams[index], self.frames);
        stream.stamp = self.clock;
        if pattern == Pattern::Sequential && stream.stride == 0 {
            (stream.stride, stream.window, stream.trial) = (1, MAX_WINDOW / 2, Trial::None);
        }
        let count = stream.window.max(1);
        // Until a stride has come true, what lies beside the fault is worth more than what it would hit.
        let stride = if stream.trial == Trial::None && stream.stride != 0 { stream.stride } else { 1 };
        stream.last = at + stride * (count as i64 - 1);
        stream.next = if stride == stream.stride { stream.last } else { at } + stream.stride;
        let window = Window { first: page, stride, count };
        Plan { window, behind: stream.advance(window, fresh, frames), stream: Some(index) }
    }

    /// Corrects where a stream's next fault will be: what lies before it is in RAM already.
    pub fn expect(&mut self, stream: usize, page: usize) {
        self.streams[stream].next = page as i64;
    }

    /// A stream that expected exactly this fault: it doubles.
    fn predicted(&mut self, at: i64) -> Option<usize> {
        let i = self.streams.iter().position(|s| s.stamp != 0 && s.stride != 0 && s.next == at)?;
        let s = &mut self.streams[i];
        self.again.continued(std::mem::take(&mut s.again));
        let width = if std::mem::take(&mut s.trial) == Trial::None { s.window } else { 1 };
        s.window = (width * 2).clamp(2, MAX_WINDOW);
        Some(i)
    }

    /// A lone fault near this one: together they may begin a stream.
    fn adjacent(&mut self, at: i64, fresh: bool, in_ram: impl Fn(usize, usize) -> bool) -> Option<usize> {
        const REACH: i64 = 16;
        let near = |s: &Stream| s.stamp != 0 && s.last != at && (at - s.last).abs() <= REACH;
        let i = (0..STREAMS).filter(|&i| near(&self.streams[i])).max_by_key(|&i| self.streams[i].stamp)?;
        let s = &mut self.streams[i];
        let trial = std::mem::take(&mut s.trial);
        let (low, high) = (at.min(s.last), at.max(s.last));
        if in_ram((low + 1).max(0) as usize, high.max(0) as usize) {
            if at > s.last {
                self.lone.continued(trial);
            }
            s.stride = (at - s.last).signum();
            (s.window, s.again) = if fresh { (4, Trial::None) } else { self.again.width(self.enough) };
        } else {
            (s.stride, s.again) = (at - s.last, Trial::None);
            (s.window, s.trial) = self.lone.width_for(fresh, self.enough);
        }
        Some(i)
    }

    fn oldest(&mut self, at: i64, fresh: bool) -> usize {
        // By hand: on the way of each fault that belongs to no stream.
        let mut i = 0;
        for n in 1..STREAMS {
            if self.streams[n].stamp < self.streams[i].stamp {
                i = n;
            }
        }
        let (window, trial) = self.lone.width_for(fresh, self.enough);
        self.streams[i] = Stream { last: at, start: at, window, trial, ..Stream::default() };
        i
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widths(faults: &[usize]) -> Vec<usize> {
        let mut r = ReadAhead::default();
        faults.iter().map(|&p| r.plan(p, Pattern::Normal, false, |a, b| a == b).window.count).collect()
    }

    #[test]
    fn windows_double_along_a_forward_stream() {
        let mut r = ReadAhead::default();
        let (mut page, mut seen) = (100, Vec::new());
        for _ in 0..9 {
            let w = r.plan(page, Pattern::Normal, false, |a, b| a == b).window;
            seen.push(w.count);
            page += w.count;
        }
        assert_eq!(seen, [1, 4, 8, 16, 32, 64, 128, 128, 128]);
    }

    #[test]
    fn a_backward_stream_is_followed_downwards() {
        let mut r = ReadAhead::default();
        let (mut page, mut last) = (5000i64, Window::single(0));
        for _ in 0..7 {
            last = r.plan(page as usize, Pattern::Normal, false, |a, b| a == b).window;
            page -= last.count as i64;
        }
        assert_eq!((last.stride, last.count), (-1, 128));
        assert_eq!(last.page(3), Some(last.first - 3));
    }

    #[test]
    fn a_strided_stream_keeps_its_stride() {
        let mut r = ReadAhead::default();
        let mut page = 0;
        let mut last = Window::single(0);
        for _ in 0..6 {
            last = r.plan(page, Pattern::Normal, false, |a, b| a == b).window;
            page += 7 * last.count;
        }
        assert_eq!(last.stride, 7);
        assert!(last.count >= 4);
    }

    #[test]
    fn scattered_faults_stay_single() {
        assert_eq!(widths(&[10, 5000, 90, 70_000, 1234, 999_999]), [1; 6]);
    }

    #[test]
    fn two_streams_interleave() {
        let mut r = ReadAhead::default();
        let (mut a, mut b) = (0, 1_000_000);
        for _ in 0..8 {
            a += r.plan(a, Pattern::Normal, false, |a, b| a == b).window.count;
            b += r.plan(b, Pattern::Normal, false, |a, b| a == b).window.count;
        }
        assert_eq!(r.plan(a, Pattern::Normal, false, |a, b| a == b).window.count, 128);
        assert_eq!(r.plan(b, Pattern::Normal, false, |a, b| a == b).window.count, 128);
    }
    #[test]
    fn a_stream_drops_the_window_before_the_last_and_a_long_one_drops_more() {
        for (frames, kept) in [(usize::MAX, KEPT[0]), (0, KEPT[1])] {
            let mut r = ReadAhead { frames, ..ReadAhead::default() };
            let (mut page, mut brought, mut dropped) = (0, Vec::new(), Vec::new());
            for _ in 0..40 {
                let plan = r.plan(page, Pattern::Normal, false, |a, b| a == b);
                brought.push(plan.window);
                dropped.extend(plan.behind);
                page += plan.window.count;
            }
            brought.truncate(38);
            assert!(dropped.iter().all(|w| w.count >= STREAM && brought.contains(w)));
            let wide = brought.iter().filter(|w| w.count >= STREAM).count();
            assert_eq!(dropped.len(), wide - wide / kept as usize);
            for _ in 0..20 {
                page += r.plan(page, Pattern::Normal, true, |a, b| a == b).window.count;
            }
            assert_eq!(r.plan(page, Pattern::Normal, true, |a, b| a == b).behind, None, "fresh pages stay");
        }
    }

    #[test]
    fn the_runs_of_a_window_are_its_pages() {
        let pages = |stride, count| Window { first: 100, stride, count }.runs().flatten().collect::<Vec<_>>();
        assert_eq!(pages(1, 3), [100, 101, 102]);
        assert_eq!(pages(-1, 3), [98, 99, 100]);
        assert_eq!(pages(-40, 4), [100, 60, 20]);
        assert!(pages(1, 0).is_empty());
    }
    #[test]
    fn a_backward_stream_may_look_past_page_0() {
        let mut r = ReadAhead::default();
        for page in [11, 10, 6, 3] {
            assert_eq!(r.plan(page, Pattern::Normal, false, |a, b| a == b).window.first, page);
        }
    }
}
