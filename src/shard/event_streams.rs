//! Event streams: what is said in a room, to whoever asks for it by HTTP (Server-Sent Events).
//!
//! An event stream is a connection that hears one room, and says nothing. It is no member: it has no nickname, is in no list and no
//! presence, and hears messages alone. The room's home knows each, as it knows who listens among the members, and sends batches to the
//! cores that have some; here each has a range of the shared bytes put into its queue. While it has one, a room does not end.
//!
//! A client that comes back says which message it had last, and gets those that follow, a page at a time, then live ones; or is told
//! that it cannot (`reset`), and hears what comes. So whatever else happens to a stream, it may simply end: one that reads too slowly does,
//! and those of a room that begins anew.

use std::sync::Arc;

use hashbrown::HashMap;

use super::Shard;
use super::api::{Caller, room_in_path};
use super::closing::Closing;
use super::connection::{Connection, Protocol, Stage};
use super::encode::Encoding;
use super::fanout::RoomBatch;
use super::http::{Answer, What};
use super::journal::Asker;
use super::mail::{ApiRequest, ConnectionRef, Listen, Listening, Mail, Page, Reply, RoomKey, Since};
use super::session::Identity;
use super::shared::Knock;
use super::timers::EXPIRY_MS_MAX;
use crate::base::slots::Id;
use crate::base::time::Tick;
use crate::chat::name::Nickname;
use crate::chat::refusal::{Farewell, Reason, Refusal};
use crate::proto::http1::{self, Content, Head};
use crate::proto::{json, sse};

/// How often an event stream gets a comment, so that nobody between takes it for dead, and the end of a client is noticed.
pub const COMMENT_MS: u64 = 15_000;

/// After how long clients come back that have lost their stream, at least and at most: each is told its own time, so that those who have
/// lost it together do not come back together.
const RETRY_MS: u64 = 1000;
const RETRY_SPREAD_MS: u64 = 3000;

/// The event streams of one core, by the rooms that they are of. Their keys are not chosen by peers, so a fast hash will do.
pub(super) type EventStreams = HashMap<RoomKey, Vec<Place>>;

/// An event stream in the list of its room's.
#[derive(Debug)]
pub(super) struct Place {
    connection: Id,
    /// Whether it gets messages as they come: it has all that it missed.
    is_live: bool,
}

impl Place {
    /// The connection, if it gets what comes.
    pub fn live(&self) -> Option<Id> {
        self.is_live.then_some(self.connection)
    }
}

/// A connection's event stream.
#[derive(Debug)]
pub struct EventStream {
    room: RoomKey,
    /// Its place in the list of the room's.
    position: u32,
    /// What it has of what it missed, if that was not all yet.
    missed: Option<Missed>,
    /// When it gets its next comment.
    comment_at: Tick,
    /// Who listens, if that was shown.
    identity: Option<Arc<Identity>>,
}

#[derive(Debug, Clone, Copy)]
struct Missed {
    through: u64,
    /// Whether more has been asked for.
    is_asked: bool,
}

impl EventStream {
    /// Who listens, if that was shown.
    pub fn nickname(&self) -> Option<&Nickname> {
        self.identity.as_ref().map(|identity| &identity.claims.nickname)
    }
}

/// What a request for an event stream says in its query, for those who cannot set fields of its head: pages.
#[derive(Debug, Default)]
struct Parameters {
    token: Option<String>,
    last_event_id: Option<String>,
}

impl Parameters {
    fn parse(query: &str) -> Result<Self, Refusal> {
        let bad = |message: String| Refusal::new(Reason::BadRequest, message);
        let pairs = http1::query_pairs(query).ok_or_else(|| bad("the query is not well formed".into()))?;
        let mut parameters = Parameters::default();
        for (name, value) in pairs {
            let place = match name.as_str() {
                "token" => &mut parameters.token,
                "last_event_id" => &mut parameters.last_event_id,
                _ => return Err(bad(format!("`{name}` is not known here, only `token`, `last_event_id`"))),
            };
            if place.replace(value).is_some() {
                return Err(bad(format!("`{name}` stands twice")));
            }
        }
        Ok(parameters)
    }
}

