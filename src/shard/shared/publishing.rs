//! Messages of shared rooms, from the command to their place.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::slots::Id;
use crate::chat::name::Nickname;
use crate::chat::refusal::Refusal;
use crate::chat::room::{Room, Stamp};
use crate::chat::user::SessionRef;
use crate::config::AckLevel;
use crate::proto::wire::Event;
use crate::shard::Shard;
use crate::shard::backplane::{
    BackplaneRequest, Failed, LogEntry, Placed, Publish, RoomOp, SharedMessage, Utterance,
};
use crate::shard::fanout::Deaf;
use crate::shard::home::{HomeRoom, not_a_member};
use crate::shard::journal::Asker;
use crate::shard::limits::too_fast;
use crate::shard::mail::{ConnectionRef, Push, Reply, ReplyTo};
use crate::shard::shared::Unheard;

use super::Order;

/// A message that wants its place.
#[derive(Debug)]
pub(super) struct Publishing {
    pub(super) tag: u64,
    pub(super) asker: Option<Asker>,
    /// How much has been applied when it was sent; `None`: it waits for those before it.
    pub(super) sent: Option<u64>,
    pub(super) sender: Nickname,
    pub(super) content: Arc<str>,
    /// The session that says it, or whether a program that does may do everything.
    pub(super) by: Speaker,
    pub(super) key: Option<Box<str>>,
    /// Who does not hear it.
    pub(super) deaf: Option<SessionRef>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Speaker {
    Session(SessionRef),
    Program { is_admin: bool },
}

impl Shard {
    /// Publishes a message of a session.
    pub(super) fn publish_shared(
        &mut self,
        from: SessionRef,
        reply_to: ReplyTo,
        key: Id,
        content: Arc<str>,
        echo: bool,
        number: u64,
    ) {
        let id = reply_to.id().filter(|id| !id.is_empty() && number != 0);
        let idempotency_key = id.map(|id| Publish::key(number, id));
        let asker = Asker::Session(from, reply_to);
        let deaf = (!echo).then_some(from);
        self.put_shared(key, asker, Speaker::Session(from), None, content, idempotency_key, deaf);
    }

