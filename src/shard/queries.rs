//! What HTTP requests ask that publishes nothing: members, history and rooms; and what an admin says to all by one.
//!
//! Members and history are asked of the room's home. What every core has a part of goes round: from the first core to the next, each adding
//! its own, until it is back at the first, which answers. On a connection such a request is under way alone, because its answer may come
//! later than that of another one to the same home.

use std::sync::Arc;

use super::Shard;
use super::api::{Caller, room_in_path};
use super::closing::Closing;
use super::encode::Encoding;
use super::http::What;
use super::journal::Asker;
use super::limits::Cost;
use super::mail::{ApiRequest, Broadcast, ConnectionRef, Mail, Reply, RoomEntry};
use super::replies::{history_messages, listed_members, listed_rooms};
use super::session::{Identity, Session, Step};
use super::shared::Knock;
use crate::base::slots::Id;
use crate::chat::name::{Nickname, RoomName, fold};
use crate::chat::pattern::Patterns;
use crate::chat::refusal::{Farewell, Reason, Refusal};
use crate::chat::user::NodeId;
use crate::proto::http1::{self, Body, Head};
use crate::proto::json;
use crate::proto::wire::Event;
use crate::web::Route;

/// A question that goes round all cores, or what an admin says to all of them.
#[derive(Debug)]
pub struct Round {
    /// How many cores have had it.
    hops: u16,
    what: RoundOf,
}

#[derive(Debug)]
enum RoundOf {
    Rooms { after: Option<Box<str>>, limit: usize, allowed: Option<Patterns>, found: Vec<RoomEntry> },
    Broadcast { broadcast: Arc<Broadcast>, sessions: u64 },
    PutOut { nickname: Nickname, ended: u64 },
}

/// The parameters that a query may have.
#[derive(Debug, Default)]
struct Parameters {
    limit: Option<u64>,
    before: Option<String>,
    after: Option<String>,
}

impl Parameters {
    fn parse(query: &str, known: &[&str]) -> Result<Self, Refusal> {
        let bad = |message: String| Refusal::new(Reason::BadRequest, message);
        let pairs = http1::query_pairs(query).ok_or_else(|| bad("the query is not well formed".into()))?;
        let mut parameters = Parameters::default();
        for (name, value) in pairs {
            let is_new = match name.as_str() {
                name if !known.contains(&name) => {
                    let known = known.join("`, `");
                    return Err(bad(format!("`{name}` is not known here, only `{known}`")));
                }
                "limit" => {
                    let limit = value.parse().map_err(|_| bad("`limit` is a number".into()))?;
                    parameters.limit.replace(limit).is_none()
                }
                "before" => parameters.before.replace(value).is_none(),
                _ => parameters.after.replace(value).is_none(),
            };
            if !is_new {
                return Err(bad(format!("`{name}` stands twice")));
            }
        }
        Ok(parameters)
    }
}

fn offset(name: &str, text: Option<String>) -> Result<Option<u64>, Refusal> {
    let parse = |text: String| {
        text.parse().map_err(|_| Refusal::new(Reason::BadRequest, format!("`{name}` is an offset")))
    };
    text.map(parse).transpose()
}

impl Shard {
    /// Decides what is to be done about a request that reads.
    pub(super) fn consider_query(
        &mut self,
        id: Id,
        head: &Head,
        route: &Route,
        caller: &mut Option<Box<Caller>>,
    ) -> What {
        match self.query_of(id, head, route, caller) {
            Ok(request) => What::Query(request),
            Err(refusal) => What::Refusal(refusal),
        }
    }

    fn query_of(
        &mut self,
        id: Id,
        head: &Head,
        route: &Route,
        caller: &mut Option<Box<Caller>>,
    ) -> Result<ApiRequest, Refusal> {
        let identity = self.admit_reader(id, head, caller)?;
        let query = head.query.unwrap_or_default();
        let allowed = identity.and_then(|identity| identity.rooms.clone());
        Ok(match route {
            Route::Members(room) => {
                let room = room_in_path(room, allowed.as_ref())?;
                let Parameters { limit, after, .. } = Parameters::parse(query, &["limit", "after"])?;
                let after = after.map(|name| fold(&name).into());
                ApiRequest::Members { room, after, limit: self.clamp_limit(limit) }
            }
            Route::History(room) => {
                let room = room_in_path(room, allowed.as_ref())?;
                let Parameters { limit, before, after } =
                    Parameters::parse(query, &["limit", "before", "after"])?;
                let (before, after) = (offset("before", before)?, offset("after", after)?);
                ApiRequest::History { room, before, after, limit: self.clamp_limit(limit) }
            }
            _ => {
                let Parameters { limit, after, .. } = Parameters::parse(query, &["limit", "after"])?;
                let after = after.map(|name| fold(&name).into());
                let (limit, found) = (self.clamp_limit(limit), Vec::new());
                let what = RoundOf::Rooms { after, limit, allowed, found };
                ApiRequest::Round(Box::new(Round { hops: 0, what }))
            }
        })
    }

