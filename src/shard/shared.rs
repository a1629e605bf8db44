//! Rooms that the nodes of a cluster share: this node's copies of them.
//!
//! The home of a room holds its copy. What would change the room is an *order*: it is appended to the room's changes, and done when it
//! comes back in its place, on every node that has a copy, by the same functions that do it at once on a node that stands alone. Whoever
//! asked for it is answered then. Messages are looked at here, get their place from the backplane, and are told when they come back,
//! again in their place. So there is one order for all members, wherever they are ([`super::backplane`] says how it comes about).
//!
//! # What may go wrong
//!
//! - Something announced does not arrive. The next entry leaves a gap, or the link tells where the room is: the copy catches up.
//! - The backplane does not answer. What somebody waits for is refused, `backplane_down`; what cannot be refused (leaving, losing a
//!   connection, coming back) is answered at once and kept until it can be appended. There is at most one such order a membership.
//! - The server of a Redis Cluster that has the room is away, and others answer: then the same holds for this room alone.
//! - A change was appended, but nobody knows. It is appended again under its tag, which finds it. If its asker was told meanwhile that
//!   it failed, and it was a join, it is undone by a leave.
//! - The data was lost. The room begins anew from the copy of whoever is first, with its last messages, under another epoch. Members are interrupted: they come
//!   back, and are told that nothing was recovered.

mod away;
mod entries;
mod orders;
mod publishing;
mod strays;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use orders::Order;
use publishing::Publishing;
use strays::Stray;
pub(super) use strays::Strays;

use super::Shard;
use super::backplane::{
    BackplaneRequest, Failed, LogEntry, OpenedRoom, Position, Renew, RoomAt, RoomOp, SharedMessage,
};
use super::encode::Encoding;
use super::home::{HomeRoom, no_such_room};
use super::journal::Asker;
use super::mail::{ApiRequest, Mail, Reply, ReplyTo, Request, RoomKey};
use super::timers::Timer;
use crate::base::slots::Id;
use crate::base::time::Tick;
use crate::chat::history::Entry;
use crate::chat::name::{Nickname, RoomName};
use crate::chat::refusal::{LeaveReason, Reason, Refusal};
use crate::chat::room::{LOBBY, Room, Snapshot, Stamp};
use crate::chat::user::{NodeId, SessionRef};

/// A copy without members here is given up after so long without use, in milliseconds.
const UNUSED_MS: u64 = 5000;

/// How many epochs of a room are remembered that it has left. Data that is lost once may come back once more as it was, when one replica
/// after another takes over; it rarely goes further back than that.
const FORMER_EPOCHS: usize = 8;

/// Further than any room has got: nothing reaches it, so that whatever is kept counts as lost.
const NOWHERE: Position = Position { change: u64::MAX, offset: u64::MAX };

/// What a room that begins anew takes along of its messages: so many, with so many bytes of content.
const RENEWED_MESSAGES: usize = 256;
const RENEWED_BYTES: usize = 1 << 20;

/// What clients are told to wait while the backplane is down, in milliseconds. When it is back nobody knows.
pub(super) const BACKPLANE_RETRY_MS: u64 = 1000;

/// What a home knows of a room beside its copy.
#[derive(Debug)]
pub(super) struct Shared {
    /// The last change applied.
    change: u64,
    /// Who brought about the last changes that were applied, and under which tag: the last one at the end.
    recent: VecDeque<(NodeId, u64)>,
    /// What has been given a place, as far as this node has been told, applied or not.
    known: Position,
    /// What waits to be appended.
    orders: VecDeque<Order>,
    /// What has been sent to be appended, under this tag.
    appending: Option<(u64, Vec<Order>)>,
    /// The place that the backplane has given a change of this node's, and its tag, until it comes.
    promised: Option<(u64, u64)>,
    /// Messages that wait for their place, in order.
    publishing: VecDeque<Publishing>,
    /// Messages of this node that have their place and have not come yet.
    unheard: VecDeque<Unheard>,
    /// What was known when the backplane was asked last what the room is: more has perhaps come since.
    asked: Position,
    /// While a copy is put in the place of another one, the last change that the one before had: up to there it has all happened long ago.
    replaying: Option<u64>,
    /// Whether this is no copy, but only to be read: nothing is asked of the backplane for it.
    is_draft: bool,
    /// Entries that came before their turn.
    early: VecDeque<LogEntry>,
    /// The last change after which somebody may not speak any more who could.
    guard: u64,
    /// The epochs that the room had before, the last one at the end.
    former: VecDeque<Arc<str>>,
    /// Whether what was asked of the backplane for this room last was not answered, although it is not down.
    is_away: bool,
    /// Whether missing entries have been asked for; whether the room is being begun anew.
    is_catching_up: bool,
    is_renewing: bool,
    /// The members that are on this node, and whether each has a connection.
    locals: BTreeMap<SessionRef, Local>,
    /// Those that have gone on elsewhere, the last one at the end.
    moved: VecDeque<(SessionRef, Local)>,
    /// Whether something of this node's has happened since it last told how many members there are, and what it told then.
    has_own_change: bool,
    told_members: u64,
    /// The change of the last snapshot that is known to be kept.
    kept_change: u64,
    /// When somebody here last wanted something of it, and whether it will be looked at for that.
    used: Tick,
    has_timer: bool,
}

