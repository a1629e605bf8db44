//! What comes in: decoded where it lies, timed once a read, audited message by message.

use super::super::audit::{OFFSETS, UNKNOWN};
use super::super::cast::NONE;
use super::super::marker::{Content, Marker, NO_NAME};
use super::super::plan::Profile;
use super::super::target::{Ack, Heard, Joined, Protocol, Stage};
use super::{Generator, Peer, Session, State, UNSEEN};
use crate::base::slots::Id;

/// How much of the input is first put behind the beginning of a message that came before: most are shorter.
const PIECE_BYTES: usize = 2048;

impl Generator {
    /// Bytes have come.
    pub(super) fn take_input(&mut self, id: Id, input: &[u8]) {
        // One moment for all that one read has brought: none of it was to be had before.
        let now_ns = self.shared.clock.now_ns();
        self.has_worked = true;
        self.reads += 1;
        self.read_ns = now_ns;
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.has_heard = true;
        let local = peer.member as usize;
        let mut heard = std::mem::take(&mut self.heard);
        let received_before = self.tally.received;
        let protocol = &*self.shared.target.protocol;
        let decoded = decode(protocol, &mut peer.stage, &mut peer.carry, input, &mut heard);
        for heard in heard.drain(..) {
            match heard {
                Heard::Message { content, offset, sender } => {
                    self.deliver(local, content, offset, sender, now_ns)
                }
                other => self.hear(id, local, other, now_ns),
            }
        }
        self.heard = heard;
        self.tally.reads += u64::from(self.tally.received > received_before);
        self.go_on(now_ns);
        if let Err(why) = decoded {
            self.lose(id, &why);
        }
    }

    #[inline]
    fn deliver(&mut self, local: usize, content: Content, offset: u64, sender: u64, now_ns: u64) {
        let member = &mut self.members[local];
        if member.is_slow {
            return;
        }
        let marker = content.marker;
        // Its numbers are believed all the same: where they have been changed, the sequences show it too.
        self.tally.damaged += u64::from(content.bytes != Some(self.content_bytes));
        let Some(&(room, place)) = self.shared.cast.publishers.get(marker.publisher as usize) else {
            self.tally.strays += 1;
            return;
        };
        if room != member.room {
            // One who moves may still hear the room it comes from.
            self.tally.strays += u64::from(self.shared.plan.profile != Profile::Mix);
            return;
        }
        let is_named = sender != NO_NAME && self.names[marker.publisher as usize] != sender;
        self.tally.misattributed += u64::from(is_named);
        self.tally.received_in_all += 1;
        self.tally.received += u64::from(now_ns >= self.from_ns && now_ns < self.end_ns);
        if marker.due_ns >= self.from_ns && marker.due_ns < self.end_ns {
            self.tally.latency.saturating_record(now_ns.saturating_sub(marker.due_ns));
        }
        let track = &mut member.tracks[place as usize];
        if marker.sequence == *track {
            *track += 1;
            if self.level.is_some() && member.number == marker.publisher {
                self.publishers[member.publisher as usize].ledger.heard(marker.sequence, offset);
            }
        } else {
            let expected = if *track == UNSEEN { UNKNOWN } else { u64::from(*track) };
            let key = (member.number, marker.publisher);
            *track = self.by_sequence.see(key, expected, u64::from(marker.sequence)) as u32;
        }
        if offset > 0 {
            member.next_offset = self.by_offset.see((member.number, OFFSETS), member.next_offset, offset);
        }
        if member.is_witness {
            self.witness(local, marker);
        }
    }

    /// A message has arrived where that is looked for.
    fn witness(&mut self, local: usize, marker: Marker) {
        let place = self.place_of[marker.publisher as usize];
        if place == NONE || self.publishers[place as usize].witness != local as u32 {
            return;
        }
        match self.shared.plan.profile {
            Profile::Churn => {
                if let Some(id) = self.members[local].connection {
                    self.quit(id);
                }
            }
            Profile::Acks => {}
            _ if self.is_closed_loop() => self.completed.push(place),
            _ => {}
        }
    }

