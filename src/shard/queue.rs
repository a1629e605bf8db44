//! What is waiting to be written to each connection, as ranges of shared segments.
//!
//! A segment is a run of encoded frames. A broadcast is one segment that all members of a room on this core share: each
//! member's queue holds only a range of it, so that a delivery copies nothing and, once the pool has grown, allocates
//! nothing. References are counted in the pool, by this core alone: an atomic count would be one cache line that
//! all cores write for each delivery. A connection with nothing to send owns no memory here beyond its [`SendQueue`].

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;

use crate::proto::http2::Chunk;

const NONE: u32 = u32::MAX;

/// How large one connection's own segment may grow before the next one is begun: replies of one turn go into one
/// segment, which is written at once, and a large one would be copied as it grows.
const OWN_SEGMENT_BYTES: usize = 16 * 1024;

/// How many emptied buffers are kept for reuse, and how large a buffer may be to be kept.
const SPARE_BUFFERS: usize = 64;
const SPARE_BUFFER_BYTES: usize = 2 * OWN_SEGMENT_BYTES;

/// Frames encoded once, to be shared by many connections and by all cores.
#[derive(Debug, Clone)]
pub struct Frames {
    /// The frames, one after the other.
    pub bytes: Arc<[u8]>,
    /// Where each frame ends. A frame may be empty: an event that an encoding does not show.
    pub ends: Arc<[u32]>,
}

impl Frames {
    /// The bytes of frame `index`.
    pub fn range(&self, index: usize) -> Range<u32> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        start..self.ends[index]
    }

    /// The frames that lie in `range`, which begins and ends with one.
    pub fn within(&self, range: Range<u32>) -> impl Iterator<Item = Range<u32>> {
        let first = self.ends.partition_point(|end| *end <= range.start);
        (first..self.ends.len())
            .map(|index| self.range(index))
            .take_while(move |frame| frame.start < range.end)
    }
}

/// The bytes queued on one connection.
#[derive(Debug)]
pub struct SendQueue {
    head: u32,
    tail: u32,
    bytes: u32,
}

impl Default for SendQueue {
    fn default() -> Self {
        SendQueue { head: NONE, tail: NONE, bytes: 0 }
    }
}

impl SendQueue {
    /// How many bytes are queued.
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.head == NONE
    }
}

/// The segments and ranges of all queues of one core.
#[derive(Debug, Default)]
pub struct SendPool {
    segments: Slab<Segment>,
    ranges: Slab<Node>,
    /// Bytes in all segments.
    bytes: u64,
    spare: Vec<(Vec<u8>, Vec<u32>)>,
}

/// A segment that is being handed to members. Must be given back with [`SendPool::done`].
#[derive(Debug)]
#[must_use]
pub struct Shared(u32);

#[derive(Debug)]
struct Segment {
    data: Data,
    references: u32,
}

#[derive(Debug)]
enum Data {
    Shared(Frames),
    /// One connection's own frames, while they are last in its queue.
    Own(Vec<u8>, Vec<u32>),
}

#[derive(Debug)]
struct Node {
    segment: u32,
    start: u32,
    end: u32,
    next: u32,
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Data::Shared(frames) => &frames.bytes,
            Data::Own(bytes, _) => bytes,
        }
    }

    fn ends(&self) -> &[u32] {
        match self {
            Data::Shared(frames) => &frames.ends,
            Data::Own(_, ends) => ends,
        }
    }
}

impl SendPool {
    /// Takes frames in, to be queued on any number of connections by [`SendPool::push`].
    pub fn share(&mut self, frames: Frames) -> Shared {
        self.bytes += frames.bytes.len() as u64;
        Shared(self.segments.insert(Segment { data: Data::Shared(frames), references: 1 }) as u32)
    }

    /// Ends the handing out of a segment: it goes when the last queue has written it.
    pub fn done(&mut self, shared: Shared) {
        self.unreference(shared.0);
    }

    /// Queues a range of a shared segment. An empty range is nothing.
    pub fn push(&mut self, queue: &mut SendQueue, shared: &Shared, range: Range<u32>) {
        if range.is_empty() {
            return;
        }
        self.segments[shared.0 as usize].references += 1;
        self.append(queue, shared.0, range);
    }

