// SPDX-License-Identifier: Apache-2.0
//! Owns: the streams of faults that look like sequential, backward or strided access, and their windows.
//! Callers: `fault`. A stream doubles its window each time the fault it predicted comes; anything else is random
//! access, which is served one page at a time because unwanted pages cost a frame each.

/// Streams followed at once.
const STREAMS: usize = 16;
/// The widest window in pages.
pub const MAX_WINDOW: usize = 64;

#[derive(Clone, Copy, Default)]
struct Stream {
    /// The fault expected next; meaningful only when `stride` is not zero.
    next: i64,
    last: i64,
    stride: i64,
    window: usize,
    stamp: u64,
}

/// What to bring in: `count` pages from `first`, `stride` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

#[derive(Default)]
pub struct ReadAhead {
    streams: [Stream; STREAMS],
    clock: u64,
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

impl ReadAhead {
    /// The window for a fault at `page`.
    pub fn window(&mut self, page: usize, pattern: Pattern) -> Window {
        if pattern == Pattern::Random {
            return Window::single(page);
        }
        self.clock += 1;
        let at = page as i64;
        let index = self.predicted(at).or_else(|| self.adjacent(at)).unwrap_or_else(|| self.oldest(at));
        let stream = &mut self.streams[index];
        stream.stamp = self.clock;
        if pattern == Pattern::Sequential && stream.stride == 0 {
            (stream.stride, stream.window) = (1, MAX_WINDOW / 2);
        }
        let stride = if stream.stride == 0 { 1 } else { stream.stride };
        let count = stream.window.max(1);
        stream.last = at + stride * (count as i64 - 1);
        stream.next = at + stride * count as i64;
        Window { first: page, stride, count }
    }

    /// A stream that expected exactly this fault: it doubles.
    fn predicted(&mut self, at: i64) -> Option<usize> {
        let i = self.streams.iter().position(|s| s.stamp != 0 && s.stride != 0 && s.next == at)?;
        self.streams[i].window = (self.streams[i].window * 2).clamp(2, MAX_WINDOW);
        Some(i)
    }

    /// A lone fault near this one: together they may begin a stream.
    fn adjacent(&mut self, at: i64) -> Option<usize> {
        const REACH: i64 = 16;
        let near = |s: &Stream| s.stamp != 0 && s.last != at && (at - s.last).abs() <= REACH;
        let i = (0..STREAMS).filter(|&i| near(&self.streams[i])).max_by_key(|&i| self.streams[i].stamp)?;
        let s = &mut self.streams[i];
        s.stride = at - s.last;
        s.window = if s.stride.abs() == 1 { 4 } else { 1 };
        Some(i)
    }

    fn oldest(&mut self, at: i64) -> usize {
        let i = (0..STREAMS).min_by_key(|&i| self.streams[i].stamp).unwrap_or(0);
        self.streams[i] = Stream { next: 0, last: at, stride: 0, window: 1, stamp: 0 };
        i
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widths(faults: &[usize]) -> Vec<usize> {
        let mut r = ReadAhead::default();
        faults.iter().map(|&p| r.window(p, Pattern::Normal).count).collect()
    }

    #[test]
    fn windows_double_along_a_forward_stream() {
        let mut r = ReadAhead::default();
        let (mut page, mut seen) = (100, Vec::new());
        for _ in 0..9 {
            let w = r.window(page, Pattern::Normal);
            seen.push(w.count);
            page += w.count;
        }
        assert_eq!(seen, [1, 4, 8, 16, 32, 64, 64, 64, 64]);
    }

    #[test]
    fn a_backward_stream_is_followed_downwards() {
        let mut r = ReadAhead::default();
        let (mut page, mut last) = (5000i64, Window::single(0));
        for _ in 0..6 {
            last = r.window(page as usize, Pattern::Normal);
            page -= last.count as i64;
        }
        assert_eq!((last.stride, last.count), (-1, 64));
        assert_eq!(last.page(3), Some(last.first - 3));
    }

    #[test]
    fn a_strided_stream_keeps_its_stride() {
        let mut r = ReadAhead::default();
        let mut page = 0;
        let mut last = Window::single(0);
        for _ in 0..6 {
            last = r.window(page, Pattern::Normal);
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
            a += r.window(a, Pattern::Normal).count;
            b += r.window(b, Pattern::Normal).count;
        }
        assert_eq!(r.window(a, Pattern::Normal).count, 64);
        assert_eq!(r.window(b, Pattern::Normal).count, 64);
    }
}
