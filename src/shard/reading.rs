//! What is read from the store: messages that are not in memory any more, and inboxes. A core never waits for it: what is to be done with
//! the answer is kept here until it comes, or until it has taken too long.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shard;
use super::accounts::{AccountOutcome, AccountRequest};
use super::backplane::{BackplaneRequest, Failed};
use super::encode::{Encoding, Scratch};
use super::home::{HomeRoom, no_such_room};
use super::journal::Asker;
use super::mail::{Handover, Join, Mail, Page, Reply, ReplyTo, RoomEntry};
use super::nodes::private::Spread;
use super::nodes::spoken::Spoken;
use super::queue::Frames;
use super::shared::BACKPLANE_RETRY_MS;
use super::timers::Timer;
use crate::base::slots::{Id, Slots};
use crate::base::time::Tick;
use crate::chat::history::Entry;
use crate::chat::inbox::Kept;
use crate::chat::name::{Nickname, RoomName};
use crate::chat::pattern::Patterns;
use crate::chat::refusal::{Reason, Refusal};
use crate::chat::room::Room;
use crate::chat::user::{NodeId, SessionRef};
use crate::proto::wire::Event;
use crate::record::{AccountState, HistoryPage, KeptPrivate};

/// Messages of a page that is read for a member who missed them; the page ends by its bytes before that if they are long.
const REPLAY_LIMIT: usize = 1024;

/// In how many steps a joiner's history is read: more than one are needed where all that was in memory has gone from there meanwhile.
pub(super) const READS_MAX: u8 = 8;

/// Asks the storage threads for something, on behalf of a core.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum StoreRequest {
    /// Messages of a room.
    Page { page: HistoryPage, wait: Id },
    /// What is at these places of a user's inbox, for a session. What may not be in the store yet comes along.
    Inbox { user: Nickname, to: SessionRef, offsets: Vec<u64>, recent: Vec<Kept> },
    /// To register somebody, or log somebody in, for an HTTP request.
    Account { request: AccountRequest, wait: Id },
}

/// What the storage threads tell a core.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum StoreNews {
    /// Its journal has been stored, and is on the disk, up to here.
    Progress { stored: u64, synced: u64 },
    /// The store fails, for this reason, or is back.
    Down(Option<Box<str>>),
    /// Messages of a room, by its number, are no longer kept: this one is the first that is.
    Trimmed { room: u64, first_kept: u64 },
    /// The messages asked for; `None`: they could not be read.
    Page { wait: Id, entries: Option<Vec<Entry>> },
    /// The inbox asked for, for a session of this core.
    Inbox { to: SessionRef, inbox: Option<Vec<KeptPrivate>>, recent: Vec<Kept> },
    /// What came of a request about an account.
    Account { wait: Id, outcome: AccountOutcome },
    /// These are registered now, and their accounts are so, or they are not (`None`).
    Users(Vec<(Nickname, Option<AccountState>)>),
}

/// What waits for the storage threads. A disk may be stuck: nobody waits for it longer than an acknowledgement does.
#[derive(Debug, Default)]
pub(super) struct Waits {
    waiting: Slots<Awaited>,
    /// The order in which they were asked, with those that have been answered behind one that has not.
    order: VecDeque<(Tick, Id)>,
    has_timer: bool,
}

/// What is waited for.
#[derive(Debug)]
pub(super) enum Awaited {
    /// Messages of a room.
    Page(AfterRead),
    /// The inbox of a session's user.
    Inbox(Id),
    /// What comes of a request about an account, on a connection of this core.
    Account(Id),
    /// A nickname, from the backplane.
    Claim { from: SessionRef, reply_to: ReplyTo, nickname: Nickname, has_token: bool },
    /// Where the sessions are that a private message is for.
    Found { from: SessionRef, reply_to: ReplyTo, handover: Box<Handover> },
    /// What becomes of a private message on other nodes.
    Private(Box<Spread>),
    /// What becomes of an admin's words there.
    Spoken(Box<Spoken>),
    /// That the sessions of lost nodes are ended, after so many others, and event streams.
    PutOut { asker: Asker, ended: u64 },
    /// The rooms of the cluster.
    Rooms { asker: Asker, limit: usize, allowed: Option<Patterns>, found: Vec<RoomEntry> },
    /// A session of another node.
    Taken { from: SessionRef, reply_to: ReplyTo, number: u64, tries: u8 },
    /// That a session of this core is kept, which another node wants.
    GivingUp { session: Id, is_taken_back: bool },
    /// That its node gives it up.
    GivenUp { from: SessionRef, reply_to: ReplyTo, number: u64, tries: u8, node: NodeId },
    /// That a session which is being given up to `old`, of another node, has gone there or stays.
    Parting { from: SessionRef, reply_to: ReplyTo, number: u64, old: SessionRef },
}