/// The place that a client has reached. What is no place is one that no room can go on from.
fn since(id: &str) -> Option<Since> {
    let (epoch, offset) = sse::parse_place(id).unwrap_or_default();
    (!id.is_empty()).then(|| Since { epoch: epoch.into(), offset })
}

/// What a client asks.
impl Shard {
    /// Decides what is to be done about a request for an event stream.
    pub(super) fn consider_event_stream(
        &mut self,
        id: Id,
        head: &Head,
        room: &str,
        caller: &mut Option<Box<Caller>>,
    ) -> What {
        if !self.is_origin_allowed(head, self.connections.get(id).is_some_and(Connection::is_secure)) {
            return What::error(403, "this origin may not connect");
        }
        if self.is_leaving() {
            return What::EventStreamEnd;
        }
        match self.listen_of(id, head, room, caller) {
            Ok(listen) => What::Query(ApiRequest::Listen(Box::new(listen))),
            Err(refusal) => What::Refusal(refusal),
        }
    }

    fn listen_of(
        &mut self,
        id: Id,
        head: &Head,
        room: &str,
        caller: &mut Option<Box<Caller>>,
    ) -> Result<Listen, Refusal> {
        let Parameters { token, last_event_id } = Parameters::parse(head.query.unwrap_or_default())?;
        let identity = match token {
            Some(token) => Some(self.admit_token(id, head, &token, caller)?),
            None => self.admit_reader(id, head, caller)?,
        };
        let room = room_in_path(room, identity.as_ref().and_then(|identity| identity.rooms.as_ref()))?;
        let last_event_id = head.header("last-event-id").or(last_event_id.as_deref());
        Ok(Listen {
            room,
            since: last_event_id.and_then(since),
            replay_bytes: self.replay_bytes(),
            identity,
            origin: head.origin.map(Into::into),
        })
    }

    fn replay_bytes(&self) -> usize {
        self.limits.replay_page_bytes.min(self.limits.send_queue_bytes / 2)
    }

    fn event_stream(&self, id: Id) -> Option<&EventStream> {
        match &self.connections.get(id)?.protocol {
            Protocol::EventStream(stream) => Some(stream),
            _ => None,
        }
    }

    fn event_stream_mut(&mut self, id: Id) -> Option<&mut EventStream> {
        match &mut self.connections.get_mut(id)?.protocol {
            Protocol::EventStream(stream) => Some(stream),
            _ => None,
        }
    }