/// A message whose place its sender has been told, before it has come.
#[derive(Debug)]
struct Unheard {
    tag: u64,
    offset: u64,
    /// Its sender, who does not want to hear it.
    deaf: Option<SessionRef>,
}

#[derive(Debug, Clone)]
pub(super) struct Local {
    nickname: Nickname,
    is_admin: bool,
    is_connected: bool,
    /// Whether it has been given up to another node, which is the one that it would return on.
    handed_on: Option<HandedOn>,
    /// Of one that comes from another node: the places by which the room may know it, until it is here.
    places: Option<Arc<[SessionRef]>>,
    /// Whether it has left where it was, while it is on its way here, and how: unless it has come again there since.
    left: Option<LeaveReason>,
}

impl Local {
    fn new(nickname: Nickname, is_admin: bool) -> Self {
        Self { nickname, is_admin, is_connected: true, handed_on: None, places: None, left: None }
    }
}

/// A member that has gone on elsewhere, and has not been heard of there.
#[derive(Debug, Clone, Copy)]
struct HandedOn {
    /// The number of its session.
    number: u64,
    /// For how long it is waited for.
    until: Tick,
}

/// What waits for a room to be opened.
#[derive(Debug)]
pub(super) enum Knock {
    Session(SessionRef, ReplyTo, Request),
    Api(super::mail::ConnectionRef, Box<ApiRequest>),
    Stray(Stray),
}

/// A room that is being opened.
#[derive(Debug, Default)]
pub(super) struct Opening {
    waiting: Vec<Knock>,
    may_make: bool,
}

impl Shared {
    /// Whether what is being applied has not been before, to a copy that this one has replaced.
    fn is_news(&self) -> bool {
        self.replaying.is_none_or(|last| self.change > last)
    }

    fn new(now: Tick) -> Self {
        Shared {
            change: 0,
            recent: VecDeque::new(),
            known: Position::default(),
            orders: VecDeque::new(),
            appending: None,
            publishing: VecDeque::new(),
            promised: None,
            unheard: VecDeque::new(),
            asked: Position::default(),
            replaying: None,
            is_draft: false,
            early: VecDeque::new(),
            guard: 0,
            former: VecDeque::new(),
            is_away: false,
            is_catching_up: false,
            is_renewing: false,
            locals: BTreeMap::new(),
            moved: VecDeque::new(),
            has_own_change: false,
            told_members: 0,
            kept_change: 0,
            used: now,
            has_timer: false,
        }
    }

    /// Whether nobody here needs the copy any more.
    fn is_unused(&self) -> bool {
        self.locals.is_empty()
            && self.orders.is_empty()
            && self.appending.is_none()
            && self.publishing.is_empty()
    }

    /// Whether a join of a session waits behind what is being looked at.
    fn joins_again(&self, session: SessionRef) -> bool {
        let orders = self.appending.iter().flat_map(|(_, orders)| orders).chain(&self.orders);
        orders
            .filter(|order| order.asker.is_some())
            .any(|order| matches!(order.op, RoomOp::Join { session: joins, .. } if joins == session))
    }

    /// No message may be under way behind one that has to be looked at once more.
    fn may_send(&self) -> bool {
        self.publishing.iter().filter_map(|publishing| publishing.sent).all(|seen| seen >= self.guard)
    }
}