/// What is to be done with messages that were read.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum AfterRead {
    /// A page of history is answered, with these behind them.
    History { asker: Asker, room: RoomName, epoch: Arc<str>, limit: usize, tail: Vec<Entry> },
    /// Somebody joins, and is told them.
    Join { from: SessionRef, reply_to: ReplyTo, join: Box<Join>, tail: Vec<Entry>, reads: u8 },
    /// A member gets them, who has missed them.
    Replay { asker: Asker, room: Id, after: u64, encoding: Encoding, bytes_max: usize },
}

impl HomeRoom {
    /// The first offset that can be had, in memory or from the store.
    pub(super) fn first_available(&self) -> u64 {
        let head = self.room.offset();
        let in_memory = self.room.history().first().unwrap_or(head + 1);
        match self.number {
            0 => in_memory,
            // What is in memory beyond that only waits to be stored.
            _ => self.kept_from.max((head + 1).saturating_sub(self.retention.count)),
        }
    }

    /// Whether every message after `after` can be had.
    pub(super) fn reaches_back_to(&self, after: u64) -> bool {
        let head = self.room.offset();
        after == head || (after < head && self.first_available() <= after + 1)
    }
}

impl Shard {
    /// The mailbox of the storage threads, which is the one behind those of the cores.
    pub(super) fn store(&self) -> u16 {
        self.cores() as u16
    }

    /// Asks the storage threads for something that a core will be told.
    pub(super) fn ask_store(&mut self, from: u16, request: StoreRequest) {
        self.counters.store_requests.add(1);
        self.post(self.store(), Mail::StoreRequest { from, request });
    }

    /// Asks for messages of a room.
    fn ask_for_page(&mut self, page: HistoryPage, then: AfterRead) {
        let wait = self.wait_for_store(Awaited::Page(then));
        if self.is_clustered() {
            let key =
                self.home.by_number.get(&page.room).expect("pages are asked for of rooms that are here");
            let room = &self.home.rooms[*key].room;
            let (room, epoch) = (room.name().folded().into(), room.epoch().clone());
            return self.ask_backplane(BackplaneRequest::Page { wait, room, epoch, page });
        }
        self.ask_store(self.core, StoreRequest::Page { page, wait });
    }

    /// Something is asked of the storage threads, whose answer is waited for so long and no longer.
    pub(super) fn wait_for_store(&mut self, waiting: Awaited) -> Id {
        let waits = &mut self.waits;
        let id = waits.waiting.insert(waiting);
        waits.order.push_back((self.now.tick, id));
        if !std::mem::replace(&mut waits.has_timer, true) {
            self.wheel.insert(self.now.tick + self.wait_ms(), Timer::Read);
        }
        id
    }

    /// How long an answer is waited for. What goes to another node and back has the time of both ways.
    fn wait_ms(&self) -> u64 {
        if self.is_clustered() { 2 * self.config.cluster.deadline_ms } else { self.config.store.deadline_ms }
    }

    /// What an answer is a part of; `None` if it took too long.
    pub(super) fn awaited_mut(&mut self, id: Id) -> Option<&mut Awaited> {
        self.waits.waiting.get_mut(id)
    }

    /// Everything that is waited for.
    pub(super) fn awaited(&mut self) -> impl Iterator<Item = (Id, &mut Awaited)> {
        self.waits.waiting.iter_mut()
    }

    /// An answer has come; `None` if it took too long.
    pub(super) fn end_wait(&mut self, id: Id) -> Option<Awaited> {
        let Waits { waiting, order, .. } = &mut self.waits;
        let ended = waiting.remove(id);
        while order.front().is_some_and(|(_, id)| waiting.get(*id).is_none()) {
            order.pop_front();
        }
        ended
    }

