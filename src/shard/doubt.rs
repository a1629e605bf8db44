//! What was told to one user alone, and may not have arrived when the connection broke.
//!
//! A room's messages have offsets: whoever comes back says which came last. Private messages that find their user connected have
//! none. So the last of them are remembered with the connection, by where they end in its output, until the peer's kernel has
//! acknowledged that much of it and its program has been heard since. When the connection is over, or its user is back before
//! that, the kernel is asked once more, and what may be missing is kept for the user as if the connection had not been there.
//!
//! A peer's kernel acknowledges what its program may never read. So where the peer did not answer any more, or reset the
//! connection (as a kernel does for a program that goes with bytes unread), everything is in doubt that its program is not known to
//! have read. Some of that may be told twice; the other way round it would be lost. What a program has read is known by two signs:
//!
//! - It answers pings in the order in which it reads, so its answer says that it has come as far as the ping. A WebSocket's
//!   says which ping it means; on lines and frames the first answer is to the first ping.
//! - It has given a command of its own since. That says less, as one may speak without having listened, but more than
//!   nothing; a pong in the middle of what has been sent does not count as one.
//!
//! What is in doubt is bounded like an inbox. Before it is full the peer is asked for a sign of life; when it is full, whoever
//! wants to say more to this user in private is refused, so that nothing that was acknowledged is ever forgotten.

use std::collections::VecDeque;

use super::Shard;
use super::mail::{Handover, ReplyTo};
use crate::base::slots::Id;
use crate::base::time::Tick;
use crate::chat::inbox::{Bounds, Kept, Mark};
use crate::chat::user::SessionRef;
use crate::proto::wire::Event;
use crate::record::{Owner, Record};

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
    /// Whether no kernel can be asked: what was written on a call of gRPC is in frames that wait elsewhere. Only answers to pings tell.
    is_blind: bool,
    /// Tells a ping sent on account of this from those of an earlier one on the same connection.
    number: u32,
    /// Where the pings stood that lines and frames have not answered.
    asked: VecDeque<u64>,
    /// The peer's program has read what ends here.
    read_to: u64,
    /// When its last command came.
    spoke_at: Option<Tick>,
    /// Whether what its program is not known to have read is in doubt, whatever its kernel says.
    is_unheard: bool,
    /// The session that has lost this connection, and how its inbox was then.
    lost_by: Option<(Id, Mark)>,
    /// Whether the kernel is being asked, and whether the session waits for the answer.
    is_asked: bool,
    is_waited_for: bool,
    /// Private messages for that session that come behind what is in doubt.
    held: Vec<(SessionRef, ReplyTo, Box<Handover>)>,
}

#[derive(Debug)]
struct Item {
    /// Where it ends, in bytes written.
    end: u64,
    told_at: Tick,
    kept: Kept,
}

impl Told {
    fn new(number: u32, pings_owed: u8, is_blind: bool) -> Self {
        Told {
            items: VecDeque::new(),
            bytes: 0,
            is_probed: false,
            sent_bytes: 0,
            cut_at: None,
            is_blind,
            number,
            asked: std::iter::repeat_n(0, usize::from(pings_owed)).collect(),
            read_to: 0,
            spoke_at: None,
            is_unheard: false,
            lost_by: None,
            is_asked: false,
            is_waited_for: false,
            held: Vec::new(),
        }
    }

    /// Has a private message go on when it is known what is before it.
    pub fn hold(&mut self, from: SessionRef, reply_to: ReplyTo, handover: Box<Handover>) {
        self.held.push((from, reply_to, handover));
    }

    /// So many bytes have been written.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    /// All but the first `queued` bytes that wait has been thrown away.
    pub fn cut(&mut self, queued: usize) {
        self.cut_at = Some(self.sent_bytes + queued as u64);
    }

    /// The peer's kernel is not to be believed.
    pub fn unheard(&mut self) {
        self.is_unheard = true;
    }

    /// Whether the peer's program is known to have read something.
    fn is_read(item: &Item, read_to: u64, spoke_at: Option<Tick>) -> bool {
        item.end <= read_to || spoke_at.is_some_and(|spoke_at| item.told_at < spoke_at)
    }