impl HomeRoom {
    pub(super) fn at(&self) -> RoomAt {
        let change = self.shared.as_ref().map_or(0, |shared| shared.change);
        let position = Position { change, offset: self.room.offset() };
        RoomAt {
            room: self.room.name().folded().into(),
            epoch: self.room.epoch().clone(),
            position,
            known: self.shared.as_ref().map_or(position, |shared| shared.known.max(position)),
        }
    }
}

impl Shard {
    fn is_news(&self, key: Id) -> bool {
        self.home.rooms.get(key).and_then(|entry| entry.shared.as_ref()).is_none_or(|shared| shared.is_news())
    }

    /// Whether this node is one of a cluster.
    pub(super) fn is_clustered(&self) -> bool {
        self.nodes.is_clustered
    }

    pub(super) fn backplane_down(&self) -> Refusal {
        let why = self.nodes.down.as_deref().unwrap_or("it does not answer, or refuses");
        let message = format!("what the nodes of this server share cannot be reached now: {why}");
        Refusal::with_retry(Reason::BackplaneDown, message, BACKPLANE_RETRY_MS)
    }

    /// What is for the sessions of all nodes is for none as long as the others would not hear it.
    pub(super) fn check_backplane(&self) -> Result<(), Refusal> {
        if self.nodes.down.is_some() { Err(self.backplane_down()) } else { Ok(()) }
    }

    pub(super) fn ask_backplane(&mut self, request: BackplaneRequest) {
        self.counters.backplane_requests.add(1);
        self.post(self.store(), Mail::BackplaneRequest { from: self.core, request });
    }

    /// What a session asks of a room that nodes share. Gives back what is answered from the copy, as on a node that stands alone.
    pub(super) fn take_shared(
        &mut self,
        from: SessionRef,
        reply_to: ReplyTo,
        request: Request,
    ) -> Option<(ReplyTo, Request)> {
        match request {
            Request::Join(join) => {
                let name = join.room.clone();
                let knock = Knock::Session(from, reply_to, Request::Join(join));
                let (_, knock) = self.open_or_wait(&name, true, knock)?;
                let Knock::Session(from, reply_to, Request::Join(join)) = knock else {
                    unreachable!("what was given comes back")
                };
                self.join_or_read(from, reply_to, join, Vec::new(), super::reading::READS_MAX);
                None
            }
            Request::Return { room, places, echo } => {
                let name = room.clone();
                let request = Request::Return { room, places, echo };
                let (key, knock) =
                    self.open_or_wait(&name, false, Knock::Session(from, reply_to, request))?;
                let Knock::Session(from, reply_to, Request::Return { places, echo, .. }) = knock else {
                    unreachable!("what was given comes back")
                };
                self.return_member(from, reply_to, key, &places, echo);
                None
            }
            Request::Members { .. } | Request::History { .. } | Request::ExplainNotAMember { .. } => {
                let (Request::Members { room, .. }
                | Request::History { room, .. }
                | Request::ExplainNotAMember { room }) = &request
                else {
                    unreachable!("matched above")
                };
                let name = room.clone();
                let knock = Knock::Session(from, reply_to, request);
                match self.open_or_wait(&name, false, knock)? {
                    (_, Knock::Session(_, reply_to, request)) => Some((reply_to, request)),
                    _ => unreachable!("what was given comes back"),
                }
            }
            Request::Leave { room, reason, is_listening } => {
                if is_listening {
                    self.send_room(room);
                }
                // Whatever becomes of the room meanwhile, it is not one of those who return to it.
                self.forget_local(room, from);
                self.order(room, RoomOp::Leave { session: from, reason }, Some((from, reply_to)));
                None
            }
            Request::Detach { room } => {
                if let Some(entry) = self.home.rooms.get_mut(room) {
                    entry.unlisten(from);
                    if let Some(local) = entry.local_mut(from) {
                        local.is_connected = false;
                    }
                }
                self.order(room, RoomOp::Detach { session: from }, Some((from, reply_to)));
                None
            }
            Request::Attach { room, name, old, .. } => {
                self.order_attach(from, reply_to, room, *name, old);
                None
            }
            Request::Rename { room, nickname } => {
                let op = RoomOp::Rename { session: from, nickname };
                self.order(room, op, Some((from, reply_to)));
                None
            }
            Request::SetState { room, key, value } => {
                let op = RoomOp::SetState { session: from, key, value };
                self.order(room, op, Some((from, reply_to)));
                None
            }
            Request::SetRole { room, target, role } => {
                let op = RoomOp::SetRole { session: from, target, role };
                self.order(room, op, Some((from, reply_to)));
                None
            }
            Request::Moderate { room, action, target, reason, seconds } => {
                let op = RoomOp::Moderate { session: from, action, target, reason, seconds };
                self.order(room, op, Some((from, reply_to)));
                None
            }
            Request::Publish { room, content, echo, number, .. } => {
                self.publish_shared(from, reply_to, room, content, echo, number);
                None
            }
            Request::Typing { room } => {
                let reply = self.utter_typing(from, room);
                self.reply_to_asker(Asker::Session(from, reply_to), reply);
                None
            }
            request => self.take_clustered(from, reply_to, request),
        }
    }

