//! What was told to one user alone, and may not have arrived when the connection broke.
//!
//! A room's messages have offsets: whoever comes back says which came last. Private messages that find their user connected have
//! none. So the last of them are remembered with the connection, by where they end in its output, until the peer's kernel has
//! acknowledged that much of it and the peer has been heard since, which is looked at with each heartbeat. When the connection is
//! over, or its user is back before that, the kernel is asked once more, and what may be missing is kept for the user as if
//! the connection had not been there.
//!
//! A peer's kernel acknowledges what its program may never read. So where the peer did not answer any more, or reset the
//! connection (as a kernel does for a program that goes with bytes unread), everything is in doubt that was told after the last
//! word from it. Some of that may be told twice; the other way round it would be lost.
//!
//! What is in doubt is bounded like an inbox. Before it is full the peer is asked for a sign of life; when it is full, whoever
//! wants to say more to this user in private is refused, so that nothing that was acknowledged is ever forgotten.

use std::collections::VecDeque;

use super::Shard;
use super::encode::Encoding;
use crate::base::slots::Id;
use crate::base::time::Tick;
use crate::chat::inbox::{Bounds, Kept, Mark};
use crate::proto::wire::Event;

/// How many bytes of what was kept for a user are queued before the next of it waits until they are written.
const TELLING_BYTES: usize = 65_536;

/// The peer is asked for a sign of life when this part of what may be in doubt is.
const PROBED_PART: usize = 4;

/// What was told on one connection, of late.
#[derive(Debug)]
pub(super) struct Told {
    items: VecDeque<Item>,
    /// Bytes of the items, as an inbox counts them.
    bytes: usize,
    /// Whether the peer has been asked for a sign of life on account of these.
    is_probed: bool,
    /// Bytes written since this began, and of these where what was thrown away began.
    sent_bytes: u64,
    cut_at: Option<u64>,
    /// When the peer was heard last, if that says more than its kernel.
    unheard_since: Option<Tick>,
    /// The session that has lost this connection, and how its inbox was then.
    lost_by: Option<(Id, Mark)>,
    /// Whether the kernel is being asked, and whether the session waits for the answer.
    is_asked: bool,
    is_waited_for: bool,
}

#[derive(Debug)]
struct Item {
    /// Where it ends, in bytes written.
    end: u64,
    told_at: Tick,
    kept: Kept,
}

impl Told {
    /// So many bytes have been written.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    /// All but the first `queued` bytes that wait has been thrown away.
    pub fn cut(&mut self, queued: usize) {
        self.cut_at = Some(self.sent_bytes + queued as u64);
    }

    /// The peer has not been heard since, whatever its kernel says.
    pub fn unheard(&mut self, since: Tick) {
        self.unheard_since = Some(since);
    }

    /// Forgets what the peer has, if so many of the bytes written have not been acknowledged, and it was heard last then.
    fn forget(&mut self, unacknowledged: usize, last_seen: Tick) {
        let certain = self.sent_bytes.saturating_sub(unacknowledged as u64);
        while let Some(item) = self.items.front()
            && item.end <= certain
            && item.told_at < last_seen
        {
            self.bytes -= item.kept.bytes();
            self.items.pop_front();
        }
    }

    /// Whether so many of the bounds' parts are taken, with `more` to come.
    fn has_taken(&self, part: usize, more: usize, bounds: Bounds) -> bool {
        self.items.len() * part >= bounds.items || (self.bytes + more) * part > bounds.bytes
    }

    /// Whether the peer's next word is waited for.
    pub fn is_probed(&self) -> bool {
        self.is_probed
    }

    /// What may not have arrived, if so many of the bytes written have not been acknowledged.
    fn doubtful(self, unacknowledged: usize) -> impl Iterator<Item = Kept> {
        let certain = self.sent_bytes.saturating_sub(unacknowledged as u64);
        let certain = self.cut_at.map_or(certain, |cut_at| certain.min(cut_at));
        let is_unheard = move |item: &Item| self.unheard_since.is_some_and(|since| item.told_at >= since);
        self.items
            .into_iter()
            .filter(move |item| item.end > certain || is_unheard(item))
            .map(|item| item.kept)
    }
}