    /// Publishes what came by an HTTP request, in a room whose copy is here.
    pub(in crate::shard) fn push_shared(&mut self, from: ConnectionRef, key: Id, push: Push) {
        let Push { sender, is_admin, content, idempotency_key, .. } = push;
        let idempotency_key = idempotency_key.map(|id| Publish::push_key(&sender, &id));
        let speaker = Speaker::Program { is_admin };
        self.put_shared(key, Asker::Api(from), speaker, Some(sender), content, idempotency_key, None);
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn put_shared(
        &mut self,
        key: Id,
        asker: Asker,
        by: Speaker,
        sender: Option<Nickname>,
        content: Arc<str>,
        idempotency_key: Option<Box<str>>,
        deaf: Option<SessionRef>,
    ) {
        let refusal = self.check_shared(key, by, sender.as_ref());
        let sender = match refusal {
            Ok(sender) => sender,
            Err(refusal) => return self.reply_to_asker(asker, Reply::Refused(refusal)),
        };
        self.nodes.next_tag += 1;
        let publishing = Publishing {
            tag: self.nodes.next_tag,
            asker: Some(asker),
            sent: None,
            sender,
            content,
            by,
            key: idempotency_key,
            deaf,
        };
        let now = self.now.tick;
        if let Some(shared) = self.home.rooms.get_mut(key).and_then(|entry| entry.shared.as_mut()) {
            shared.used = now;
            shared.publishing.push_back(publishing);
        }
        self.publish_waiting(key);
    }

    /// Whether a message may be published now, and under which name.
    pub(super) fn check_shared(
        &mut self,
        key: Id,
        by: Speaker,
        sender: Option<&Nickname>,
    ) -> Result<Nickname, Refusal> {
        if self.nodes.down.is_some() {
            self.counters.backplane_refused.add(1);
            return Err(self.backplane_down());
        }
        let now_ms = self.now.unix_ms;
        let entry = self.home.rooms.get_mut(key).ok_or_else(not_a_member)?;
        let sender = match (by, sender) {
            (Speaker::Program { is_admin }, Some(sender)) => {
                entry.room.check_push(sender, is_admin, now_ms)?;
                sender.clone()
            }
            (Speaker::Session(session), _) => entry.room.check_speaker(entry.known_as(session), now_ms)?,
            (Speaker::Program { .. }, None) => unreachable!("programs speak under a name"),
        };
        if let Err(ms) = entry.bucket.take(&self.rates.room, 1, self.now.tick) {
            self.counters.rate_limited_rooms.add(1);
            return Err(too_fast("this room gets too many messages", ms));
        }
        Ok(sender)
    }

    /// Asks for places for the messages that wait, as far as none before them may have to be looked at again.
    pub(super) fn publish_waiting(&mut self, key: Id) {
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        let (at, kept) = (entry.at(), entry.retention.count);
        let (node, now_ms) = (self.node, self.now.unix_ms);
        let Some(shared) = &mut entry.shared else { return };
        if shared.is_renewing || !shared.may_send() {
            return;
        }
        let (mut requests, mut refused) = (Vec::new(), Vec::new());
        let (room, appending, orders) = (&entry.room, &shared.appending, &shared.orders);
        shared.publishing.retain_mut(|publishing| {
            if publishing.sent.is_some() {
                return true;
            }
            // It may have waited for a change that forbids it.
            let checked = match publishing.by {
                Speaker::Session(session) => {
                    room.check_speaker(known_as(room, appending, orders, session), now_ms).map(|_| ())
                }
                Speaker::Program { is_admin } => room.check_push(&publishing.sender, is_admin, now_ms),
            };
            if let Err(refusal) = checked {
                refused.extend(publishing.asker.take().map(|asker| (asker, refusal)));
                return false;
            }
            publishing.sent = Some(at.position.change);
            let from = if let Speaker::Session(session) = publishing.by { Some(session) } else { None };
            let (sender, content) = (publishing.sender.clone(), publishing.content.clone());
            let message = SharedMessage { sender, content, from, node, tag: publishing.tag };
            let key = publishing.key.clone();
            requests.push(Publish { at: at.clone(), message, kept, key });
            true
        });
        for request in requests {
            self.ask_backplane(BackplaneRequest::Publish(Box::new(request)));
        }
        for (asker, refusal) in refused {
            self.reply_to_asker(asker, Reply::Refused(refusal));
        }
    }

    /// The backplane says what became of a message.
    pub(in crate::shard) fn hear_published(
        &mut self,
        folded: &str,
        tag: u64,
        outcome: Result<Placed, Failed>,
    ) {
        let Some(key) = self.home.by_name.get(folded).copied() else { return };
        let entry = &mut self.home.rooms[key];
        let (name, heard) = (entry.room.name().clone(), entry.room.offset());
        let is_same = |epoch: &str| *epoch == **entry.room.epoch();
        let Some(shared) = &mut entry.shared else { return };
        let Some(index) = shared.publishing.iter().position(|publishing| publishing.tag == tag) else {
            return;
        };
        if let Err(Failed::Behind) = outcome {
            shared.publishing[index].sent = None;
            let is_last = shared.publishing.iter().all(|publishing| publishing.sent.is_none());
            self.bring_up_to_date(key);
            if is_last {
                self.publish_waiting(key);
            }
            return;
        }
        let publishing = shared.publishing.remove(index).expect("just found");
        // What it was told before the data was lost that it speaks of: its place has been given to another one since.
        let is_contradicted = outcome.as_ref().is_ok_and(|placed| {
            let known = entry.room.history().after(placed.offset.saturating_sub(1)).next();
            let known = known.filter(|known| known.offset == placed.offset && is_same(&placed.epoch));
            // What is said again under a key may be something else; its answer is that of the first.
            known.filter(|_| !placed.is_repeated).is_some_and(|known| {
                (known.timestamp_ms, &known.content) != (placed.timestamp_ms, &publishing.content)
            })
        });
        if is_contradicted {
            if let Some(asker) = publishing.asker {
                let refusal = self.backplane_down();
                self.reply_to_asker(asker, Reply::Refused(refusal));
            }
            return self.renew_contradicted(key);
        }
        if let Ok(placed) = &outcome
            && is_same(&placed.epoch)
        {
            shared.known.offset = shared.known.offset.max(placed.offset);
        }
        let mut promised = None;
        let reply = match outcome {
            Ok(placed) => {
                let is_to_come = !placed.is_repeated && is_same(&placed.epoch) && placed.offset > heard;
                if is_to_come {
                    let (offset, deaf) = (placed.offset, publishing.deaf);
                    shared.unheard.push_back(Unheard { tag, offset, deaf });
                    promised = Some(offset);
                }
                if placed.is_repeated {
                    self.counters.repeated_commands.add(1);
                } else {
                    self.counters.published.add(1);
                }
                let is_silent = matches!(&publishing.asker, Some(Asker::Session(_, to)) if to.id.is_none());
                if is_silent {
                    Reply::Done { times: 1 }
                } else {
                    let stamp = Stamp { offset: placed.offset, timestamp_ms: placed.timestamp_ms };
                    let (epoch, level) = (placed.epoch, AckLevel::Sequenced);
                    Reply::Published { room: name, epoch, stamp, level }
                }
            }
            Err(failed) => {
                if failed == Failed::Lost {
                    self.bring_up_to_date(key);
                }
                self.counters.backplane_refused.add(1);
                Reply::Refused(self.backplane_down())
            }
        };
        if let Some(Asker::Api(_)) = &publishing.asker
            && let Reply::Published { .. } = reply
        {
            self.counters.pushed.add(1);
        }
        if let Some(asker) = publishing.asker {
            self.reply_to_asker(asker, reply);
        }
        self.look_at_early(key, |entry| match entry {
            LogEntry::Message { position, .. } => promised == Some(position.offset),
            LogEntry::Change { .. } => false,
        });
        self.publish_waiting(key);
        self.consider_shared(key);
    }

    pub(super) fn utter_typing(&mut self, from: SessionRef, key: Id) -> Reply {
        let now_ms = self.now.unix_ms;
        let Some(entry) = self.home.rooms.get_mut(key) else { return Reply::Refused(not_a_member()) };
        match entry.room.check_speaker(entry.known_as(from), now_ms) {
            Err(refusal) => return Reply::Refused(refusal),
            Ok(nickname) => {
                let room = entry.room.name().folded().into();
                let utterance = Utterance::Typing { session: from, nickname };
                self.ask_backplane(BackplaneRequest::Utter { room, utterance });
            }
        }
        Reply::Done { times: 1 }
    }

    pub(in crate::shard) fn hear_uttered(&mut self, folded: &str, utterance: Utterance) {
        let Some(key) = self.home.by_name.get(folded).copied() else { return };
        let Utterance::Typing { session, nickname } = utterance;
        let room = self.home.rooms[key].room.name().clone();
        let event = Event::Typing { room: room.as_str(), nickname: nickname.as_str() };
        self.note_event(key, &event, Some(Deaf::OriginAndSlow(session)));
    }
}

impl HomeRoom {
    fn known_as(&self, session: SessionRef) -> SessionRef {
        match &self.shared {
            Some(shared) => known_as(&self.room, &shared.appending, &shared.orders, session),
            None => session,
        }
    }
}

/// Under which session a room knows one that goes on as another: whoever resumes is let in before the room has heard of it, and speaks.
fn known_as(
    room: &Room,
    appending: &Option<(u64, Vec<Order>)>,
    orders: &VecDeque<Order>,
    mut session: SessionRef,
) -> SessionRef {
    if room.member(session).is_some() {
        return session;
    }
    let under_way = appending.iter().flat_map(|(_, orders)| orders).chain(orders);
    for order in under_way.rev() {
        if let RoomOp::Attach { old, session: new } = order.op
            && new == session
        {
            session = old;
        }
    }
    session
}