    /// How many bytes have arrived for certain, if so many of those written have not been acknowledged.
    fn certain(&self, unacknowledged: usize) -> u64 {
        match self.is_blind {
            true => self.read_to,
            false => self.sent_bytes.saturating_sub(unacknowledged as u64),
        }
    }

    /// Forgets what the peer has, if so many of the bytes written have not been acknowledged.
    fn forget(&mut self, unacknowledged: usize) {
        let certain = self.certain(unacknowledged);
        while let Some(item) = self.items.front()
            && item.end <= certain
            && Self::is_read(item, self.read_to, self.spoke_at)
        {
            self.bytes -= item.kept.bytes();
            self.items.pop_front();
        }
    }

    /// Whether so many of the bounds' parts are taken, with `more` to come.
    fn has_taken(&self, part: usize, more: usize, bounds: Bounds) -> bool {
        self.items.len() * part >= bounds.items || (self.bytes + more) * part > bounds.bytes
    }

    /// What a ping says that stands at this place: whose it is, and where.
    fn marker(&self, end: u64) -> [u8; 12] {
        let mut marker = [0; 12];
        marker[..4].copy_from_slice(&self.number.to_be_bytes());
        marker[4..].copy_from_slice(&end.to_be_bytes());
        marker
    }

    /// The place that the answer to such a ping proves to have been read.
    fn place(&self, marker: &[u8]) -> Option<u64> {
        let end = u64::from_be_bytes(marker.get(4..)?.try_into().ok()?);
        (marker[..4] == self.number.to_be_bytes()).then_some(end)
    }

    /// What may not have arrived, if so many of the bytes written have not been acknowledged.
    fn doubtful(self, unacknowledged: usize) -> impl Iterator<Item = Kept> {
        let certain = self.certain(unacknowledged);
        let certain = self.cut_at.map_or(certain, |cut_at| certain.min(cut_at));
        let (is_unheard, read_to, spoke_at) = (self.is_unheard, self.read_to, self.spoke_at);
        self.items
            .into_iter()
            .filter(move |item| item.end > certain || (is_unheard && !Self::is_read(item, read_to, spoke_at)))
            .map(|item| item.kept)
    }
}

impl Shard {
    /// Tells a user something that nobody else hears, on one of its sessions. Returns whether it was told at once; else it is
    /// kept, if there is place for it, until the user is back or has heard what was kept before it.
    pub(super) fn tell_user(&mut self, id: Id, kept: Kept) -> Delivery {
        let bounds = self.inbox_bounds();
        let must_wait = self.sessions[id].is_upgrading() || self.sessions[id].is_returning();
        let session = &mut self.sessions[id];
        let has_untold = session.inbox.as_ref().is_some_and(|inbox| inbox.has_untold());
        match session.connection.filter(|_| !must_wait && session.nickname.is_some() && !has_untold) {
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
            None => {
                let inbox = session.inbox.get_or_insert_default();
                if !inbox.keep(kept.clone(), bounds) {
                    return Delivery::Dropped;
                }
                let (number, offset, is_durable) =
                    (session.number, inbox.last_offset(), session.is_durable());
                if is_durable {
                    self.write_kept(number, offset, &kept);
                }
                Delivery::Kept
            }
        }
    }

    /// Writes down a private message that is kept for a session.
    fn write_kept(&mut self, number: u64, offset: u64, kept: &Kept) {
        let Kept::Private { sender, target, content, timestamp_ms, .. } = kept else { return };
        self.write_down(&Record::Kept {
            owner: Owner::Session(number),
            offset,
            sender: sender.as_str(),
            target: target.as_str(),
            content,
            timestamp_ms: *timestamp_ms,
        });
    }

