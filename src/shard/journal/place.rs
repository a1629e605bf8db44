//! Messages that wait for place in the journal.
//!
//! A storage thread that does not keep up, because the disk is slow or the thread has its processor not for itself, lets the journal fill up.
//! Whoever speaks is not refused for that at once: the message waits here, at its room's home, behind those that came before it, and is
//! handled as if it had just come when there is place. Nothing of its session overtakes it: to leave, or to end, a session waits for what
//! is under way. Meanwhile it counts among that, so that its client is not read from once it is as much as may be
//! (`limits.commands_in_flight`, `limits.peer_window`): no more can wait than that lets through, and clients feel it as they feel a network
//! that is slow.
//!
//! Nobody waits for ever: after `store.deadline_ms`, or as soon as the store is known to be down, what still has no place is refused.

use super::Journal;
use crate::base::time::Tick;
use crate::chat::user::SessionRef;
use crate::shard::Shard;
use crate::shard::mail::{ConnectionRef, Push, ReplyTo, Request};
use crate::shard::timers::Timer;

/// After how many milliseconds it is looked again whether there is place: a moment for a client, a turn or two for the core.
const RETRY_MS: u64 = 2;

/// How much text is let in together, in bytes, and no more than a quarter of `limits.send_queue_bytes`: it is told to the members of a room
/// as one batch, and who keeps up is not to be taken for slow because of that.
const LET_IN_BYTES: usize = 256 * 1024;

/// A message that waits.
#[derive(Debug)]
pub(super) struct Held {
    since: Tick,
    bytes: usize,
    what: What,
}

#[derive(Debug)]
enum What {
    Said(SessionRef, ReplyTo, Box<Request>),
    Pushed(ConnectionRef, Box<Push>),
}

impl Journal {
    /// Whether a message with `bytes` of text is to wait.
    pub(in crate::shard) fn holds_up(&self, bytes: usize) -> bool {
        self.is_on
            && !self.is_letting_in
            && !self.is_down()
            && (!self.held.is_empty() || !self.has_place(bytes))
    }
}

impl Shard {
    /// Takes a session's message, to be handled later.
    pub(in crate::shard) fn hold_message(&mut self, from: SessionRef, reply_to: ReplyTo, request: Request) {
        let bytes = match &request {
            Request::Publish { content, .. } => content.len(),
            _ => 0,
        };
        self.hold(bytes, What::Said(from, reply_to, Box::new(request)));
    }

    /// The same for what came by an HTTP request.
    pub(in crate::shard) fn hold_push(&mut self, from: ConnectionRef, push: Box<Push>) {
        self.hold(push.content.len(), What::Pushed(from, push));
    }

    fn hold(&mut self, bytes: usize, what: What) {
        self.counters.journal_waits.add(1);
        if self.journal.held.is_empty() {
            self.wheel.insert(self.now.tick + RETRY_MS, Timer::Place);
        }
        self.journal.held.push_back(Held { since: self.now.tick, bytes, what });
    }