impl Shard {
    /// Tells a user something that nobody else hears, on one of its sessions. Returns whether it was told at once; else it is
    /// kept, if there is place for it, until the user is back or has heard what was kept before it.
    pub(super) fn tell_user(&mut self, id: Id, kept: Kept) -> Delivery {
        let bounds = self.inbox_bounds();
        let is_upgrading = self.sessions[id].is_upgrading();
        let session = &mut self.sessions[id];
        let has_untold = session.inbox.as_ref().is_some_and(|inbox| inbox.has_untold());
        match session.connection.filter(|_| !is_upgrading && session.nickname.is_some() && !has_untold) {
            Some(connection) => {
                let told = self.connections.get_mut(connection).and_then(|state| state.told.as_mut());
                let (items, bytes) = told.as_ref().map_or((0, 0), |told| (told.items.len(), told.bytes));
                let bytes = bytes + kept.bytes();
                // What is in doubt comes to what was kept before and has not been received, if the connection breaks. Both together
                // have bounds too, or a user who never says so could collect without end.
                let both = Bounds { items: bounds.items * 2, bytes: bounds.bytes * 2 };
                let is_full = items >= bounds.items
                    || bytes > bounds.bytes
                    || session.inbox.as_ref().is_some_and(|inbox| inbox.is_full_beside(items, bytes, both));
                if is_full && matches!(kept, Kept::Private { .. }) {
                    // The last sign of life may have come before the peer's kernel had acknowledged enough: another is asked for,
                    // or a peer that reads would be taken for one that does not until its next heartbeat.
                    if told.is_some_and(|told| !std::mem::replace(&mut told.is_probed, true)) {
                        self.probe(connection);
                    }
                    return Delivery::Dropped;
                }
                self.say_kept(connection, &kept);
                self.note_told(connection, kept);
                Delivery::Told
            }
            None => match session.inbox.get_or_insert_default().keep(kept, bounds) {
                true => Delivery::Kept,
                false => Delivery::Dropped,
            },
        }
    }

    /// Tells more of what was kept for a connection's user, as much as is to be queued at a time.
    pub(super) fn go_on_telling(&mut self, connection: Id) {
        let most = TELLING_BYTES.min(self.limits.send_queue_bytes / 2);
        while let Some(state) = self.connections.get_mut(connection)
            && let Some(session) = state.session
        {
            state.is_telling = true;
            if state.queue.bytes() >= most {
                return;
            }
            let inbox = self.sessions.get_mut(session).and_then(|session| session.inbox.as_mut());
            let Some(kept) = inbox.and_then(|inbox| inbox.tell_next()) else {
                state.is_telling = false;
                return;
            };
            self.say_kept(connection, &kept);
            if !matches!(kept, Kept::Private { .. }) {
                self.note_told(connection, kept); // private messages stay until they are received
            }
        }
    }

    fn say_kept(&mut self, connection: Id, kept: &Kept) {
        let event = match kept {
            Kept::Private { offset, sender, target, content, timestamp_ms } => Event::Private {
                sender: sender.as_str(),
                target: target.as_str(),
                content,
                timestamp: *timestamp_ms,
                offset: *offset,
            },
            Kept::System { sender, content, timestamp_ms } => {
                Event::System { content, sender: sender.as_str(), timestamp: *timestamp_ms }
            }
            Kept::Expelled { room, reason } => {
                Event::Left { id: None, room: room.as_str(), reason: reason.as_str() }
            }
        };
        self.say(connection, &event);
    }

    /// Remembers what was told on a connection whose user may come back.
    fn note_told(&mut self, id: Id, kept: Kept) {
        let (now, bounds) = (self.now.tick, self.inbox_bounds());
        let Some(connection) = self.connections.get_mut(id) else { return };
        if self.config.session.grace_ms == 0 || connection.encoding == Encoding::Text {
            return;
        }
        let told = connection.told.get_or_insert_with(|| {
            Box::new(Told {
                items: VecDeque::new(),
                bytes: 0,
                is_probed: false,
                sent_bytes: 0,
                cut_at: None,
                unheard_since: None,
                lost_by: None,
                is_asked: false,
                is_waited_for: false,
            })
        });
        let end = told.sent_bytes + connection.queue.bytes() as u64;
        if told.has_taken(1, kept.bytes(), bounds) {
            // An admin's word, or that of a host: heard if the connection holds, and not told again if it does not.
            return self.counters.private_not_kept.add(1);
        }
        told.bytes += kept.bytes();
        told.items.push_back(Item { end, told_at: now, kept });
        if told.has_taken(PROBED_PART, 0, bounds) && !std::mem::replace(&mut told.is_probed, true) {
            self.probe(id);
        }
    }

    /// Finds out what of all that was told has arrived for certain, to forget it.
    pub(super) fn review_told(&mut self, id: Id) {
        let told = self.connections.get_mut(id).and_then(|connection| connection.told.as_mut());
        if let Some(told) = told.filter(|told| told.lost_by.is_none() && !told.is_asked) {
            told.is_asked = true;
            self.doubts.push(id);
        }
    }

    /// A session has lost its connection, which may still write what is queued.
    pub(super) fn doubt(&mut self, connection: Id, session: Id) {
        let told = self.connections.get_mut(connection).and_then(|connection| connection.told.as_mut());
        if let Some(told) = told {
            let state = &mut self.sessions[session];
            told.lost_by = Some((session, state.inbox.get_or_insert_default().mark()));
            state.doubtful = Some(connection);
        }
    }