    /// Writes down all that is kept for a session, where places have changed: each of them has something now, the same or other than before.
    fn write_inbox(&mut self, id: Id) {
        let Some(session) = self.sessions.get(id).filter(|session| session.is_durable()) else { return };
        let (number, Some(inbox)) = (session.number, &session.inbox) else { return };
        let items: Vec<Kept> = inbox.private().cloned().collect();
        for kept in &items {
            if let Kept::Private { offset: Some(offset), .. } = kept {
                self.write_kept(number, *offset, kept);
            }
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
            let can_say_so = state.encoding.can_resume();
            self.say_kept(connection, &kept);
            match kept.offset() {
                Some(offset) if !can_say_so => self.receive_as_told(session, offset), // people cannot say so
                Some(_) => {} // it stays until it is received
                None => self.note_told(connection, kept),
            }
        }
    }

    pub(super) fn say_kept(&mut self, connection: Id, kept: &Kept) {
        let event = match kept {
            Kept::Private { offset, sender, target, content, timestamp_ms, .. } => Event::Private {
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
    pub(super) fn note_told(&mut self, id: Id, kept: Kept) {
        let (now, bounds) = (self.now.tick, self.inbox_bounds());
        let Some(connection) = self.connections.get_mut(id) else { return };
        if self.config.session.grace_ms == 0 || !connection.encoding.can_resume() {
            return;
        }
        let told = connection.told.get_or_insert_with(|| {
            self.next_told = self.next_told.wrapping_add(1);
            Box::new(Told::new(self.next_told, connection.pings_owed, connection.call.is_some()))
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

    /// A ping is about to be queued; returns what it is to say, where it can say something.
    pub(super) fn note_ping(&mut self, id: Id) -> Option<[u8; 12]> {
        let connection = self.connections.get_mut(id)?;
        let queued = connection.queue.bytes() as u64;
        let told = connection.told.as_mut();
        if connection.encoding.is_websocket() {
            return told.map(|told| told.marker(told.sent_bytes + queued));
        }
        // A peer that never answers is asked for ever; past this, what it answers proves less than it could.
        if connection.pings_owed < u8::MAX {
            connection.pings_owed += 1;
            if let Some(told) = told {
                told.asked.push_back(told.sent_bytes + queued);
            }
        }
        None
    }

    /// A WebSocket has answered a ping that said this.
    pub(super) fn note_pong(&mut self, id: Id, marker: &[u8]) {
        let told = self.connections.get_mut(id).and_then(|connection| connection.told.as_mut());
        if let Some(told) = told
            && let Some(end) = told.place(marker)
        {
            told.read_to = told.read_to.max(end);
            self.review_told(id);
        }
    }

    /// A program on lines or frames has answered the first ping that it had not.
    pub(super) fn note_answer(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.pings_owed = connection.pings_owed.saturating_sub(1);
        if let Some(told) = &mut connection.told
            && let Some(end) = told.asked.pop_front()
        {
            told.read_to = told.read_to.max(end);
            self.review_told(id);
        }
    }

    /// A program has given a command.
    pub(super) fn note_command(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if let Some(told) = &mut connection.told {
            told.spoke_at = Some(connection.last_seen);
            if told.is_probed {
                self.review_told(id);
            }
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
        let state = &mut self.sessions[session];
        if state.is_registered {
            // All of it is in the user's inbox, and is read from there when the user is back.
            state.awaits_inbox = false;
            state.inbox.as_mut().map(|inbox| inbox.take_private());
        }
        if let Some(told) = told {
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
            told.forget(unacknowledged);
            if told.items.is_empty() && told.lost_by.is_none() {
                connection.told = None;
            }
            return;
        }
        let mut told = connection.told.take().expect("looked at above");
        let held = std::mem::take(&mut told.held);
        let (session, mark) = told.lost_by.expect("whoever doubts has lost the connection");
        let state = self.sessions.get_mut(session).expect("a session stays while there is doubt");
        state.background -= 1;
        state.doubtful = None;
        if state.is_ending() {
            self.go_on_ending(session);
        } else {
            self.keep_doubtful(session, mark, *told, unacknowledged);
            self.surrender_if_quiet(session);
        }
        for (from, reply_to, handover) in held {
            self.hand_over(from, reply_to, handover);
        }
        self.settle();
    }

    /// Keeps what a session's user may not have heard.
    fn keep_doubtful(&mut self, session: Id, mark: Mark, told: Told, unacknowledged: usize) {
        let state = &mut self.sessions[session];
        // Who was put out of a room and has come back to it since is not to hear the first without the second.
        let is_true = |kept: &Kept| match kept {
            Kept::Expelled { room, .. } => {
                !state.memberships.iter().any(|membership| membership.room == *room)
            }
            _ => true,
        };
        let mut doubtful: Vec<Kept> = told.doubtful(unacknowledged).filter(is_true).collect();
        self.counters.retold.add(doubtful.len() as u64);
        if state.is_registered
            && let Some(nickname) = state.nickname.clone()
        {
            let (private, others) =
                doubtful.into_iter().partition(|kept| matches!(kept, Kept::Private { .. }));
            doubtful = others;
            self.leave_to_user(session, nickname, private);
        }
        if !doubtful.is_empty() {
            self.sessions[session].inbox.get_or_insert_default().keep_at(mark, doubtful);
            self.write_inbox(session);
        }
    }

    /// What a session's last connection may not have heard, while that is not known: it is found out in this turn.
    pub(super) fn doubt_of(&mut self, session: Id) -> Option<&mut Told> {
        let connection = self.sessions.get(session)?.doubtful?;
        self.ask_kernel(connection);
        self.connections.get_mut(connection)?.told.as_deref_mut().filter(|told| told.is_waited_for)
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
        Told { items, bytes, sent_bytes, ..Told::new(7, 0, false) }
    }

    fn doubtful(told: Told, unacknowledged: usize) -> Vec<String> {
        let content = |kept| match kept {
            Kept::System { content, .. } => content.to_string(),
            _ => unreachable!("only these are made here"),
        };
        told.doubtful(unacknowledged).map(content).collect()
    }

    #[test]
    fn on_a_call_only_answers_to_pings_tell_what_has_arrived() {
        let on_call = || Told { is_blind: true, spoke_at: Some(Tick(100)), ..told(&[10, 20, 30], 30) };
        let mut spoke = on_call();
        spoke.forget(0);
        assert_eq!(doubtful(spoke, 0), ["10", "20", "30"], "it may have spoken without having listened");
        let mut answered = Told { read_to: 20, ..on_call() };
        answered.forget(0);
        assert_eq!(answered.items.len(), 1);
        assert_eq!(doubtful(answered, 0), ["30"]);
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
    fn what_a_silent_peer_is_not_known_to_have_read_is_in_doubt() {
        let silent = || {
            let mut told = told(&[10, 20, 30], 30);
            told.unheard();
            told
        };
        assert_eq!(doubtful(silent(), 0), ["10", "20", "30"]);
        let mut spoke = silent();
        spoke.spoke_at = Some(Tick(20));
        assert_eq!(doubtful(spoke, 0), ["20", "30"]);
        let mut answered = silent();
        answered.read_to = 20;
        assert_eq!(doubtful(answered, 0), ["30"]);
    }

    #[test]
    fn what_is_acknowledged_and_read_is_forgotten() {
        let mut all = told(&[10, 20, 30, 40], 40);
        all.forget(0);
        assert_eq!(all.items.len(), 4, "nothing is known of its program");
        all.spoke_at = Some(Tick(100));
        all.forget(15);
        assert_eq!(all.items.len(), 2, "30 and 40 are not acknowledged");
        all.spoke_at = Some(Tick(40));
        all.forget(0);
        assert_eq!(all.items.len(), 1, "it has not spoken since 40 was told");
        all.read_to = 40;
        all.forget(0);
        assert!(all.items.is_empty());
    }

    #[test]
    fn a_pong_proves_no_more_than_its_ping() {
        let told = told(&[], 0);
        assert_eq!(told.place(&told.marker(300)), Some(300));
        assert_eq!(told.place(&Told::new(8, 0, false).marker(300)), None, "of what was told before");
        assert_eq!(told.place(b""), None);
        assert_eq!(told.place(b"abc"), None);
        assert_eq!(told.place(b"something else"), None);
    }
}