    /// A home lets a connection listen: its request is answered, and what it missed follows, or the beginning of that.
    pub(super) fn begin_event_stream(&mut self, id: Id, listening: Listening) {
        let Listening { room, epoch, offset, recovered, replay, identity, origin } = listening;
        let now = self.now.tick;
        let date = self.date();
        let comment_at = now + 1 + self.rng.below(COMMENT_MS);
        let retry_ms = RETRY_MS + self.rng.below(RETRY_SPREAD_MS);
        let answer: Option<Answer> = match self.connections.get_mut(id) {
            Some(Connection { stage: Stage::Open, protocol: Protocol::Http(http), .. }) => {
                http.under_way.end_asking()
            }
            _ => None,
        };
        let Some(answer) = answer else {
            // It has gone meanwhile.
            return self.tell_stream_ended(id, room);
        };
        self.note_answered(id, answer.request_id.as_deref(), answer.method, 200, answer.began_ns);
        let mut headers = vec![("Cache-Control", "no-store"), ("X-Accel-Buffering", "no")];
        if let Some(origin) = &origin {
            headers.extend([("Access-Control-Allow-Origin", &**origin), ("Vary", "Origin")]);
        }
        self.say_raw(id, |out| {
            let reply = http1::Reply {
                content_type: Some(sse::CONTENT_TYPE),
                headers: &headers,
                content: Content::UntilClose,
                request_id: answer.request_id.as_deref(),
                date: Some(&date),
                ..http1::Reply::last(200)
            };
            http1::put(out, &reply);
        });
        let connection = self.connections.get_mut(id).expect("looked at above");
        connection.http_bytes = u32::try_from(connection.queue.bytes()).unwrap_or(u32::MAX);
        let missed = match &replay {
            Some(Page { through, is_last: false, .. }) => Some(Missed { through: *through, is_asked: false }),
            _ => None,
        };
        connection.behind = u32::from(missed.is_some());
        connection.encoding = Encoding::EventStream;
        (connection.pause, connection.unread) = (None, Vec::new());
        let input_ended = connection.input_ended;
        let places = self.event_streams.entry(room).or_default();
        places.push(Place { connection: id, is_live: missed.is_none() });
        let position = places.len() as u32 - 1;
        let is_void = self.is_void_for_streams(identity.as_deref());
        let stream = EventStream { room, position, missed, comment_at, identity };
        let connection = self.connections.get_mut(id).expect("looked at above");
        connection.protocol = Protocol::EventStream(Box::new(stream));
        self.log_protocol(id);
        self.counters.event_streams.add(1);
        let place = recovered.is_none().then_some((&*epoch, offset));
        self.say_raw(id, |out| sse::put_beginning(out, retry_ms, place));
        match recovered {
            None => {}
            Some(true) => self.counters.event_streams_recovered.add(1),
            Some(false) => {
                self.counters.event_stream_resets.add(1);
                let mut data = Vec::new();
                json::write_position(&epoch, offset, &mut data);
                self.say_raw(id, |out| sse::put_event(out, "reset", &epoch, offset, &data));
            }
        }
        if let Some(page) = replay {
            self.push_page(id, page);
        }
        if self.is_leaving() {
            return self.close(id, Closing::Bye(Farewell::Draining));
        }
        if is_void {
            return self.close(id, Closing::Bye(Farewell::Unauthenticated));
        }
        if input_ended {
            return self.close(id, Closing::InputEnded);
        }
        self.resumed.push(id); // to hear when its client ends it
        self.arm(id);
    }

    /// Answers a request for an event stream while the clients are told to go. A page gives up for good on any answer but this one.
    pub(super) fn end_event_stream_at_once(&mut self, id: Id, reply: &http1::Reply) {
        let retry_ms = self.drain_after_ms();
        self.say_raw(id, |out| {
            let headers = &[("Cache-Control", "no-store")];
            let (content_type, content) = (Some(sse::CONTENT_TYPE), Content::UntilClose);
            http1::put(out, &http1::Reply { content_type, headers, content, ..*reply });
            sse::put_end(out, Farewell::Draining.code(), Farewell::Draining.as_str(), Some(retry_ms));
        });
    }
}

/// What happens to streams here.
impl Shard {
    /// Queues a batch on the event streams of its room.
    pub(super) fn deliver_to_event_streams(&mut self, batch: &RoomBatch) {
        let Some(places) = self.event_streams.get(&batch.room) else { return };
        let Some((_, frames)) = batch.frames.iter().find(|(it, _)| *it == Encoding::EventStream) else {
            return;
        };
        let all = 0..frames.bytes.len() as u32;
        if all.is_empty() {
            return; // nothing in it was a message
        }
        let shared = self.pool.share(frames.clone());
        let mut heard_by = 0;
        for Place { connection: id, .. } in places.iter().filter(|place| place.is_live) {
            let Some(connection) = self.connections.get_mut(*id) else { continue };
            self.pool.push(&mut connection.queue, &shared, all.clone());
            heard_by += 1;
            if !connection.is_touched {
                connection.is_touched = true;
                self.touched.push(*id);
            }
        }
        self.pool.done(shared);
        self.counters.deliveries.add(heard_by * batch.messages());
    }