    /// Queues one frame for this connection alone, written by `encode` at the end of a buffer.
    pub fn push_frame(&mut self, queue: &mut SendQueue, encode: impl FnOnce(&mut Vec<u8>)) {
        if let Some(Segment { data: Data::Own(bytes, ends), .. }) = self.tail_segment(queue)
            && bytes.len() < OWN_SEGMENT_BYTES
        {
            let before = bytes.len();
            encode(bytes);
            let end = bytes.len();
            ends.push(end as u32);
            self.ranges[queue.tail as usize].end = end as u32;
            self.bytes += (end - before) as u64;
            queue.bytes += (end - before) as u32;
            return;
        }
        let (mut bytes, mut ends) = self.spare.pop().unwrap_or_default();
        encode(&mut bytes);
        if bytes.is_empty() {
            self.keep_spare(bytes, ends);
            return;
        }
        let end = bytes.len() as u32;
        ends.push(end);
        self.bytes += u64::from(end);
        let segment = self.segments.insert(Segment { data: Data::Own(bytes, ends), references: 1 }) as u32;
        self.append(queue, segment, 0..end);
    }

    /// Fills `slices` with the head of the queue, for one `writev`, and returns how many it filled.
    pub fn gather<'a>(&'a self, queue: &SendQueue, slices: &mut [IoSlice<'a>]) -> usize {
        let mut node = queue.head;
        for (filled, slice) in slices.iter_mut().enumerate() {
            if node == NONE {
                return filled;
            }
            let Node { segment, start, end, next } = self.ranges[node as usize];
            *slice =
                IoSlice::new(&self.segments[segment as usize].data.bytes()[start as usize..end as usize]);
            node = next;
        }
        slices.len()
    }

    /// Takes `written` bytes off the head.
    ///
    /// # Panics
    /// When the queue holds fewer.
    #[inline]
    pub fn advance(&mut self, queue: &mut SendQueue, mut written: usize) {
        assert!(written <= queue.bytes(), "wrote more than was queued");
        queue.bytes -= written as u32;
        while written > 0 {
            let node = &mut self.ranges[queue.head as usize];
            let length = (node.end - node.start) as usize;
            if written < length {
                node.start += written as u32;
                return;
            }
            written -= length;
            self.pop(queue);
        }
    }

    /// Takes at most `bytes_max` bytes off the head, as far as they are of one segment.
    pub fn take(&mut self, queue: &mut SendQueue, bytes_max: usize) -> Option<Chunk> {
        let Node { segment, start, end, .. } = *self.ranges.get(queue.head as usize)?;
        let (start, end) = (start as usize, end as usize);
        let end = end.min(start + bytes_max);
        let chunk = match &self.segments[segment as usize].data {
            Data::Shared(frames) => Chunk::Shared { bytes: frames.bytes.clone(), start, end },
            Data::Own(bytes, _) => Chunk::Own(Bytes::copy_from_slice(&bytes[start..end])),
        };
        self.advance(queue, end - start);
        Some(chunk)
    }

    /// Drops everything.
    pub fn clear(&mut self, queue: &mut SendQueue) {
        while queue.head != NONE {
            self.pop(queue);
        }
        queue.bytes = 0;
    }

    /// Drops everything but the rest of a frame that has been written in part, so that the next frame can follow.
    pub fn cut_at_frame(&mut self, queue: &mut SendQueue) {
        if queue.is_empty() {
            return;
        }
        let Node { segment, start, end, .. } = self.ranges[queue.head as usize];
        let ends = self.segments[segment as usize].data.ends();
        let within = ends.partition_point(|end| *end <= start);
        let is_at_boundary = start == 0 || ends[within.saturating_sub(1)] == start;
        let keep_to = if is_at_boundary { start } else { ends[within].min(end) };
        let mut rest = SendQueue::default();
        if keep_to > start {
            self.segments[segment as usize].references += 1;
            self.append(&mut rest, segment, start..keep_to);
        }
        self.clear(queue);
        *queue = rest;
    }

    /// Bytes in all segments, one that many queues share once.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many ranges and segments are in use.
    pub fn in_use(&self) -> (usize, usize) {
        (self.ranges.len(), self.segments.len())
    }

    fn append(&mut self, queue: &mut SendQueue, segment: u32, range: Range<u32>) {
        queue.bytes += range.end - range.start;
        let node = Node { segment, start: range.start, end: range.end, next: NONE };
        let node = self.ranges.insert(node) as u32;
        match queue.tail {
            NONE => queue.head = node,
            tail => self.ranges[tail as usize].next = node,
        }
        queue.tail = node;
    }

    fn tail_segment(&mut self, queue: &SendQueue) -> Option<&mut Segment> {
        let node = self.ranges.get(queue.tail as usize)?;
        // A range that stops short of its segment's end was cut: more would follow the part that was dropped.
        self.segments.get_mut(node.segment as usize).filter(|s| s.data.bytes().len() == node.end as usize)
    }