    /// The key of a room's copy, if there is one; otherwise the room is opened, and who knocks is heard again then.
    pub(super) fn open_or_wait(&mut self, name: &RoomName, make: bool, knock: Knock) -> Option<(Id, Knock)> {
        if let Some(key) = self.home.by_name.get(name.folded()).copied() {
            self.note_shared_use(key);
            return Some((key, knock));
        }
        let refusal = if self.nodes.down.is_some() {
            Some(self.backplane_down())
        } else if self.would_be_too_many(name) {
            self.counters.rooms_full.add(1);
            Some(Refusal::new(Reason::TooManyRooms, "this node has as many rooms as it may have"))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.answer_knock(knock, refusal);
            return None;
        }
        let folded: Arc<str> = name.folded().into();
        let is_new = !self.home.opening.contains_key(&folded);
        let opening = self.home.opening.entry(folded).or_default();
        opening.waiting.push(knock);
        if is_new {
            opening.may_make = make;
            self.ask_to_open(name.clone(), make);
        }
        None
    }

    /// Whether there is no place for the copy of one more room. That of the lobby is on top of the limit, as on a node that stands alone.
    fn would_be_too_many(&self, name: &RoomName) -> bool {
        let home = &self.home;
        let has_lobby = home.by_name.contains_key(LOBBY) || home.opening.contains_key(LOBBY);
        let others = home.rooms.len() + home.opening.len() - usize::from(has_lobby);
        name.folded() != LOBBY && !home.opening.contains_key(name.folded()) && others >= self.limits.rooms
    }

    fn ask_to_open(&mut self, room: RoomName, make: bool) {
        let make = make.then(|| self.new_epoch());
        self.ask_backplane(BackplaneRequest::Open { room, make });
    }

    fn new_epoch(&mut self) -> Arc<str> {
        format!("{:016x}", self.rng.next_u64()).into()
    }

    fn answer_knock(&mut self, knock: Knock, refusal: Refusal) {
        match knock {
            Knock::Session(from, reply_to, request) => {
                if let Request::Return { room, places, .. } = request
                    && refusal.reason != Reason::NoSuchRoom
                {
                    self.note_stray(room, places);
                }
                self.reply_to_asker(Asker::Session(from, reply_to), Reply::Refused(refusal));
            }
            Knock::Api(from, _) => self.reply_to_asker(Asker::Api(from), Reply::Refused(refusal)),
            Knock::Stray(_) if refusal.reason == Reason::NoSuchRoom => {}
            Knock::Stray(stray) => self.keep_stray(stray),
        }
    }

    /// The backplane says what a room is, or that there is none.
    pub(super) fn hear_opened(
        &mut self,
        folded: Arc<str>,
        outcome: Result<Option<Box<OpenedRoom>>, Failed>,
        is_catch_up: bool,
    ) {
        if let Some(key) = self.home.by_name.get(&folded).copied() {
            return self.hear_reopened(key, outcome);
        }
        // A copy that is gone by now wanted to catch up. What the room is may be right, but it is not heard: a copy of that would stand still.
        if is_catch_up {
            return;
        }
        let Some(Opening { waiting, may_make }) = self.home.opening.remove(&folded) else { return };
        match outcome {
            Ok(Some(opened)) if opened.is_doubtful => {
                self.home.opening.insert(folded, Opening { waiting, may_make });
                self.renew_doubtful(&opened);
            }
            Ok(Some(opened)) => {
                self.take_in_room(*opened);
                self.knock_again(waiting);
            }
            // Somebody who may make it came after it had been asked for by somebody who may not.
            Ok(None) => {
                for knock in waiting {
                    let name = match &knock {
                        Knock::Session(_, _, Request::Join(join)) if !may_make => Some(join.room.clone()),
                        Knock::Api(_, request) if !may_make => request.room_to_make().cloned(),
                        _ => None,
                    };
                    match name {
                        Some(name) => drop(self.open_or_wait(&name, true, knock)),
                        None => self.answer_knock(knock, no_such_room()),
                    }
                }
            }
            Err(_) => {
                for knock in waiting {
                    let refusal = self.backplane_down();
                    self.answer_knock(knock, refusal);
                }
            }
        }
    }