    /// Answers those who have waited for the storage threads for too long.
    pub(super) fn expire_reads(&mut self) {
        let (now, deadline_ms) = (self.now.tick, self.wait_ms());
        while let Some((since, id)) = self.waits.order.front().copied()
            && now.since(since) >= deadline_ms
        {
            self.waits.order.pop_front();
            let Some(late) = self.end_wait(id) else { continue };
            let is_late = !matches!(late, Awaited::Inbox(session) if !self.awaits_inbox(session));
            self.counters.store_overdue.add(u64::from(is_late));
            match late {
                Awaited::Page(then) => self.hear_page(then, None),
                Awaited::Inbox(session) => self.give_up_inbox(session),
                Awaited::Account(connection) => {
                    self.hear_account(connection, AccountOutcome::Down("it does not answer".into()));
                }
                Awaited::GivingUp { session, is_taken_back } => {
                    self.hear_kept_session(session, is_taken_back, Err(Failed::Down));
                }
                Awaited::Private(mut spread) => {
                    spread.is_late = true;
                    self.finish_spread(*spread);
                }
                Awaited::Spoken(spoken) => self.finish_spoken(*spoken),
                Awaited::Taken { from, reply_to, number, .. } => self.refuse_take(from, reply_to, number),
                Awaited::GivenUp { from, reply_to, number, .. } => {
                    self.forget_session(from, number);
                    let refusal = node_does_not_answer();
                    self.reply_to_asker(Asker::Session(from, reply_to), Reply::Refused(refusal));
                }
                Awaited::Parting { from, reply_to, number, old } => {
                    self.end_parting(number, old);
                    let refusal = super::takeover::is_on_its_way();
                    self.reply_to_asker(Asker::Session(from, reply_to), Reply::Refused(refusal));
                }
                Awaited::Claim { from, reply_to, .. } | Awaited::Found { from, reply_to, .. } => {
                    let refusal = self.backplane_down();
                    self.reply_to_asker(Asker::Session(from, reply_to), Reply::Refused(refusal));
                }
                Awaited::Rooms { asker, .. } | Awaited::PutOut { asker, .. } => {
                    let refusal = self.backplane_down();
                    self.reply_to_asker(asker, Reply::Refused(refusal));
                }
            }
        }
        self.waits.has_timer = false;
        if let Some((since, _)) = self.waits.order.front().copied() {
            self.waits.has_timer = true;
            self.wheel.insert(since + deadline_ms, Timer::Read);
        }
        self.settle();
    }

    /// Answers a query about messages, from memory or through the store.
    pub(super) fn read_history(
        &mut self,
        asker: Asker,
        name: &RoomName,
        before: Option<u64>,
        after: Option<u64>,
        limit: usize,
    ) {
        let Some(key) = self.home.by_name.get(name.folded()).copied() else {
            return self.reply_to_asker(asker, Reply::Refused(no_such_room()));
        };
        self.expire_history(key);
        let bytes_max = self.limits.history_page_bytes;
        let entry = &self.home.rooms[key];
        let (room, epoch) = (entry.room.name().clone(), entry.room.epoch().clone());
        let history = entry.room.history();
        let head = entry.room.offset();
        let first = entry.first_available();
        let memory_first = history.first().unwrap_or(head + 1);
        let before = before.unwrap_or(u64::MAX).min(head + 1);
        // A client may name any number; behind the last message there is nothing, wherever it says that it begins.
        let lowest = after.unwrap_or(0).min(head).max(first - 1);
        let is_ascending = after.is_some();
        let mut in_memory = match is_ascending {
            true => history.page(Some(before), Some(lowest.max(memory_first - 1)), limit, bytes_max),
            false => history.page(Some(before), None, limit, bytes_max),
        };
        in_memory.retain(|entry| entry.offset >= first);
        // Where what is in memory begins, nothing older may be wanted.
        let is_enough = match is_ascending {
            true => lowest + 1 >= memory_first,
            false => in_memory.len() >= limit || in_memory.first().is_some_and(|e| e.offset > memory_first),
        };
        let below = memory_first.min(before);
        if is_enough || lowest + 1 >= below {
            return self.reply_to_asker(asker, Reply::History { room, epoch, messages: in_memory });
        }
        let bytes: usize = if is_ascending { 0 } else { in_memory.iter().map(|e| e.content.len()).sum() };
        let wanted = if is_ascending { limit } else { limit - in_memory.len() };
        let bytes_max = bytes_max.saturating_sub(bytes);
        let page = HistoryPage {
            room: entry.number,
            after: lowest,
            before: below,
            is_ascending,
            limit: wanted,
            bytes_max,
        };
        let then = AfterRead::History { asker, room, epoch, limit, tail: in_memory };
        self.ask_for_page(page, then);
    }