    fn pop(&mut self, queue: &mut SendQueue) {
        let node = self.ranges.remove(queue.head as usize);
        queue.head = node.next;
        if node.next == NONE {
            queue.tail = NONE;
        }
        self.unreference(node.segment);
    }

    fn unreference(&mut self, segment: u32) {
        let entry = &mut self.segments[segment as usize];
        entry.references -= 1;
        if entry.references == 0 {
            let data = self.segments.remove(segment as usize).data;
            self.bytes -= data.bytes().len() as u64;
            if let Data::Own(bytes, ends) = data {
                self.keep_spare(bytes, ends);
            }
        }
    }

    fn keep_spare(&mut self, mut bytes: Vec<u8>, mut ends: Vec<u32>) {
        if self.spare.len() < SPARE_BUFFERS && bytes.capacity() <= SPARE_BUFFER_BYTES {
            bytes.clear();
            ends.clear();
            self.spare.push((bytes, ends));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(list: &[Vec<u8>]) -> Frames {
        let mut ends = Vec::new();
        let mut bytes = Vec::new();
        for frame in list {
            bytes.extend_from_slice(frame);
            ends.push(bytes.len() as u32);
        }
        Frames { bytes: bytes.into(), ends: ends.into() }
    }

    fn drain(pool: &mut SendPool, queue: &mut SendQueue, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let n = pool.gather(queue, &mut slices);
            let all: Vec<u8> = slices[..n].iter().flat_map(|s| s.iter().copied()).collect();
            let written = all.len().min(step);
            out.extend_from_slice(&all[..written]);
            pool.advance(queue, written);
        }
        out
    }

    #[derive(Debug, Clone)]
    enum Op {
        Own(Vec<u8>),
        Share(Vec<Vec<u8>>),
        Write(usize),
        Cut,
    }

    fn op() -> impl Strategy<Value = Op> {
        let frame = || prop::collection::vec(any::<u8>(), 0..6);
        prop_oneof![
            frame().prop_map(Op::Own),
            prop::collection::vec(frame(), 1..4).prop_map(Op::Share),
            (0usize..12).prop_map(Op::Write),
            Just(Op::Cut),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_list_of_frames(ops in prop::collection::vec(op(), 0..60)) {
            let mut pool = SendPool::default();
            let mut queue = SendQueue::default();
            // Frames not wholly written, and how much of the first one is.
            let mut model: Vec<Vec<u8>> = Vec::new();
            let mut head_written = 0;
            for op in ops {
                match op {
                    Op::Own(frame) => {
                        pool.push_frame(&mut queue, |out| out.extend_from_slice(&frame));
                        if !frame.is_empty() { model.push(frame); }
                    }
                    Op::Share(list) => {
                        let frames = frames(&list);
                        let all = 0..frames.bytes.len() as u32;
                        let shared = pool.share(frames);
                        pool.push(&mut queue, &shared, all);
                        pool.done(shared);
                        model.extend(list.into_iter().filter(|f| !f.is_empty()));
                    }
                    Op::Write(wanted) => {
                        let mut left = wanted.min(queue.bytes());
                        pool.advance(&mut queue, left);
                        while left > 0 {
                            let rest = model[0].len() - head_written;
                            if left < rest { head_written += left; break; }
                            left -= rest;
                            head_written = 0;
                            model.remove(0);
                        }
                    }
                    Op::Cut => {
                        pool.cut_at_frame(&mut queue);
                        model.truncate(usize::from(head_written > 0));
                    }
                }
                let expected: usize = model.iter().map(Vec::len).sum::<usize>() - head_written;
                prop_assert_eq!(queue.bytes(), expected);
                let in_segments: usize = pool.segments.iter().map(|(_, s)| s.data.bytes().len()).sum();
                prop_assert_eq!(pool.bytes(), in_segments as u64);
            }
            let expected: Vec<u8> = model.concat()[head_written..].to_vec();
            prop_assert_eq!(drain(&mut pool, &mut queue, 5), expected);
            prop_assert_eq!((pool.in_use(), pool.bytes()), ((0, 0), 0));
        }
    }

    #[test]
    fn replies_of_one_turn_are_one_range_and_their_buffer_is_reused() {
        let (mut pool, mut queue) = (SendPool::default(), SendQueue::default());
        for _ in 0..100 {
            pool.push_frame(&mut queue, |out| out.extend_from_slice(b"reply\n"));
        }
        assert_eq!(pool.in_use(), (1, 1));
        pool.advance(&mut queue, 600);
        assert_eq!((pool.in_use(), pool.spare.len()), ((0, 0), 1));
        pool.push_frame(&mut queue, |out| out.extend_from_slice(b"again"));
        assert_eq!(pool.spare.len(), 0, "a spare buffer lies idle");
    }
}