    /// An event stream has taken all that was queued: it asks for more of what it missed.
    pub(super) fn catch_up_event_stream(&mut self, id: Id) {
        let bytes_max = self.replay_bytes();
        let Some(EventStream { room, missed: Some(missed), .. }) = self.event_stream_mut(id) else { return };
        if std::mem::replace(&mut missed.is_asked, true) {
            return;
        }
        let (room, after) = (*room, missed.through);
        self.window[usize::from(room.home)] += 1;
        let from = ConnectionRef { core: self.core, connection: id };
        self.post(
            room.home,
            Mail::ApiRequest { from, request: ApiRequest::Missed { room, after, bytes_max } },
        );
    }

    /// More of what an event stream missed has come.
    pub(super) fn hear_missed(&mut self, id: Id, after: u64, page: Option<Page>) {
        let Some(stream) = self.event_stream_mut(id) else { return }; // it has ended meanwhile
        debug_assert!(stream.missed.is_some_and(|missed| missed.is_asked && missed.through == after));
        let Some(page) = page else {
            // The room has forgotten what this one has yet to get: it reads more slowly than the room speaks.
            return self.close(id, Closing::Bye(Farewell::SlowConsumer));
        };
        stream.missed = (!page.is_last).then_some(Missed { through: page.through, is_asked: false });
        let (room, position) = (stream.room, stream.position as usize);
        if page.is_last {
            let places = self.event_streams.get_mut(&room).expect("a stream has its place in the list");
            places[position].is_live = true;
            self.connections.get_mut(id).expect("looked at above").behind = 0;
        }
        self.push_page(id, page);
        self.touch(id); // its flush asks for the next page
    }

    /// A connection ends, which may be an event stream.
    pub(super) fn end_event_stream(&mut self, id: Id) {
        let Some(EventStream { room, position, .. }) = self.event_stream(id) else { return };
        let (room, position) = (*room, *position);
        let places = self.event_streams.get_mut(&room).expect("a stream has its place in the list");
        places.swap_remove(position as usize);
        match places.get(position as usize).map(|moved| moved.connection) {
            Some(moved) => {
                self.event_stream_mut(moved).expect("a place is that of a stream").position = position;
            }
            None if places.is_empty() => drop(self.event_streams.remove(&room)),
            None => {}
        }
        self.connections.get_mut(id).expect("looked at above").behind = 0;
        self.counters.event_streams.sub(1);
        self.tell_stream_ended(id, room);
    }

    fn tell_stream_ended(&mut self, id: Id, room: RoomKey) {
        let from = ConnectionRef { core: self.core, connection: id };
        self.post(room.home, Mail::EventStreamEnded { room: room.key, from });
    }

    /// Tells an event stream why it ends.
    pub(super) fn say_event_stream_ends(&mut self, id: Id, farewell: Farewell) {
        let retry_ms = (farewell == Farewell::Draining).then(|| self.drain_after_ms());
        self.say_raw(id, |out| sse::put_end(out, farewell.code(), farewell.as_str(), retry_ms));
    }

    /// The streams of a room have missed something. They end; their clients come back, and are told then what it was.
    pub(super) fn interrupt_event_streams(&mut self, room: RoomKey) {
        let places = self.event_streams.get(&room).map(|places| places.iter().map(|place| place.connection));
        for id in places.map(Iterator::collect::<Vec<Id>>).unwrap_or_default() {
            self.counters.interrupted.add(1);
            self.close(id, Closing::Bye(Farewell::Internal));
        }
    }

    /// A host does not want somebody in a room, who listens to it here.
    pub(super) fn hear_stream_expelled(&mut self, id: Id, room: RoomKey, is_banned: bool) {
        if self.event_stream(id).is_some_and(|stream| stream.room == room) {
            let farewell = if is_banned { Farewell::Banned } else { Farewell::Kicked };
            self.close(id, Closing::Bye(farewell));
        }
    }