    /// Who reads, if that is shown. Whoever may say hello without a token may read without one.
    pub(super) fn admit_reader(
        &mut self,
        id: Id,
        head: &Head,
        caller: &mut Option<Box<Caller>>,
    ) -> Result<Option<Arc<Identity>>, Refusal> {
        let is_shown = head.header("authorization").is_some() || head.header("x-api-key").is_some();
        if is_shown || !self.config.auth.guests {
            return self.admit(id, head, caller).map(Some);
        }
        if self.is_leaving() {
            return Err(Refusal::new(Reason::Draining, "the server is about to stop"));
        }
        self.charge(id, Cost::COMMAND, None)?;
        Ok(None)
    }

    /// Decides what is to be done about a request to say something to all, of which the body has not come.
    pub(super) fn consider_broadcast(
        &mut self,
        id: Id,
        head: &Head,
        caller: &mut Option<Box<Caller>>,
    ) -> What {
        if let Some(refused) = super::api::refuse_body(head) {
            return refused;
        }
        match self.admit(id, head, caller) {
            Ok(identity) if identity.claims.is_admin => What::UnreadBroadcast {
                sender: identity.claims.nickname.clone(),
                body: Vec::new(),
                is_charged: matches!(head.body, Body::Length(_)),
            },
            Ok(_) => What::Refusal(Refusal::new(Reason::Forbidden, "only an admin may speak to all")),
            Err(refusal) => What::Refusal(refusal),
        }
    }

    /// Decides what is to be done about a request to end a user's sessions.
    pub(super) fn consider_put_out(
        &mut self,
        id: Id,
        head: &Head,
        nickname: &str,
        caller: &mut Option<Box<Caller>>,
    ) -> What {
        let nickname = self.admit(id, head, caller).and_then(|identity| {
            if !identity.claims.is_admin {
                return Err(Refusal::new(Reason::Forbidden, "only an admin may put somebody out"));
            }
            let nickname = http1::percent_decode(nickname)
                .ok_or_else(|| Refusal::new(Reason::BadName, "nickname: it is not well escaped"))?;
            super::commands::parse_nickname(&nickname)
        });
        match nickname {
            Ok(nickname) => {
                let what = RoundOf::PutOut { nickname, ended: 0 };
                What::Query(ApiRequest::Round(Box::new(Round { hops: 0, what })))
            }
            Err(refusal) => What::Refusal(refusal),
        }
    }

    /// Ends the sessions and event streams of a user that are on this core, and returns how many. `lost` are nodes that whoever asks for it
    /// knows to be lost.
    pub(super) fn put_out_all(&mut self, nickname: &Nickname, lost: &[NodeId]) -> u64 {
        let is_meant = |session: &Session| {
            session.nickname.as_ref().is_some_and(|own| own.folded() == nickname.folded())
                && !session.is_ending()
                && !session.is_given_up()
        };
        let meant = self.sessions.iter().filter(|(_, session)| is_meant(session));
        let meant: Vec<Id> = meant.map(|(id, _)| id).collect();
        for id in &meant {
            self.put_session_out(*id);
        }
        // One that is on its way to this core has perhaps left its own before that was asked.
        let mut coming = 0;
        for (_, session) in self.sessions.iter_mut() {
            if let Step::Resume { nickname: own, is_put_out, .. } = &mut session.step
                && own.folded() == nickname.folded()
            {
                (*is_put_out, coming) = (true, coming + 1);
            }
        }
        let streams = self.end_event_streams_of(nickname, Farewell::Kicked);
        self.counters.put_out.add(meant.len() as u64);
        self.put_lost_members_out(nickname, lost);
        meant.len() as u64 + coming + streams
    }

    /// Ends a session, with its connection.
    pub(super) fn put_session_out(&mut self, id: Id) {
        let closing = Closing::Bye(Farewell::Kicked);
        match self.sessions.get(id).and_then(|session| session.connection) {
            Some(connection) => self.close(connection, closing),
            None => self.end_session(id, closing.leave_reason(), None),
        }
    }

    /// The body of such a request has come.
    pub(super) fn complete_broadcast(
        &mut self,
        id: Id,
        sender: Nickname,
        body: &[u8],
        is_charged: bool,
    ) -> What {
        match self.read_content(id, body, is_charged) {
            Ok(content) => {
                let timestamp_ms = self.now.unix_ms;
                let broadcast = Broadcast { sender, content, rooms: None, tags: Vec::new(), timestamp_ms };
                let what = RoundOf::Broadcast { broadcast: Arc::new(broadcast), sessions: 0 };
                What::Query(ApiRequest::Round(Box::new(Round { hops: 0, what })))
            }
            Err(refusal) => What::Refusal(refusal),
        }
    }

    /// The core that a request is sent to.
    pub(super) fn home_of_query(&self, request: &ApiRequest) -> u16 {
        match request {
            ApiRequest::Publish(push) => self.home_of(push.room.folded()),
            ApiRequest::Members { room, .. } | ApiRequest::History { room, .. } => {
                self.home_of(room.folded())
            }
            ApiRequest::Listen(listen) => self.home_of(listen.room.folded()),
            ApiRequest::Missed { room, .. } => room.home,
            ApiRequest::Round(_) => 0,
        }
    }