    fn hear(&mut self, id: Id, local: usize, heard: Heard, now_ns: u64) {
        match heard {
            Heard::Message { .. } => {}
            Heard::Answered => {
                let place = self.members[local].publisher;
                let Some(publisher) = self.publishers.get_mut(place as usize) else { return };
                let Some(due_ns) = publisher.unanswered.pop_front() else {
                    self.tally.strays += 1;
                    return;
                };
                let sequence = publisher.next_sequence - publisher.unanswered.len() as u32 - 1;
                let marker = Marker { publisher: publisher.number, sequence, due_ns };
                let content = Content { marker, bytes: Some(self.content_bytes) };
                self.deliver(local, content, 0, NO_NAME, now_ns);
            }
            Heard::Open => {
                self.enter(id);
                // The socket is there, and with nothing to write nothing more will be told of it.
                let is_in = |peer: &Peer| peer.state == State::Silent && peer.out.is_empty();
                if self.peers.get(id).is_some_and(is_in) {
                    self.arrive(id, None);
                }
            }
            Heard::Welcome(token) => {
                if self.shared.plan.profile == Profile::Resume {
                    self.members[local].session.get_or_insert_default().token = token;
                }
                if self.members[local].room == NONE {
                    self.arrive(id, None);
                }
            }
            Heard::Joined(joined) => self.arrive(id, Some(&joined)),
            Heard::Acknowledged(ack) => self.acknowledge(local, ack, now_ns),
            Heard::Ping(payload) => {
                if let Some(peer) = self.peers.get_mut(id) {
                    self.shared.target.protocol.pong(&payload, &mut peer.out);
                    self.touch(id);
                }
            }
            Heard::Refused(why) => *self.tally.refused.entry(why.into_string()).or_default() += 1,
            Heard::Bye(why) => {
                self.farewells.insert(id, why);
            }
        }
    }

    /// A message has been acknowledged, or so it is said.
    fn acknowledge(&mut self, local: usize, ack: Ack, now_ns: u64) {
        // Nobody has asked for it.
        let Some(level) = self.level else { return };
        let place = self.members[local].publisher;
        let publisher = self.publishers.get_mut(place as usize);
        let Some(publisher) = publisher.filter(|publisher| publisher.number == ack.marker.publisher) else {
            // It is somebody else's.
            self.tally.acks.wrong += 1;
            return;
        };
        if !publisher.ledger.acknowledged(ack, level, publisher.next_sequence) {
            return;
        }
        let due_ns = ack.marker.due_ns;
        if due_ns >= self.from_ns && due_ns < self.end_ns {
            self.tally.acknowledged.saturating_record(now_ns.saturating_sub(due_ns));
        }
        if self.is_closed_loop() {
            self.completed.push(place);
        }
    }

    /// One is where one should be: in a room, or after a hello where there is none.
    pub(super) fn arrive(&mut self, id: Id, joined: Option<&Joined>) {
        let now_ns = self.shared.clock.now_ns();
        let Some(peer) = self.peers.get_mut(id) else { return };
        let is_first = matches!(peer.state, State::Entering | State::Silent);
        let local = peer.member as usize;
        if is_first {
            peer.state = State::In;
            self.handshakes -= 1;
        }
        let member = &mut self.members[local];
        if member.moving_to != NONE {
            member.room = std::mem::replace(&mut member.moving_to, NONE);
            self.tally.moves += 1;
        }
        let has_recovered = joined.and_then(|joined| joined.recovered);
        if self.has_cut && is_first && self.shared.plan.profile == Profile::Resume {
            self.tally.recovery.saturating_record(now_ns.saturating_sub(member.due_ns));
            match has_recovered {
                Some(true) => self.tally.recovered += 1,
                _ => self.tally.unrecovered += 1,
            }
        } else if is_first {
            self.tally.entry.saturating_record(now_ns.saturating_sub(member.due_ns));
        }
        if let Some(joined) = joined.filter(|joined| !joined.epoch.is_empty()) {
            if has_recovered != Some(true) {
                member.next_offset = joined.offset + 1;
            }
            if self.shared.plan.profile == Profile::Resume {
                let epoch = joined.epoch.clone();
                member.session.get_or_insert_with(Box::<Session>::default).epoch = epoch;
            }
        }
        let speakers = self.shared.cast.speakers_of.get(member.room as usize).map_or(0, Vec::len);
        let is_churn = self.shared.plan.profile == Profile::Churn;
        if has_recovered != Some(true) && (!is_churn || member.tracks.is_empty()) {
            // Who is there before anybody speaks hears everything from the first word on.
            let first = if self.has_begun && !is_churn { UNSEEN } else { 0 };
            member.tracks = vec![first; speakers].into();
        }
        if is_first && !member.is_in {
            member.is_in = true;
            self.ready += 1;
        }
        let publisher = member.publisher;
        if is_churn && is_first {
            let due_ns = member.due_ns;
            self.publish(publisher as usize, due_ns);
        }
    }
}