    /// Ends what somebody listens to here, and says how many streams that were.
    pub(super) fn end_event_streams_of(&mut self, nickname: &Nickname, farewell: Farewell) -> u64 {
        let places = self.event_streams.values().flatten().map(|place| place.connection);
        let is_meant = |id: &Id| {
            let of = self.event_stream(*id).and_then(EventStream::nickname);
            of.is_some_and(|of| of.folded() == nickname.folded())
        };
        let ids: Vec<Id> = places.filter(is_meant).collect();
        for id in &ids {
            self.close(*id, Closing::Bye(farewell));
        }
        ids.len() as u64
    }

    /// The account of somebody has changed, who may listen here by a token that is void now.
    pub(super) fn review_event_streams_of(&mut self, nickname: &Nickname) {
        self.end_void_event_streams(|identity| {
            identity.is_some_and(|it| it.claims.nickname.folded() == nickname.folded())
        });
    }

    /// The keys of programs have changed.
    pub(super) fn review_event_streams_by_key(&mut self) {
        self.end_void_event_streams(|identity| identity.is_some_and(|it| it.key.is_some()));
    }

    /// Guests may not listen any more.
    pub(super) fn end_anonymous_event_streams(&mut self) {
        self.end_void_event_streams(|identity| identity.is_none());
    }

    fn end_void_event_streams(&mut self, is_meant: impl Fn(Option<&Identity>) -> bool) {
        let places = self.event_streams.values().flatten().map(|place| place.connection);
        let is_void = |id: &Id| {
            self.event_stream(*id).is_some_and(|stream| {
                let identity = stream.identity.as_deref();
                is_meant(identity) && self.is_void_for_streams(identity)
            })
        };
        for id in places.filter(is_void).collect::<Vec<Id>>() {
            self.close(id, Closing::Bye(Farewell::Unauthenticated));
        }
    }

    /// Whether what was shown for a stream does not count any more, or whether something would have to be shown.
    fn is_void_for_streams(&self, identity: Option<&Identity>) -> bool {
        match identity {
            Some(identity) => self.is_key_void(identity) || self.check_account_of(&identity.claims).is_err(),
            None => !self.config.auth.guests,
        }
    }

    /// When an event stream is to be looked at.
    pub(super) fn event_stream_deadline(&self, stream: &EventStream) -> Tick {
        let claims = stream.identity.as_ref().map(|identity| &identity.claims);
        let expiry = claims
            .and_then(|claims| claims.expires_at_ms)
            .map(|at_ms| self.now.tick + at_ms.saturating_sub(self.now.unix_ms).min(EXPIRY_MS_MAX));
        expiry.map_or(stream.comment_at, |expiry| expiry.min(stream.comment_at))
    }

    /// Gives an event stream its comment, if its client still may listen.
    pub(super) fn look_at_event_stream(&mut self, id: Id) {
        let now = self.now;
        let Some(stream) = self.event_stream_mut(id) else { return };
        let is_due = stream.comment_at <= now.tick;
        if is_due {
            // A core that was held up owes one, and not all of them.
            let late_ms = now.tick.since(stream.comment_at);
            stream.comment_at = stream.comment_at + COMMENT_MS * (1 + late_ms / COMMENT_MS);
        }
        let expires_at_ms = stream.identity.as_ref().and_then(|identity| identity.claims.expires_at_ms);
        if expires_at_ms.is_some_and(|at| at <= now.unix_ms) {
            self.counters.expired_tokens.add(1);
            return self.close(id, Closing::Bye(Farewell::ExpiredToken));
        }
        // Who has not read what there is knows that it is there.
        if is_due && self.connections.get(id).is_some_and(|connection| connection.queue.is_empty()) {
            self.say_raw(id, sse::put_comment);
        }
    }
}