    fn knock_again(&mut self, waiting: Vec<Knock>) {
        for knock in waiting {
            match knock {
                Knock::Session(from, reply_to, request) => self.handle_request(from, reply_to, request),
                Knock::Api(from, request) => self.handle_api_request(from, *request),
                Knock::Stray(stray) => self.leave_stray(stray),
            }
        }
    }

    /// Makes the copy of a room.
    fn take_in_room(&mut self, opened: OpenedRoom) {
        let (room, entries) = self.copy_of(&opened);
        let (retention, _) = self.room_rules.of(room.name());
        let folded: Arc<str> = room.name().folded().into();
        // What is not in memory is asked for by a number, as on a node with a store; this one means nothing to others.
        let number = self.rng.next_u64() >> 1 | 1;
        let mut entry = HomeRoom::new(room, self.cores(), number, retention);
        entry.kept_from = opened.first_kept;
        let mut shared = Box::new(Shared::new(self.now.tick));
        shared.change = opened.snapshot.as_ref().map_or(0, |(change, _)| *change);
        shared.kept_change = shared.change;
        entry.shared = Some(shared);
        let key = self.home.rooms.insert(entry);
        self.home.by_name.insert(folded, key);
        self.note_number(key);
        self.counters.rooms.set(self.home.rooms.len() as u64);
        self.apply_all(key, entries);
        self.finish_copy(key, &opened.position);
        // Nobody here is a member of a room that there was no copy of, whatever it was renewed from.
        self.compare_locals(key);
        self.look_for_lost_nodes(key);
        self.consider_shared(key);
    }

    /// A room as its snapshot says, and the entries that are to be applied to it.
    fn copy_of(&mut self, opened: &OpenedRoom) -> (Room, Vec<LogEntry>) {
        let (_, bounds) = self.room_rules.of(&opened.room);
        let snapshot =
            opened.snapshot.as_ref().map(|(_, snapshot)| serde_json::from_str::<Snapshot>(snapshot));
        let snapshot = snapshot.transpose().unwrap_or_else(|error| {
            log::error!("room {}: its snapshot cannot be read: {error}", opened.room.as_str());
            None
        });
        let first = opened.entries.iter().find_map(|entry| match entry {
            LogEntry::Message { position, .. } => Some(position.offset - 1),
            LogEntry::Change { .. } => None,
        });
        let offset = first.unwrap_or(opened.position.offset);
        let stamp = Stamp { offset, timestamp_ms: 0 };
        let (name, epoch) = (opened.room.clone(), opened.epoch.clone());
        let room = Room::from_snapshot(name, epoch, bounds, stamp, snapshot.unwrap_or_default());
        (room, opened.entries.clone())
    }

    /// The copy is where the room is.
    fn finish_copy(&mut self, key: Id, position: &Position) {
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        let Some(shared) = &mut entry.shared else { return };
        shared.replaying = None;
        if position.change > shared.change {
            shared.change = position.change;
            shared.recent.clear();
        }
        shared.guard = shared.change;
    }

    /// The backplane says what a room is of which there is a copy.
    fn hear_reopened(&mut self, key: Id, outcome: Result<Option<Box<OpenedRoom>>, Failed>) {
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        let at = entry.at();
        let Some(shared) = &mut entry.shared else { return };
        (shared.is_catching_up, shared.is_renewing) = (false, false);
        let asked = shared.asked;
        let Ok(opened) = outcome else { return self.note_room_away(key) };
        shared.is_away = false;
        match opened {
            // What has been left behind has come back, with messages at places that have been given to others since.
            Some(opened) if *opened.epoch != *at.epoch && shared.former.contains(&opened.epoch) => {
                self.renew(key, RoomAt { epoch: opened.epoch, known: NOWHERE, ..at });
            }
            // Nobody has vouched for it since something was lost: the room has left that too, before there was this copy.
            Some(opened) if *opened.epoch != *at.epoch && opened.is_doubtful => {
                self.renew(key, RoomAt { epoch: opened.epoch, known: opened.position, ..at });
            }
            Some(opened) if *opened.epoch != *at.epoch || opened.position.reaches(at.known) => {
                self.replace_copy(key, *opened);
            }
            // The copy has got further since it was asked.
            Some(opened) if opened.position.reaches(asked) => self.bring_up_to_date(key),
            // It has forgotten what this node has seen.
            _ => self.renew(key, at),
        }
    }