    /// Takes a joiner in, after reading what is to be told of the past and is not in memory, in up to `reads` steps. `older` has been read
    /// so far.
    pub(super) fn join_or_read(
        &mut self,
        from: SessionRef,
        reply_to: ReplyTo,
        join: Box<Join>,
        older: Vec<Entry>,
        reads: u8,
    ) {
        if let Some(page) = self.page_before_join(&join, &older).filter(|_| reads > 0) {
            let then = AfterRead::Join { from, reply_to, join, tail: self.tail_of(&page), reads: reads - 1 };
            return self.ask_for_page(page, then);
        }
        if self.is_clustered() {
            return self.order_join(from, reply_to, *join, older);
        }
        let reply = self.join_room(from, *join, older);
        self.reply_to_asker(Asker::Session(from, reply_to), reply);
    }

    /// The messages that a joiner is to be told and that are neither in memory nor in `older`. What was in memory when those were read may
    /// have gone from there meanwhile; then all is read again, because only the last messages are wanted.
    fn page_before_join(&self, join: &Join, older: &[Entry]) -> Option<HistoryPage> {
        let wanted = join.history.filter(|_| self.journal.is_on || self.is_clustered())?;
        let entry = &self.home.rooms[*self.home.by_name.get(join.room.folded())?];
        let history = entry.room.history();
        let before = history.first().unwrap_or(entry.room.offset() + 1);
        let first = entry.first_available();
        let bytes_max = self.limits.history_page_bytes;
        let page = HistoryPage {
            room: entry.number,
            after: first - 1,
            before,
            is_ascending: false,
            limit: 0,
            bytes_max,
        };
        let is_there = history.len() >= wanted || first >= before;
        let is_joined = older.last().is_some_and(|last| last.offset + 1 >= before);
        (!is_there && !is_joined).then(|| HistoryPage { limit: wanted - history.len(), ..page })
    }

    /// What is in memory behind a page: it may have gone from there when the page has been read.
    fn tail_of(&self, page: &HistoryPage) -> Vec<Entry> {
        let key = self.home.by_number.get(&page.room);
        let history = key.and_then(|key| self.home.rooms.get(*key)).map(|entry| entry.room.history());
        history.map(|history| history.after(page.before - 1).cloned().collect()).unwrap_or_default()
    }

    /// Sends more of what a member missed, which follows offset `after`.
    pub(super) fn replay(
        &mut self,
        asker: Asker,
        room: Id,
        after: u64,
        encoding: Encoding,
        bytes_max: usize,
    ) {
        self.send_room(room); // what is told live after the reply has not been published yet
        let page = self.page(room, after, encoding, bytes_max);
        if page.is_none()
            && let Some(entry) = self.home.rooms.get(room).filter(|entry| entry.reaches_back_to(after))
        {
            let before = entry.room.history().first().unwrap_or(entry.room.offset() + 1);
            let number = entry.number;
            let limit = REPLAY_LIMIT;
            let page = HistoryPage { room: number, after, before, is_ascending: true, limit, bytes_max };
            let then = AfterRead::Replay { asker, room, after, encoding, bytes_max };
            return self.ask_for_page(page, then);
        }
        self.reply_to_asker(asker, Reply::Replayed { room, after, page });
    }