    /// Handles those for whom there is place now, in their order, and refuses those who have waited for too long.
    pub(in crate::shard) fn let_messages_in(&mut self) {
        let (now, deadline_ms) = (self.now.tick, self.config.store.deadline_ms);
        self.journal.is_letting_in = true;
        let mut left = LET_IN_BYTES.min(self.limits.send_queue_bytes / 4);
        while let Some(Held { since, bytes, .. }) = self.journal.held.front() {
            let has_place = self.journal.has_place(*bytes);
            if !has_place && now.since(*since) >= deadline_ms {
                // So is, at once, all that waits behind it, until the store gets on.
                self.journal.is_stalled = true;
            }
            if !self.journal.is_down() && (!has_place || left == 0) {
                break;
            }
            left = left.saturating_sub(*bytes);
            match self.journal.held.pop_front().map(|held| held.what) {
                Some(What::Said(from, reply_to, request)) => self.handle_request(from, reply_to, *request),
                Some(What::Pushed(from, push)) => self.push(from, *push),
                None => break,
            }
        }
        self.journal.is_letting_in = false;
        if !self.journal.held.is_empty() {
            self.wheel.insert(now + RETRY_MS, Timer::Place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::Arc;

    use super::*;
    use crate::base::census::Census;
    use crate::base::slots::Id;
    use crate::base::time::Now;
    use crate::config::{Config, ListenKind};
    use crate::shard::Flock;

    const ROOM: usize = 1 << 20;

    /// A core with a store, and somebody who has joined a room.
    fn shard() -> (Shard, Id) {
        let mut config = Config::default();
        config.rate.commands_per_second = 0;
        config.store.queue_bytes = ROOM;
        let flock = Flock::of_one(Arc::new(config), Arc::new(Census::new(0, 0)));
        let mut shard = Shard::new(0, &Flock { has_store: true, ..flock }, Arc::default(), 1, Now::default());
        let id = shard.open([127, 0, 0, 1].into(), ListenKind::Line);
        let said = "{\"type\":\"hello\",\"nickname\":\"ann\"}\n{\"type\":\"join\",\"room\":\"den\",\"echo\":false}\n";
        shard.receive(id, &mut said.as_bytes().to_vec());
        told(&mut shard, id);
        take_frames(&mut shard);
        (shard, id)
    }

    fn take_frames(shard: &mut Shard) {
        while let Some(frame) = shard.take_frame() {
            let end = frame.len() as u64;
            shard.journaled(frame, Some(end), ROOM);
        }
    }

    fn say(shard: &mut Shard, id: Id, name: &str) {
        let said =
            format!("{{\"type\":\"message\",\"room\":\"den\",\"content\":\"{name}\",\"id\":\"{name}\"}}\n");
        shard.receive(id, &mut said.into_bytes());
    }

    fn at(shard: &mut Shard, ms: u64, room: usize) {
        shard.tick(Now::of_ms(ms, ms));
        shard.set_journal_room(room);
        while shard.expire() {}
        shard.settle();
        shard.send_gathered_events();
    }

    /// The replies since the last look: the id of each, and its offset or the reason of the error.
    fn told(shard: &mut Shard, id: Id) -> Vec<(String, String)> {
        let mut slices = [IoSlice::new(&[]); 64];
        let filled = shard.gather(id, &mut slices);
        let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
        shard.sent(id, bytes.len());
        let text = String::from_utf8(bytes).unwrap();
        let events = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let replies = events.filter_map(|event| {
            let what = event.get("reason").or(event.get("offset"))?.to_string();
            Some((event.get("id")?.as_str()?.to_owned(), what.trim_matches('"').to_owned()))
        });
        replies.collect()
    }

    fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(id, what)| ((*id).to_owned(), (*what).to_owned())).collect()
    }

    #[test]
    fn messages_wait_for_place_and_are_handled_in_their_order() {
        let (mut shard, ann) = shard();
        shard.set_journal_room(0);
        say(&mut shard, ann, "a");
        say(&mut shard, ann, "b");
        // There would be place for this one, but not for those before it.
        shard.set_journal_room(ROOM);
        say(&mut shard, ann, "c");
        assert_eq!((told(&mut shard, ann), shard.inventory().store_waits), (Vec::new(), 3));
        at(&mut shard, 1000, 0);
        assert_eq!(told(&mut shard, ann), []);
        // For as many as there is place for.
        at(&mut shard, 1002, ROOM / 4 + super::super::RECORD_BYTES + 20);
        assert_eq!(told(&mut shard, ann), pairs(&[("a", "1")]));
        at(&mut shard, 1004, ROOM);
        assert_eq!(told(&mut shard, ann), pairs(&[("b", "2"), ("c", "3")]));
        say(&mut shard, ann, "d");
        assert_eq!(told(&mut shard, ann), pairs(&[("d", "4")]));
        assert_eq!((shard.counters().journal_waits.value(), shard.counters().store_refused.value()), (3, 0));
        assert_eq!((shard.inventory().store_waits, shard.counters().published.value()), (0, 4));
    }

    #[test]
    fn nothing_of_a_session_overtakes_its_message() {
        let (mut shard, ann) = shard();
        shard.set_journal_room(0);
        say(&mut shard, ann, "a");
        shard.receive(ann, &mut b"{\"type\":\"leave\",\"room\":\"den\",\"id\":\"l\"}\n".to_vec());
        at(&mut shard, 2, 0);
        assert_eq!(told(&mut shard, ann), []);
        at(&mut shard, 4, ROOM);
        assert_eq!(told(&mut shard, ann), pairs(&[("a", "1"), ("l", "left")]));
        // Nor does the end of the session, for which nobody waits.
        shard.receive(ann, &mut b"{\"type\":\"join\",\"room\":\"den\"}\n".to_vec());
        shard.set_journal_room(0);
        say(&mut shard, ann, "b");
        shard.receive(ann, &mut b"{\"type\":\"quit\"}\n".to_vec());
        at(&mut shard, 6, 0);
        assert_eq!(shard.counters().published.value(), 1);
        at(&mut shard, 8, ROOM);
        assert_eq!((shard.counters().published.value(), shard.sessions.len()), (2, 0));
    }

    #[test]
    fn no_more_is_let_in_together_than_members_may_have_queued() {
        let (mut shard, ann) = shard();
        let bob = shard.open([127, 0, 0, 1].into(), ListenKind::Line);
        let said = "{\"type\":\"hello\",\"nickname\":\"bob\"}\n{\"type\":\"join\",\"room\":\"den\",\"echo\":false}\n";
        shard.receive(bob, &mut said.as_bytes().to_vec());
        shard.set_journal_room(0);
        for id in [ann, bob] {
            for name in 0..4 {
                let content = "x".repeat(60_000);
                let said = format!(
                    "{{\"type\":\"message\",\"room\":\"den\",\"content\":\"{content}\",\"id\":\"{name}\"}}\n"
                );
                shard.receive(id, &mut said.into_bytes());
            }
        }
        assert_eq!(shard.inventory().store_waits, 8);
        for (ms, waiting) in [(2, 3), (4, 0)] {
            at(&mut shard, ms, 8 * ROOM);
            assert_eq!(shard.inventory().store_waits, waiting, "after {ms} ms");
            take_frames(&mut shard);
        }
        assert_eq!(shard.counters().published.value(), 8);
    }

    #[test]
    fn who_waits_in_vain_is_refused_and_so_are_others_until_the_store_gets_on() {
        let (mut shard, ann) = shard();
        let deadline_ms = shard.config.store.deadline_ms;
        shard.set_journal_room(0);
        say(&mut shard, ann, "a");
        at(&mut shard, deadline_ms - 1, 0);
        say(&mut shard, ann, "b");
        assert_eq!(told(&mut shard, ann), []);
        at(&mut shard, deadline_ms + RETRY_MS, 0);
        assert_eq!(told(&mut shard, ann), pairs(&[("a", "store_down"), ("b", "store_down")]));
        say(&mut shard, ann, "c");
        assert_eq!(told(&mut shard, ann), pairs(&[("c", "store_down")]), "at once");
        shard.note_progress(1, 1);
        say(&mut shard, ann, "d");
        assert_eq!(told(&mut shard, ann), []);
        at(&mut shard, deadline_ms + 10, ROOM);
        assert_eq!(told(&mut shard, ann), pairs(&[("d", "1")]));
        // A store that says that it is down is not waited for.
        shard.set_journal_room(0);
        say(&mut shard, ann, "e");
        shard.note_store(Some("the disk is full".into()));
        at(&mut shard, deadline_ms + 20, 0);
        assert_eq!(told(&mut shard, ann), pairs(&[("e", "store_down")]));
        assert_eq!(shard.inventory().store_waits, 0);
    }
}
