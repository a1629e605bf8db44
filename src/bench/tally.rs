//! What one thread has counted.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::audit::{AckFaults, Faults};

/// The longest time that is told apart from longer ones: an hour.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// Significant digits of every time.
const DIGITS: u8 = 3;

/// Counts and times.
#[derive(Debug)]
pub struct Tally {
    /// From the time that a message was due to its arrival, for each delivery of one that was due in the measured time. For
    /// profiles without messages: what they measure.
    pub latency: Histogram<u64>,
    /// From the time that a message was due to its being handed to the socket.
    pub lateness: Histogram<u64>,
    /// From the beginning of a connection to its being where it should.
    pub entry: Histogram<u64>,
    /// From the time that a message was due to its acknowledgement.
    pub acknowledged: Histogram<u64>,
    /// From the moment that a connection was cut to its session's being back in its room.
    pub recovery: Histogram<u64>,
    /// Messages that were due in the measured time.
    pub sent: u64,
    /// Messages that arrived in it.
    pub received: u64,
    /// Reads that brought some of these.
    pub reads: u64,
    /// All, before and after it too.
    pub sent_in_all: u64,
    /// All, before and after it too.
    pub received_in_all: u64,
    /// Found by the offsets.
    pub offsets: Faults,
    /// Found by the sequences in the content.
    pub sequences: Faults,
    /// Messages whose content was not the one that was sent.
    pub damaged: u64,
    /// Messages under another name than their publisher's.
    pub misattributed: u64,
    /// What was wrong with acknowledgements.
    pub acks: AckFaults,
    /// Messages for a room that the member is not in.
    pub strays: u64,
    /// Connections that broke without having been asked to, by reason.
    pub lost: BTreeMap<String, u64>,
    /// What was refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Sessions that came back whole.
    pub recovered: u64,
    /// Sessions that came back, but not to where they were.
    pub unrecovered: u64,
    /// Messages that were due while their publisher had no connection.
    pub unsent: u64,
    /// Members who were not where they should be in the end.
    pub absent: u64,
    /// Members who do not read that the target has closed.
    pub slow_closed: u64,
    /// Moves between rooms.
    pub moves: u64,
    /// Nanoseconds in the measured time that the thread was at work, not waiting for something to do.
    pub busy_ns: u64,
    /// Nanoseconds in the measured time that the thread had a processor.
    pub cpu_ns: u64,
}

impl Tally {
    /// Nothing counted.
    pub fn new() -> Tally {
        let histogram =
            || Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).expect("bounds and digits are possible");
        Tally {
            latency: histogram(),
            lateness: histogram(),
            entry: histogram(),
            acknowledged: histogram(),
            recovery: histogram(),
            sent: 0,
            received: 0,
            reads: 0,
            sent_in_all: 0,
            received_in_all: 0,
            offsets: Faults::default(),
            sequences: Faults::default(),
            damaged: 0,
            misattributed: 0,
            acks: AckFaults::default(),
            strays: 0,
            lost: BTreeMap::new(),
            refused: BTreeMap::new(),
            recovered: 0,
            unrecovered: 0,
            unsent: 0,
            absent: 0,
            slow_closed: 0,
            moves: 0,
            busy_ns: 0,
            cpu_ns: 0,
        }
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Tally) {
        let add = |to: &mut Histogram<u64>, from| to.add(from).expect("both have the same bounds");
        add(&mut self.latency, &other.latency);
        add(&mut self.lateness, &other.lateness);
        add(&mut self.entry, &other.entry);
        add(&mut self.acknowledged, &other.acknowledged);
        add(&mut self.recovery, &other.recovery);
        self.sent += other.sent;
        self.received += other.received;
        self.reads += other.reads;
        self.sent_in_all += other.sent_in_all;
        self.received_in_all += other.received_in_all;
        self.offsets.add(&other.offsets);
        self.sequences.add(&other.sequences);
        self.damaged += other.damaged;
        self.misattributed += other.misattributed;
        self.acks.add(&other.acks);
        self.strays += other.strays;
        for (to, from) in [(&mut self.lost, &other.lost), (&mut self.refused, &other.refused)] {
            for (why, count) in from {
                *to.entry(why.clone()).or_default() += count;
            }
        }
        self.recovered += other.recovered;
        self.unrecovered += other.unrecovered;
        self.unsent += other.unsent;
        self.absent += other.absent;
        self.slow_closed += other.slow_closed;
        self.moves += other.moves;
        self.busy_ns = self.busy_ns.max(other.busy_ns);
        self.cpu_ns += other.cpu_ns;
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}