    /// The doubt about a connection is to be settled in this turn: its socket is about to be closed, or its user is back.
    pub(super) fn ask_kernel(&mut self, id: Id) {
        let told = self.connections.get_mut(id).and_then(|connection| connection.told.as_mut());
        let Some(told) = told.filter(|told| !told.is_waited_for) else { return };
        let Some((session, _)) = told.lost_by else { return };
        // A session may have ended, or gone on elsewhere, before its connection did.
        if let Some(state) = self.sessions.get_mut(session).filter(|state| state.doubtful == Some(id)) {
            state.background += 1;
            told.is_waited_for = true;
            if !std::mem::replace(&mut told.is_asked, true) {
                self.doubts.push(id);
            }
        }
    }

    /// The next connection, still there or about to be closed, of which the kernel is to be asked how many bytes the peer has
    /// not acknowledged.
    pub fn next_doubt(&mut self) -> Option<Id> {
        self.doubts.pop()
    }

    /// The kernel has said how many bytes the peer of a connection has not acknowledged.
    pub fn settle_doubt(&mut self, id: Id, unacknowledged: usize) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(told) = connection.told.as_mut() else { return };
        if !told.is_waited_for {
            (told.is_asked, told.is_probed) = (false, false);
            told.forget(unacknowledged, connection.last_seen);
            if told.items.is_empty() && told.lost_by.is_none() {
                connection.told = None;
            }
            return;
        }
        let told = connection.told.take().expect("looked at above");
        let (session, mark) = told.lost_by.expect("whoever doubts has lost the connection");
        let state = self.sessions.get_mut(session).expect("a session stays while there is doubt");
        state.background -= 1;
        state.doubtful = None;
        if state.is_ending() {
            return self.go_on_ending(session);
        }
        // Who was put out of a room and has come back to it since is not to hear the first without the second.
        let is_true = |kept: &Kept| match kept {
            Kept::Expelled { room, .. } => {
                !state.memberships.iter().any(|membership| membership.room == *room)
            }
            _ => true,
        };
        let doubtful: Vec<Kept> = told.doubtful(unacknowledged).filter(is_true).collect();
        self.counters.retold.add(doubtful.len() as u64);
        state.inbox.get_or_insert_default().keep_at(mark, doubtful);
        self.surrender_if_quiet(session);
        self.settle();
    }
}

/// What became of something that one user was to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// It was told.
    Told,
    /// It was kept, to be told later.
    Kept,
    /// There was no place to keep it.
    Dropped,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn told(ends: &[u64], sent_bytes: u64) -> Told {
        let kept = |end: u64| Kept::System {
            sender: crate::chat::name::Nickname::parse("ops").unwrap(),
            content: Arc::from(end.to_string()),
            timestamp_ms: 0,
        };
        let items: VecDeque<Item> =
            ends.iter().map(|end| Item { end: *end, told_at: Tick(*end), kept: kept(*end) }).collect();
        let bytes = items.iter().map(|item| item.kept.bytes()).sum();
        Told {
            items,
            bytes,
            is_probed: false,
            sent_bytes,
            cut_at: None,
            unheard_since: None,
            lost_by: None,
            is_asked: false,
            is_waited_for: false,
        }
    }

    fn doubtful(told: Told, unacknowledged: usize) -> Vec<String> {
        let content = |kept| match kept {
            Kept::System { content, .. } => content.to_string(),
            _ => unreachable!("only these are made here"),
        };
        told.doubtful(unacknowledged).map(content).collect()
    }

    #[test]
    fn what_was_not_acknowledged_to_its_last_byte_is_in_doubt() {
        assert_eq!(doubtful(told(&[10, 20, 30], 30), 0), [""; 0]);
        assert_eq!(doubtful(told(&[10, 20, 30], 30), 1), ["30"]);
        assert_eq!(doubtful(told(&[10, 20, 30], 30), 10), ["30"]);
        assert_eq!(doubtful(told(&[10, 20, 30], 30), 11), ["20", "30"]);
        assert_eq!(doubtful(told(&[10, 20, 30], 12), 0), ["20", "30"], "not written yet");
        assert_eq!(doubtful(told(&[10, 20], 12), 100), ["10", "20"], "bytes from before it began");
    }

    #[test]
    fn what_was_thrown_away_is_in_doubt_whatever_was_written_after_it() {
        let mut cut = told(&[10, 20, 30], 5);
        cut.cut(10); // the frame that ends at 20 went with its beginning
        cut.sent(90); // what was left, and a farewell
        assert_eq!(doubtful(cut, 0), ["20", "30"]);
    }

    #[test]
    fn what_was_told_after_the_last_word_of_a_silent_peer_is_in_doubt() {
        let mut silent = told(&[10, 20, 30], 30);
        silent.unheard(Tick(20));
        assert_eq!(doubtful(silent, 0), ["20", "30"]);
    }

    #[test]
    fn what_is_acknowledged_and_answered_is_forgotten() {
        let mut all = told(&[10, 20, 30, 40], 40);
        all.forget(15, Tick(100));
        assert_eq!(all.items.len(), 2, "30 and 40 are not acknowledged");
        all.forget(0, Tick(40));
        assert_eq!(all.items.len(), 1, "nothing has been heard since 40 was told");
        all.forget(0, Tick(41));
        assert!(all.items.is_empty());
    }
}
