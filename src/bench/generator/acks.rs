//! Acknowledgements, matched with the messages that they are for (`acks`).

use std::collections::HashMap;

use super::super::audit::{AckFaults, Audit};
use super::super::target::{Ack, Level};

/// In the place of a publisher's number, for the one stream of a ledger.
const ONLY: (u32, u32) = (0, 0);

/// One publisher's acknowledgements: each message is to have one, at the level that was asked for, with the offset under
/// which the publisher hears the message itself.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The next sequence that is to be acknowledged. The order is not the target's promise: only that each comes once.
    next: u64,
    audit: Audit,
    /// The offsets of messages that have been acknowledged or heard, but not both yet.
    half_known: HashMap<u32, Half>,
    wrong: u64,
    seen: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Acknowledged(u64),
    Heard(u64),
}

impl Ledger {
    /// An acknowledgement has come, when `sent` messages had been sent. Whether it is the first one for its message.
    pub fn acknowledged(&mut self, ack: Ack, wanted: Level, sent: u32) -> bool {
        self.seen += 1;
        let sequence = ack.marker.sequence;
        if sequence >= sent {
            // Of what has not been said.
            self.wrong += 1;
            return false;
        }
        let repeated_before = self.audit.repeated();
        self.next = self.audit.see(ONLY, self.next, u64::from(sequence));
        if self.audit.repeated() > repeated_before {
            return false;
        }
        self.wrong += u64::from(ack.level != wanted);
        self.compare(sequence, Half::Acknowledged(ack.offset));
        true
    }

    /// The publisher has heard its own message, for the first time.
    pub fn heard(&mut self, sequence: u32, offset: u64) {
        self.compare(sequence, Half::Heard(offset));
    }

    fn compare(&mut self, sequence: u32, half: Half) {
        match (self.half_known.remove(&sequence), half) {
            (Some(Half::Acknowledged(one)), Half::Heard(other))
            | (Some(Half::Heard(one)), Half::Acknowledged(other)) => self.wrong += u64::from(one != other),
            // A message that came twice is the other audit's business.
            _ => drop(self.half_known.insert(sequence, half)),
        }
    }

    /// How many of `sent` messages have not been acknowledged, as far as their order tells.
    pub fn outstanding(&self, sent: u32) -> u64 {
        u64::from(sent).saturating_sub(self.next)
    }

    /// Nothing more will come, and `sent` have been sent.
    pub fn finish(mut self, sent: u32) -> AckFaults {
        self.audit.end(self.next, u64::from(sent));
        let faults = self.audit.finish();
        AckFaults { lost: faults.missing, repeated: faults.repeated, wrong: self.wrong, looked_at: self.seen }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::marker::Marker;
    use super::*;

    fn ack(sequence: u32, offset: u64) -> Ack {
        let marker = Marker { publisher: 0, sequence, due_ns: 0 };
        Ack { marker, offset, level: Level::Sequenced }
    }

    /// What is found when these come of three messages, which are heard under the offsets 5, 6 and 7.
    fn found(acks: &[Ack]) -> (u64, u64, u64) {
        let mut ledger = Ledger::default();
        for (sequence, offset) in [(0, 5), (1, 6)] {
            ledger.heard(sequence, offset);
        }
        for one in acks {
            ledger.acknowledged(*one, Level::Sequenced, 3);
        }
        ledger.heard(2, 7);
        let faults = ledger.finish(3);
        assert_eq!(faults.looked_at, acks.len() as u64);
        (faults.lost, faults.repeated, faults.wrong)
    }

    #[test]
    fn each_message_is_to_have_one() {
        assert_eq!(found(&[ack(0, 5), ack(1, 6), ack(2, 7)]), (0, 0, 0));
        // Their order is nobody's promise.
        assert_eq!(found(&[ack(2, 7), ack(0, 5), ack(1, 6)]), (0, 0, 0));
        assert_eq!(found(&[ack(0, 5), ack(2, 7)]), (1, 0, 0));
        assert_eq!(found(&[ack(0, 5), ack(1, 6)]), (1, 0, 0));
        assert_eq!(found(&[ack(0, 5), ack(1, 6), ack(1, 6), ack(2, 7)]), (0, 1, 0));
        // Another offset, another level, and one of what was never said.
        assert_eq!(found(&[ack(0, 5), ack(1, 7), ack(2, 7)]), (0, 0, 1));
        assert_eq!(found(&[ack(0, 5), Ack { level: Level::Unknown, ..ack(1, 6) }, ack(2, 7)]), (0, 0, 1));
        assert_eq!(found(&[ack(0, 5), ack(1, 6), ack(2, 7), ack(3, 8)]), (0, 0, 1));
    }
}
