//! Where the time of a message goes: its way through the server in hops, and how long each takes. What is a hop, and what the
//! moments between them mean, is told in `docs/latency.md`.

use super::histogram::Histogram;

/// A part of a message's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// From the beginning of the turn that read it until its command was understood.
    ReadToParsed,
    /// Until the room's home had given it its offset.
    ParsedToSequenced,
    /// Until the core of the member that is followed took it in.
    SequencedToReceived,
    /// Until that member's socket had taken it.
    ReceivedToWritten,
    /// All of them together.
    Total,
}

/// The hops by their names, in order.
pub const HOPS: [(Hop, &str); 5] = [
    (Hop::ReadToParsed, "read_to_parsed"),
    (Hop::ParsedToSequenced, "parsed_to_sequenced"),
    (Hop::SequencedToReceived, "sequenced_to_received"),
    (Hop::ReceivedToWritten, "received_to_written"),
    (Hop::Total, "total"),
];

/// How long the hops took that ended on one core.
#[derive(Debug, Default)]
pub struct HopCounters([Histogram; HOPS.len()]);

impl HopCounters {
    /// A hop took so long, in nanoseconds. Only the owning core may call this.
    pub fn record(&self, hop: Hop, ns: u64) {
        self.0[hop as usize].record(ns);
    }

    /// What has been counted of a hop.
    pub fn of(&self, hop: Hop) -> &Histogram {
        &self.0[hop as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::histogram::Snapshot;

    #[test]
    fn every_hop_has_its_own_place() {
        let counters = HopCounters::default();
        for (place, (hop, _)) in HOPS.into_iter().enumerate() {
            assert_eq!(hop as usize, place);
            counters.record(hop, 1000 + place as u64);
        }
        for (place, (hop, _)) in HOPS.into_iter().enumerate() {
            let mut snapshot = Snapshot::default();
            counters.of(hop).add_to(&mut snapshot);
            assert_eq!((snapshot.count(), snapshot.sum_ns), (1, 1000 + place as u64));
        }
    }
}