/// What their room's home does.
impl Shard {
    /// Lets a connection listen to a room, which is made if it is missing.
    pub(super) fn listen(&mut self, from: ConnectionRef, listen: Box<Listen>) {
        let asker = Asker::Api(from);
        if !self.is_clustered() {
            match self.find_or_make_room(listen.room.clone()) {
                Ok(key) => return self.listen_to(from, key, *listen),
                Err(refusal) => return self.reply_to_asker(asker, Reply::Refused(refusal)),
            }
        }
        let (name, knock) = (listen.room.clone(), Knock::Api(from, Box::new(ApiRequest::Listen(listen))));
        if let Some((key, Knock::Api(from, request))) = self.open_or_wait(&name, true, knock)
            && let ApiRequest::Listen(listen) = *request
        {
            self.listen_to(from, key, *listen);
        }
    }

    fn listen_to(&mut self, from: ConnectionRef, key: Id, listen: Listen) {
        let Listen { since, replay_bytes, identity, origin, .. } = listen;
        let asker = Asker::Api(from);
        let claims = identity.as_ref().map(|identity| &identity.claims);
        let room = &self.home.rooms[key].room;
        if let Some(claims) = claims.filter(|claims| !claims.is_admin)
            && let Err(refusal) = room.check_reader(&claims.nickname, self.now.unix_ms)
        {
            self.consider_room(key); // nobody else may be in it
            return self.reply_to_asker(asker, Reply::Refused(refusal));
        }
        // The stream's core must hear what came before without taking it for the stream's.
        self.send_room(key);
        self.expire_history(key);
        let entry = &mut self.home.rooms[key];
        entry.add_event_stream(from, claims.map(|claims| claims.nickname.folded().into()));
        if let Some(place) = entry.idle.take() {
            self.home.idle.remove(&place);
        }
        let (epoch, offset) = (entry.room.epoch().clone(), entry.room.offset());
        let recovered =
            since.as_ref().map(|since| *since.epoch == *epoch && entry.reaches_back_to(since.offset));
        let replay = match since {
            Some(since) if recovered == Some(true) && since.offset < offset => {
                // What is not in memory is asked for by the stream's core, a page at a time.
                let page = self.page(key, since.offset, Encoding::EventStream, replay_bytes);
                page.or_else(|| Some(Page::nothing_after(since.offset)))
            }
            _ => None,
        };
        let room = RoomKey { home: self.core, key };
        let listening = Listening { room, epoch, offset, recovered, replay, identity, origin };
        self.reply_to_asker(asker, Reply::Listening(Box::new(listening)));
    }

    /// An event stream of a room at home here has ended, which may be the last that has kept it.
    pub(super) fn hear_stream_ended(&mut self, key: Id, from: ConnectionRef) {
        if self.home.rooms.get_mut(key).is_some_and(|entry| entry.remove_event_stream(from)) {
            self.consider_room(key);
        }
    }

    /// Whoever is put out of a room does not listen to it either.
    pub(super) fn expel_event_streams(&mut self, key: Id, nickname: &Nickname, is_banned: bool) {
        let Some(entry) = self.home.rooms.get(key) else { return };
        let of: Vec<ConnectionRef> = entry.audience.of(nickname).collect();
        if of.is_empty() {
            return;
        }
        self.send_room(key);
        let room = RoomKey { home: self.core, key };
        for ConnectionRef { core, connection: to } in of {
            self.post(core, Mail::EventStreamExpelled { to, room, is_banned });
        }
    }
}

/// The event streams of one room, as its home knows them.
#[derive(Debug, Default)]
pub(super) struct Audience {
    /// Each with the folded nickname of whoever listens, if that was shown.
    streams: HashMap<ConnectionRef, Option<Arc<str>>>,
}

impl Audience {
    /// Bytes of one stream in the tables of its room, here and where it is, if they are full.
    pub const ENTRY_BYTES: usize =
        (size_of::<(ConnectionRef, Option<Arc<str>>)>() + 1) * 8 / 7 + size_of::<Place>();

    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Adds a stream, and says whether it is new.
    pub fn add(&mut self, from: ConnectionRef, folded: Option<Arc<str>>) -> bool {
        self.streams.insert(from, folded).is_none()
    }