    /// Begins a room anew of which something may be lost, and of which nobody has had a copy. Those who wait for it wait for that.
    fn renew_doubtful(&mut self, opened: &OpenedRoom) {
        let now_ms = self.now.unix_ms;
        let (room, entries) = self.copy_of(opened);
        let (retention, _) = self.room_rules.of(room.name());
        // It is in no table: nobody hears of what has happened there.
        let mut entry = HomeRoom::new(room, self.cores(), 0, retention);
        let change = opened.snapshot.as_ref().map_or(0, |(change, _)| *change);
        entry.shared = Some(Box::new(Shared { change, is_draft: true, ..Shared::new(self.now.tick) }));
        let key = self.home.rooms.insert(entry);
        self.apply_all(key, entries);
        let entry = self.home.rooms.remove(key).expect("just inserted");
        self.count_forgotten(entry.room.history().bytes());
        let (room, position) = (opened.room.clone(), opened.position);
        let lost =
            RoomAt { room: room.folded().into(), epoch: opened.epoch.clone(), position, known: position };
        // Where its messages are, if it has any that are kept: of what came after those nobody knows more.
        let lost = RoomAt { position: Position { offset: entry.room.offset(), ..position }, ..lost };
        self.ask_to_renew(room, lost, Some(&entry.room.snapshot(now_ms)), last_messages(&entry.room));
    }

    fn ask_to_renew(
        &mut self,
        room: RoomName,
        lost: RoomAt,
        snapshot: Option<&Snapshot>,
        messages: Vec<LogEntry>,
    ) {
        self.counters.rooms_renewed.add(1);
        log::warn!("room {}: the backplane has lost it, or part of it: it begins anew", room.as_str());
        let epoch = self.new_epoch();
        let text = |snapshot| serde_json::to_string(snapshot).expect("plain values become JSON");
        let snapshot = snapshot.map(text);
        self.ask_backplane(BackplaneRequest::Renew(Box::new(Renew {
            room,
            lost,
            epoch,
            snapshot,
            messages,
        })));
    }

    /// An entry contradicts the copy: the backplane has lost what the copy has, and has gone on from there. Others have heard how: it goes
    /// on with what the backplane has, but under another epoch.
    fn renew_contradicted(&mut self, key: Id) {
        let Some(entry) = self.home.rooms.get(key) else { return };
        let (room, lost) = (entry.room.name().clone(), RoomAt { known: NOWHERE, ..entry.at() });
        if self.begin_renewal(key, &lost) {
            self.ask_to_renew(room, lost, None, Vec::new());
        }
    }

    /// Begins a room anew whose data was lost.
    fn renew(&mut self, key: Id, lost: RoomAt) {
        let now_ms = self.now.unix_ms;
        if self.begin_renewal(key, &lost) {
            let room = &self.home.rooms[key].room;
            let (name, snapshot) = (room.name().clone(), room.snapshot(now_ms));
            let messages = last_messages(room);
            self.ask_to_renew(name, lost, Some(&snapshot), messages);
        }
    }

    /// Whether a room is not being begun anew already.
    fn begin_renewal(&mut self, key: Id, lost: &RoomAt) -> bool {
        let shared = self.home.rooms.get_mut(key).and_then(|entry| entry.shared.as_mut());
        shared.is_some_and(|shared| {
            shared.asked = lost.known;
            !std::mem::replace(&mut shared.is_renewing, true)
        })
    }