    /// Does what an HTTP request asks of this core, and replies.
    pub(super) fn handle_api_request(&mut self, from: ConnectionRef, request: ApiRequest) {
        match request {
            ApiRequest::Publish(push) if self.journal.holds_up(push.content.len()) => {
                self.hold_push(from, push);
            }
            ApiRequest::Publish(push) => self.push(from, *push),
            ApiRequest::Round(round) => self.go_round(from, round),
            ApiRequest::Listen(listen) => self.listen(from, listen),
            ApiRequest::Missed { room, after, bytes_max } => {
                self.replay(Asker::Api(from), room.key, after, Encoding::EventStream, bytes_max);
            }
            ApiRequest::Members { .. } | ApiRequest::History { .. } if self.is_clustered() => {
                let (ApiRequest::Members { room, .. } | ApiRequest::History { room, .. }) = &request else {
                    unreachable!("matched above")
                };
                let (name, knock) = (room.clone(), Knock::Api(from, Box::new(request)));
                if let Some((_, Knock::Api(from, request))) = self.open_or_wait(&name, false, knock) {
                    self.read_for(from, *request);
                }
            }
            request => self.read_for(from, request),
        }
    }

    fn read_for(&mut self, from: ConnectionRef, request: ApiRequest) {
        let asker = Asker::Api(from);
        match request {
            ApiRequest::Members { room, after, limit } => {
                let reply = self.list_members(&room, after.as_deref(), limit);
                self.reply_to_asker(asker, reply);
            }
            ApiRequest::History { room, before, after, limit } => {
                self.read_history(asker, &room, before, after, limit);
            }
            request => unreachable!("{request:?} does not read a room"),
        }
    }

    fn go_round(&mut self, from: ConnectionRef, mut round: Box<Round>) {
        let asker = Asker::Api(from);
        let is_back = round.hops == self.cores() as u16;
        if round.hops == 0
            && matches!(round.what, RoundOf::Broadcast { .. } | RoundOf::PutOut { .. })
            && let Err(refusal) = self.check_backplane()
        {
            return self.reply_to_asker(asker, Reply::Refused(refusal));
        }
        match &mut round.what {
            RoundOf::Rooms { found, .. } if is_back => {
                let rooms = std::mem::take(found);
                return self.reply_to_asker(asker, Reply::Rooms { rooms });
            }
            RoundOf::Broadcast { broadcast, sessions } if is_back => {
                return self.speak_to_others(asker, *sessions, &broadcast.clone());
            }
            RoundOf::PutOut { nickname, ended } if is_back => {
                return self.put_out_elsewhere(asker, *ended, nickname.clone());
            }
            RoundOf::Rooms { after, limit, allowed, .. } if self.is_clustered() => {
                let (after, allowed) = (after.take(), allowed.take());
                return self.ask_for_rooms(asker, after, *limit, allowed, Vec::new());
            }
            RoundOf::Rooms { after, limit, allowed, found } => {
                if let Reply::Rooms { rooms } = self.list_rooms(after.as_deref(), *limit, allowed.as_ref()) {
                    found.extend(rooms);
                }
                found.sort_by(|a, b| a.room.folded().cmp(b.room.folded()));
                found.truncate(*limit);
            }
            RoundOf::Broadcast { broadcast, sessions } => {
                let broadcast = broadcast.clone();
                *sessions += self.tell_everybody(&broadcast);
            }
            RoundOf::PutOut { nickname, ended } => *ended += self.put_out_all(nickname, &[]),
        }
        round.hops += 1;
        let next = (self.core + 1) % self.cores() as u16;
        self.post(next, Mail::ApiRequest { from, request: ApiRequest::Round(round) });
    }
}

/// What a reply to a request that reads is in JSON; `None` for replies to others.
pub(super) fn body_of(reply: &Reply) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    match reply {
        Reply::Members { room, total, members } => {
            let members = listed_members(members);
            let event = Event::Members { id: None, room: room.as_str(), total: *total, members: &members };
            json::write(&event, &mut body);
        }
        Reply::History { room, epoch, messages } => {
            let messages = history_messages(messages);
            let event = Event::History { id: None, room: room.as_str(), epoch, messages: &messages };
            json::write(&event, &mut body);
        }
        Reply::Rooms { rooms } => {
            json::write(&Event::Rooms { id: None, rooms: &listed_rooms(rooms) }, &mut body);
        }
        Reply::Heard { sessions } => {
            body = serde_json::json!({ "sessions": sessions }).to_string().into_bytes();
        }
        _ => return None,
    }
    Some(body)
}

impl ApiRequest {
    /// The room that is to be made for it if it is missing.
    pub(super) fn room_to_make(&self) -> Option<&RoomName> {
        match self {
            ApiRequest::Publish(push) => Some(&push.room),
            ApiRequest::Listen(listen) => Some(&listen.room),
            _ => None,
        }
    }
}