    /// Messages have been read, or could not be.
    pub(super) fn hear_page(&mut self, then: AfterRead, read: Option<Vec<Entry>>) {
        match then {
            AfterRead::History { asker, .. } if read.is_none() => {
                let refusal =
                    if self.is_clustered() { self.backplane_down() } else { self.store_unreadable() };
                self.reply_to_asker(asker, Reply::Refused(refusal));
            }
            AfterRead::History { asker, room, epoch, limit, tail } => {
                let mut messages = read.expect("the other case is above");
                let is_joined = messages
                    .last()
                    .is_none_or(|last| tail.first().is_none_or(|e| e.offset == last.offset + 1));
                if is_joined {
                    messages.extend(tail);
                }
                messages.truncate(limit);
                self.reply_to_asker(asker, Reply::History { room, epoch, messages });
            }
            // What cannot be read is left out.
            AfterRead::Join { from, reply_to, join, .. } if read.is_none() => {
                self.join_or_read(from, reply_to, join, Vec::new(), 0);
            }
            AfterRead::Join { from, reply_to, join, tail, reads } => {
                let mut older = read.expect("the other case is above");
                let is_joined = |next: &Entry| older.last().is_none_or(|last| last.offset + 1 == next.offset);
                if tail.first().is_some_and(is_joined) {
                    older.extend(tail);
                }
                self.join_or_read(from, reply_to, join, older, reads);
            }
            AfterRead::Replay { asker, room, after, encoding, bytes_max } => {
                self.send_room(room);
                let page =
                    read.and_then(|entries| self.replayed_page(room, after, encoding, bytes_max, &entries));
                self.reply_to_asker(asker, Reply::Replayed { room, after, page });
            }
        }
    }

    /// A page of what was read; `None` if the first of it has been deleted meanwhile.
    fn replayed_page(
        &mut self,
        key: Id,
        after: u64,
        encoding: Encoding,
        bytes_max: usize,
        entries: &[Entry],
    ) -> Option<Page> {
        let entry = self.home.rooms.get(key)?;
        (entries.first()?.offset == after + 1).then(|| {
            let head = entry.room.offset();
            encode_page(&entry.room, after, head, encoding, &mut self.scratch, bytes_max, entries.iter())
        })
    }

    /// The messages after an offset, encoded for one member; `None` if they are not all in memory.
    pub(super) fn page(&mut self, key: Id, after: u64, encoding: Encoding, bytes_max: usize) -> Option<Page> {
        let room = &self.home.rooms.get(key)?.room;
        let (head, history) = (room.offset(), room.history());
        history.reaches_back_to(after, head).then(|| {
            encode_page(room, after, head, encoding, &mut self.scratch, bytes_max, history.after(after))
        })
    }
}

/// Puts older messages before those in memory, where they are joined, and keeps the last `limit`.
pub(super) fn with_older(mut older: Vec<Entry>, messages: Vec<Entry>, head: u64, limit: usize) -> Vec<Entry> {
    let next = messages.first().map_or(head + 1, |first| first.offset);
    older.retain(|entry| entry.offset < next);
    if older.last().is_none_or(|last| last.offset + 1 != next) {
        return messages;
    }
    older.extend(messages);
    let over = older.len().saturating_sub(limit);
    older.drain(..over);
    older
}

fn encode_page<'a>(
    room: &Room,
    after: u64,
    head: u64,
    encoding: Encoding,
    scratch: &mut Scratch,
    bytes_max: usize,
    entries: impl Iterator<Item = &'a Entry>,
) -> Page {
    let (mut bytes, mut ends, mut through) = (Vec::new(), Vec::new(), after);
    for Entry { offset, timestamp_ms, sender, content } in entries {
        let event = Event::Message {
            room: room.name().as_str(),
            sender: sender.as_str(),
            content,
            offset: *offset,
            timestamp: *timestamp_ms,
        };
        let before = bytes.len();
        scratch.begin();
        encoding.put_with(room.epoch(), &event, scratch, &mut bytes);
        // Where there is place for something, one message always has place.
        if bytes.len() > bytes_max && (before > 0 || bytes_max == 0) {
            bytes.truncate(before);
            break;
        }
        ends.push(bytes.len() as u32);
        through = *offset;
    }
    let frames = Frames { bytes: bytes.into(), ends: ends.into() };
    Page { frames, through, is_last: through == head }
}

/// A session cannot be taken from its node yet, nor without it.
fn node_does_not_answer() -> Refusal {
    let message = "the node that has this session does not answer: any other can have it when it has been silent for cluster.lease_ms";
    Refusal::with_retry(Reason::Unavailable, message, BACKPLANE_RETRY_MS)
}