    /// Removes a stream, and says whether it was there.
    pub fn remove(&mut self, from: ConnectionRef) -> bool {
        self.streams.remove(&from).is_some()
    }

    pub fn of(&self, nickname: &Nickname) -> impl Iterator<Item = ConnectionRef> {
        self.streams
            .iter()
            .filter(|(_, folded)| folded.as_deref() == Some(nickname.folded()))
            .map(|(from, _)| *from)
    }

    /// The cores that have some.
    pub fn cores(&self) -> impl Iterator<Item = u16> {
        self.streams.keys().map(|from| from.core)
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::base::census::Census;
    use crate::base::time::Now;
    use crate::config::{Config, ListenKind};
    use crate::shard::Flock;

    fn shard(config: Config) -> Shard {
        let flock = Flock::of_one(Arc::new(config), Arc::new(Census::new(0, 0)));
        let flock = Flock { core_connections: 100, ..flock };
        Shard::new(0, &flock, Arc::default(), 1, Now::default())
    }

    /// What a connection has been told so far, without the bytes that are left for later.
    fn told(shard: &mut Shard, id: Id) -> String {
        let mut all = Vec::new();
        loop {
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = shard.gather(id, &mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            if bytes.is_empty() {
                return String::from_utf8(all).unwrap();
            }
            shard.sent(id, bytes.len());
            let _ = shard.flushed(id);
            all.extend(bytes);
        }
    }

    fn listen(shard: &mut Shard, last_event_id: &str) -> Id {
        let id = shard.open([127, 0, 0, 1].into(), ListenKind::Web);
        let field = match last_event_id {
            "" => String::new(),
            place => format!("Last-Event-ID: {place}\r\n"),
        };
        let request = format!("GET /api/rooms/den/stream HTTP/1.1\r\nHost: a\r\n{field}\r\n");
        shard.receive(id, &mut request.into_bytes());
        id
    }

    fn speaker(shard: &mut Shard) -> Id {
        let id = shard.open([127, 0, 0, 1].into(), ListenKind::Line);
        let lines = "{\"type\":\"hello\",\"nickname\":\"alice\"}\n{\"type\":\"join\",\"room\":\"den\",\"echo\":false}\n";
        shard.receive(id, &mut lines.as_bytes().to_vec());
        told(shard, id);
        id
    }

    fn say(shard: &mut Shard, id: Id, content: &str) {
        let line = format!("{{\"type\":\"message\",\"room\":\"den\",\"content\":\"{content}\"}}\n");
        shard.receive(id, &mut line.into_bytes());
        shard.send_gathered_events();
    }

    /// The last id in what was told.
    fn place(told: &str) -> String {
        told.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().expect("an id").to_owned()
    }

    #[test]
    fn a_comment_comes_every_15_seconds_and_not_for_all_at_once() {
        let mut shard = shard(Config::default());
        let ids: Vec<Id> = (0..50).map(|_| listen(&mut shard, "")).collect();
        for id in &ids {
            assert!(told(&mut shard, *id).starts_with("HTTP/1.1 200 OK\r\n"));
        }
        let mut at: Vec<Vec<u64>> = vec![Vec::new(); ids.len()];
        for ms in (0..60_000).step_by(10) {
            shard.tick(Now::of_ms(ms, ms));
            while shard.expire() {}
            for (id, at) in ids.iter().zip(&mut at) {
                match told(&mut shard, *id).as_str() {
                    "" => {}
                    ":\n\n" => at.push(ms),
                    other => panic!("{other}"),
                }
            }
        }
        for at in &at {
            assert!(at[0] <= COMMENT_MS && at.len() == 4, "{at:?}");
            assert!(at.windows(2).all(|pair| pair[1] - pair[0] == COMMENT_MS), "{at:?}");
        }
        let mut first: Vec<u64> = at.iter().map(|at| at[0] / 1000).collect();
        first.dedup();
        assert!(first.len() > 10, "they are spread: {first:?}");
        // A core that was held up for an hour owes one.
        shard.tick(Now::of_ms(3_600_000, 3_600_000));
        while shard.expire() {}
        assert!(ids.iter().all(|id| told(&mut shard, *id) == ":\n\n"));
        // Who has not taken the last one gets no other.
        for ms in [3_620_000, 3_640_000, 3_660_000] {
            shard.tick(Now::of_ms(ms, ms));
            while shard.expire() {}
        }
        assert!(ids.iter().all(|id| told(&mut shard, *id) == ":\n\n"));
    }

    #[test]
    fn what_was_missed_and_what_comes_meanwhile_is_told_once() {
        let mut config = Config::default();
        config.limits.replay_page_bytes = 1024;
        let mut shard = shard(config);
        let alice = speaker(&mut shard);
        let first = listen(&mut shard, "");
        let beginning = place(&told(&mut shard, first));
        for number in 1..=40 {
            say(&mut shard, alice, &format!("m{number}"));
        }
        let late = listen(&mut shard, &beginning);
        // Before the first page has been taken, and between others.
        say(&mut shard, alice, "m41");
        let mut heard = String::new();
        for number in 42..=60 {
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = shard.gather(late, &mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            let some = bytes.len().min(500);
            heard.push_str(std::str::from_utf8(&bytes[..some]).unwrap());
            shard.sent(late, some);
            let _ = shard.flushed(late);
            say(&mut shard, alice, &format!("m{number}"));
        }
        heard.push_str(&told(&mut shard, late));
        let contents: Vec<&str> =
            heard.split("\"content\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let all: Vec<String> = (1..=60).map(|number| format!("m{number}")).collect();
        assert_eq!(contents, all);
        assert_eq!(shard.counters().event_streams_recovered.value(), 1);
    }

    #[test]
    fn who_reads_too_slowly_hears_whole_events_and_why_it_ends() {
        let mut config = Config::default();
        config.limits.send_queue_bytes = 2048;
        let mut shard = shard(config);
        let alice = speaker(&mut shard);
        let id = listen(&mut shard, "");
        // The head is on its way when the queue is cut.
        shard.sent(id, 10);
        let content = "x".repeat(500);
        for _ in 0..10 {
            say(&mut shard, alice, &content);
            let _ = shard.flushed(id);
        }
        assert_eq!(shard.counters().slow_consumers.value(), 1);
        let rest = told(&mut shard, id);
        assert!(rest.ends_with("\r\n\r\n: 4201 slow_consumer\n\n"), "{rest}");
        assert_eq!(shard.counters().event_streams.value(), 0);
        assert_eq!((shard.inventory().event_streams, shard.inventory().audience), (0, 0));
        // A client that has not even got the head would take the words for that.
        let id = listen(&mut shard, "");
        for _ in 0..10 {
            say(&mut shard, alice, &content);
            let _ = shard.flushed(id);
        }
        assert_eq!(told(&mut shard, id), "");
    }

    #[test]
    fn a_stream_that_was_asked_for_by_who_has_gone_leaves_nothing() {
        let mut shard = shard(Config::default());
        let from = ConnectionRef { core: 0, connection: Id { index: 77, generation: 1 } };
        shard.window[0] += 1;
        let listen = Listen {
            room: crate::shard::commands::parse_room("den").unwrap(),
            since: None,
            replay_bytes: 1024,
            identity: None,
            origin: None,
        };
        shard.mail(Mail::ApiRequest { from, request: ApiRequest::Listen(Box::new(listen)) });
        let inventory = shard.inventory();
        assert_eq!((inventory.audience, inventory.rooms, inventory.under_way), (0, 0, 0));
    }
}