/// Decodes what there is. What is left of the input is kept for the next time.
fn decode(
    protocol: &dyn Protocol,
    stage: &mut Stage,
    carry: &mut Vec<u8>,
    input: &[u8],
    heard: &mut Vec<Heard>,
) -> Result<(), String> {
    let mut rest = input;
    if !carry.is_empty() {
        let mut kept = std::mem::take(carry);
        let mut piece_bytes = PIECE_BYTES;
        loop {
            let had_bytes = kept.len();
            let piece = &rest[..piece_bytes.min(rest.len())];
            kept.extend_from_slice(piece);
            let taken = protocol.decode(stage, &kept, heard)?;
            if taken >= had_bytes {
                // What was kept is done, and the input can be read where it lies again.
                rest = &rest[taken - had_bytes..];
                break;
            }
            kept.drain(..taken);
            rest = &rest[piece.len()..];
            if rest.is_empty() {
                *carry = kept;
                return Ok(());
            }
            piece_bytes *= 2;
        }
    }
    if !rest.is_empty() {
        let taken = protocol.decode(stage, rest, heard)?;
        if taken < rest.len() {
            *carry = rest[taken..].to_vec();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::target::{Options, Target};
    use super::*;

    /// A generator with one member, in a room of JSON lines, that has heard messages with these sequences and offsets.
    fn after(messages: &[(u32, u64)]) -> crate::bench::tally::Tally {
        changed(messages, |line| line)
    }

    /// The same, when the target changes each line like this.
    fn changed(messages: &[(u32, u64)], change: fn(String) -> String) -> crate::bench::tally::Tally {
        use std::sync::Arc;

        use crate::bench::cast::{Cast, tests::plan};
        use crate::bench::shared::Shared;
        use crate::reactor::World as _;

        let plan = plan(Profile::Fanout, 1, 1, 1, 1);
        let cast = Cast::new(&plan, "t".into());
        let target = Target::parse("lines://127.0.0.1:1", &Options::default()).unwrap();
        let mut generator = Generator::new(Arc::new(Shared::new(plan, cast, target)), 0);
        let id = generator.next_connect().unwrap().id;
        let mut input =
            br#"{"type":"joined","room":"t-r0","epoch":"e","offset":4,"role":"host","members":1,"state":{}}"#
                .to_vec();
        input.push(b'\n');
        for (sequence, offset) in messages {
            let mut line = br#"{"type":"message","room":"t-r0","sender":"t-0","content":""#.to_vec();
            Marker { publisher: 0, sequence: *sequence, due_ns: 0 }.put_content(64, &mut line);
            line.extend_from_slice(format!("\",\"offset\":{offset},\"timestamp\":5}}\n").as_bytes());
            input.extend_from_slice(change(String::from_utf8(line).unwrap()).as_bytes());
        }
        generator.receive(id, &mut input);
        generator.into_tally()
    }

    #[test]
    fn what_a_target_does_wrong_is_found() {
        let tally = after(&[(0, 5), (1, 6), (2, 7)]);
        assert_eq!(tally.received_in_all, 3);
        assert!(!tally.offsets.any() && !tally.sequences.any());
        // The offsets alone are wrong.
        let tally = after(&[(0, 5), (1, 7), (2, 8)]);
        assert_eq!((tally.offsets.gaps, tally.offsets.missing), (1, 1));
        assert!(!tally.sequences.any());
        // And the sequences alone: a message was taken for another.
        let tally = after(&[(0, 5), (0, 6), (1, 7)]);
        assert!(!tally.offsets.any());
        assert_eq!(tally.sequences.repeated, 1);
        // The first message after the join is missing.
        assert_eq!(after(&[(0, 6)]).offsets.missing, 1);
    }

    #[test]
    fn every_byte_of_a_message_is_looked_at() {
        let messages = [(0, 5), (1, 6)];
        let tally = after(&messages);
        assert_eq!((tally.damaged, tally.misattributed), (0, 0));
        for change in [
            |line: String| line.replacen("...", "..,", 1),
            |line: String| line.replacen("...", "..", 1),
            |line: String| line.replacen("...", "....", 1),
        ] {
            assert_eq!(changed(&messages, change).damaged, 2);
        }
        for change in [
            |line: String| line.replace("t-0", "t-1"),
            |line: String| line.replace("t-0", ""),
            |line: String| line.replace(r#""sender":"t-0","#, ""),
        ] {
            assert_eq!(changed(&messages, change).misattributed, 2);
        }
    }

    proptest! {
        #[test]
        fn messages_are_whole_however_they_are_cut(
            pieces in prop::collection::vec(1usize..9000, 1..20), sizes in prop::collection::vec(0usize..6000, 1..20),
        ) {
            let target = Target::parse("tcp://127.0.0.1:1", &Options::default()).unwrap();
            let me = super::super::super::target::Persona {
                number: 0, nickname: "n", room: "", is_alone: false, comeback: None,
            };
            let mut input = Vec::new();
            for (sequence, bytes) in sizes.iter().enumerate() {
                let marker = Marker { publisher: 0, sequence: sequence as u32, due_ns: 0 };
                target.protocol.publish(&me, marker, *bytes, None, &mut input);
            }
            let (mut stage, mut carry, mut heard) = (0, Vec::new(), Vec::new());
            let mut rest = &input[..];
            for piece in pieces.iter().cycle() {
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                decode(&*target.protocol, &mut stage, &mut carry, now, &mut heard).unwrap();
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(carry.is_empty());
            let sequences: Vec<u32> = heard.iter().map(|heard| match heard {
                Heard::Message { content, .. } => content.marker.sequence,
                other => panic!("{other:?}"),
            }).collect();
            prop_assert_eq!(sequences, (0..sizes.len() as u32).collect::<Vec<_>>());
        }
    }
}