    /// Puts a copy in the place of another one that cannot be brought up to date. Members have missed something: those who can come back
    /// are interrupted, and are told then what it was, or that it is lost.
    fn replace_copy(&mut self, key: Id, opened: OpenedRoom) {
        self.counters.copies_replaced.add(1);
        self.send_room(key);
        let (room, entries) = self.copy_of(&opened);
        let me = RoomKey { home: self.core, key };
        let entry = &mut self.home.rooms[key];
        let is_other = room.epoch() != entry.room.epoch();
        if is_other && let Some(shared) = &mut entry.shared {
            shared.former.push_back(entry.room.epoch().clone());
            if shared.former.len() > FORMER_EPOCHS {
                shared.former.pop_front();
            }
        }
        let cores = entry.listeners.keys().map(|session| session.core).chain(entry.audience.cores());
        let cores: BTreeSet<u16> = cores.collect();
        // What they have heard is not told again to those who are not interrupted, and what they have missed cannot be.
        let listening: Vec<(SessionRef, Encoding)> =
            entry.listeners.iter().map(|(session, encoding)| (*session, *encoding)).collect();
        listening.iter().for_each(|(session, _)| entry.unlisten(*session));
        let before = entry.room.history().bytes();
        entry.room = room;
        entry.kept_from = opened.first_kept;
        self.count_forgotten(before);
        let epoch = opened.epoch.clone();
        for core in cores {
            self.post(core, Mail::Interrupted { room: me, epoch: epoch.clone() });
        }
        if let Some(shared) = &mut self.home.rooms[key].shared {
            shared.replaying = Some(if is_other { 0 } else { shared.change });
            shared.change = opened.snapshot.as_ref().map_or(0, |(change, _)| *change);
            shared.kept_change = shared.change;
            shared.known = Position::default();
            shared.early.clear();
            shared.unheard.clear();
            shared.promised = None;
            shared.recent.clear();
        }
        self.apply_all(key, entries);
        self.finish_copy(key, &opened.position);
        self.send_room(key);
        self.go_on_listening(key, listening);
        self.compare_locals(key);
        self.look_for_lost_nodes(key);
        self.pump(key);
    }

    /// Those who listened and are members in the new copy too go on doing so.
    fn go_on_listening(&mut self, key: Id, listening: Vec<(SessionRef, Encoding)>) {
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        for (session, encoding) in listening {
            if entry.room.member(session).is_some() || entry.local_mut(session).is_some() {
                entry.listen(session, encoding);
            }
        }
    }

    /// Notes that somebody wants something of a room.
    fn note_shared_use(&mut self, key: Id) {
        let now = self.now.tick;
        if let Some(shared) = self.home.rooms.get_mut(key).and_then(|entry| entry.shared.as_mut()) {
            shared.used = now;
        }
    }

    /// A copy may not be needed here any more: it is looked at later, when nothing is being done with it.
    pub(super) fn consider_shared(&mut self, key: Id) {
        let now = self.now.tick;
        let Some(entry) = self.home.rooms.get_mut(key).filter(|entry| entry.audience.is_empty()) else {
            return;
        };
        let Some(shared) = &mut entry.shared else { return };
        if shared.is_unused() && !std::mem::replace(&mut shared.has_timer, true) {
            self.wheel.insert(now + UNUSED_MS, Timer::Room(key));
        }
    }

    /// Gives up a copy that nobody here needs.
    pub(super) fn look_at_shared(&mut self, key: Id) {
        let now = self.now.tick;
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        let Some(shared) = &mut entry.shared else { return };
        shared.has_timer = false;
        if !shared.is_unused() || !entry.audience.is_empty() {
            return;
        }
        if now.since(shared.used) < UNUSED_MS {
            return self.consider_shared(key);
        }
        let room = entry.room.name().folded().into();
        self.remove_room(key);
        self.ask_backplane(BackplaneRequest::Close { room });
    }
}

/// The last messages of a room, as they are told to the backplane.
fn last_messages(room: &Room) -> Vec<LogEntry> {
    let page = room.history().page(None, None, RENEWED_MESSAGES, RENEWED_BYTES);
    let entries = page.into_iter().map(|entry| {
        let Entry { offset, timestamp_ms, sender, content } = entry;
        let position = Position { change: 0, offset };
        // Who waited for it has been answered, one way or the other.
        LogEntry::Message {
            position,
            timestamp_ms,
            message: SharedMessage { sender, content, from: None, node: 0, tag: 0 },
        }
    });
    entries.collect()
}

impl HomeRoom {
    pub(super) fn local_mut(&mut self, session: SessionRef) -> Option<&mut Local> {
        self.shared.as_mut()?.locals.get_mut(&session)
    }

    /// Whoever has been told that the room is left hears no more of it.
    pub(super) fn unlisten_if_left(&mut self, reply: &Reply, session: SessionRef) {
        if let Reply::Left { .. } = reply {
            self.unlisten(session);
            if let Some(shared) = &mut self.shared {
                shared.locals.remove(&session);
            }
        }
    }
}
