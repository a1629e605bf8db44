//! What hosts do to others, and what rooms keep besides messages: roles, bans, mutes, state. Also refusals for asking too
//! much, which may meet any command.
//!
//! The server answers at once, while what happened in the same turn is told at its end. So a client may be refused for a reason
//! that it hears of a moment later; what must hold is told from what was acknowledged before something was asked.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::client::{Client, Membership, Sent, What};
use crate::faults::pick;
use crate::kernel::Kernel;
use crate::model::{Model, fold};
use crate::talk::ROOMS;

/// One of a host's decisions.
#[derive(Debug)]
pub struct Sentence {
    action: &'static str,
    room: String,
    /// Folded.
    target: String,
    /// When it was asked for, and when that was answered.
    sent: u64,
    replied: Option<u64>,
    was_done: bool,
    /// The epoch of the room in which it was asked for.
    epoch: String,
    /// When it ends by itself, by the clock of the cores.
    until_ms: Option<u64>,
}

/// What all clients know of what hosts have done.
#[derive(Debug, Default)]
pub struct Bench {
    sentences: Vec<Sentence>,
    /// The rooms and folded nicknames that somebody has tried to put out.
    expulsions: BTreeSet<(String, String)>,
    /// The rooms and folded nicknames of those who have been seen to be hosts.
    hosts: BTreeSet<(String, String)>,
    /// The rooms in which somebody has tried to make a guest.
    with_guests: BTreeSet<String>,
    /// Who has been obeyed, as of which of its connections: client, number of the connection, room, folded nickname.
    obeyed: Vec<(usize, u64, String, String)>,
    /// Whether the wall clock has been set, by which sentences end.
    pub clock_was_set: bool,
    /// The clock of the cores.
    pub clock_ms: u64,
}

impl Bench {
    /// Whether anybody was to be muted in a room. Mutes go along with those who change their nicknames.
    pub fn has_mutes(&self, room: &str) -> bool {
        self.sentences.iter().any(|s| s.action == "mute" && s.room == room)
    }

    /// Whether anybody was to be made a guest in a room.
    pub fn has_guests(&self, room: &str) -> bool {
        self.with_guests.contains(room)
    }

    /// The ban or mute of a nickname that must hold for what was asked at `since`, in the epoch of a room.
    pub fn sentence(
        &self,
        action: &str,
        room: &str,
        epoch: &str,
        target: &str,
        since: u64,
    ) -> Option<&Sentence> {
        let concerns = |s: &&Sentence| s.room == room && s.target == target && s.action.ends_with(action);
        self.sentences.iter().filter(concerns).find(|sentence| {
            let is_certain = sentence.action == action
                && sentence.was_done
                && sentence.epoch == epoch
                && sentence.replied.is_some_and(|replied| replied < since)
                && sentence.until_ms.is_none_or(|until| until > self.clock_ms && !self.clock_was_set);
            let is_undisturbed = || {
                let may_come_after =
                    |other: &&Sentence| other.replied.is_none_or(|replied| replied >= sentence.sent);
                self.sentences.iter().filter(concerns).filter(may_come_after).count() == 1
            };
            is_certain && is_undisturbed()
        })
    }

    fn note_host(&mut self, room: &str, nickname: &str) {
        self.hosts.insert((room.to_owned(), fold(nickname)));
    }

    /// Somebody has another nickname now.
    fn note_renamed(&mut self, room: &str, from: &str, to: &str) {
        if self.hosts.contains(&(room.to_owned(), fold(from))) {
            self.note_host(room, to);
        }
    }

    /// Checks that all who were obeyed were hosts. `is_same` says whether a client has the connection that it had then, so
    /// that it has heard of it.
    pub fn check_obeyed(&mut self, is_same: impl Fn(usize, u64) -> bool) {
        for (client, comebacks, room, nickname) in self.obeyed.drain(..) {
            let was_host = self.hosts.contains(&(room.clone(), nickname.clone()));
            assert!(was_host || !is_same(client, comebacks), "{nickname} ({client}) moderated {room}");
        }
    }
}

impl Model {
    /// Whether somebody has tried to put a client out of a room, under any of its nicknames.
    pub fn may_be_expelled(&self, room: &str, client: usize) -> bool {
        let of_room = self.bench.expulsions.iter().filter(|(there, _)| there == room);
        of_room.into_iter().any(|(_, target)| self.ever_asked_for(target, |other| other == client))
    }

    /// Whether a client may be banned from a room.
    pub fn may_be_banned(&self, room: &str, client: usize) -> bool {
        let of_room = self.bench.sentences.iter().filter(|s| s.action == "ban" && s.room == room);
        of_room.into_iter().any(|s| self.ever_asked_for(&s.target, |other| other == client))
    }
}

impl Client {
    /// Does to others what hosts do, whether it is one or not.
    pub fn say_moderation(&mut self, kernel: &mut Kernel, model: &mut Model) {
        let rng = &mut kernel.rng;
        let here: Vec<String> = self.rooms.keys().cloned().collect();
        let room = if here.is_empty() || rng.chance(5) { fold(pick(rng, ROOMS)) } else { pick(rng, &here) };
        let others: Vec<String> = match self.rooms.get(&room) {
            Some(membership) => membership.others.keys().cloned().collect(),
            None => Vec::new(),
        };
        let target =
            if others.is_empty() || rng.chance(20) { self.pick_nickname(kernel) } else { pick(rng, &others) };
        let folded = fold(&target);
        let rng = &mut kernel.rng;
        if rng.chance(30) {
            let role = pick(rng, &["host", "member", "guest"]);
            if role == "guest" {
                model.bench.with_guests.insert(room.clone());
            }
            let object = json!({"type": "role", "room": room, "target": target, "role": role});
            return self.say(kernel, model, What::Role { room }, true, object);
        }
        let action = pick(rng, &["kick", "ban", "unban", "mute", "unmute", "unmute"]);
        let seconds = (matches!(action, "ban" | "mute") && rng.chance(40)).then(|| 1 + rng.below(3));
        if model.has_asked_for_folded(self.number, &folded) && matches!(action, "kick" | "ban" | "mute") {
            self.session.mistakes += 1; // nobody does these to oneself
        }
        if matches!(action, "kick" | "ban") {
            model.bench.expulsions.insert((room.clone(), folded.clone()));
        }
        let nth = model.bench.sentences.len();
        model.bench.sentences.push(Sentence {
            action,
            room: room.clone(),
            target: folded,
            sent: model.moment,
            replied: None,
            was_done: false,
            epoch: String::new(),
            until_ms: seconds.map(|seconds| kernel.clock_ms + seconds * 1000),
        });
        let mut object = json!({"type": action, "room": room, "target": target});
        if let Some(seconds) = seconds {
            object["seconds"] = json!(seconds);
        }
        self.say(kernel, model, What::Moderate { room, nth }, true, object);
    }

    /// People put others out of the room that they are in, whichever that is.
    pub fn type_kick(&mut self, kernel: &mut Kernel, model: &mut Model) -> String {
        let target = self.pick_nickname(kernel);
        for room in ROOMS {
            model.bench.expulsions.insert((fold(room), fold(&target)));
        }
        format!("/kick {target}")
    }

    /// Sets or deletes a key of a room's state.
    pub fn say_state(&mut self, kernel: &mut Kernel, model: &mut Model) {
        let rng = &mut kernel.rng;
        let here: Vec<String> = self.rooms.keys().cloned().collect();
        let room = if here.is_empty() || rng.chance(5) { fold(pick(rng, ROOMS)) } else { pick(rng, &here) };
        let key = pick(rng, &["topic", "a", "b", "c"]);
        let value = match rng.below(4) {
            0 => Value::Null,
            1 => json!({"by": self.number, "at": model.moment}),
            _ => json!(format!("{}.{}", self.number, model.moment)),
        };
        let object = json!({"type": "state", "room": room, "key": key, "value": value});
        self.say(kernel, model, What::State { room, key }, true, object);
    }

    /// The answer to something that hosts do, or to a change of state, in a room that the client is in or may be in.
    pub fn hear_verdict(&mut self, model: &mut Model, sent: &Sent, event: &Value) {
        let (what, moment) = (&sent.what, sent.moment);
        let reason = event["reason"].as_str();
        let room = match what {
            What::Moderate { room, .. } | What::Role { room } | What::State { room, .. } => room.clone(),
            _ => unreachable!("only these are decided by hosts"),
        };
        let is_there = self.is_member(&room);
        let may_be_there = is_there || self.session.unsure.contains(&room);
        if let What::Moderate { nth, .. } = what {
            let epoch = self.rooms.get(&room).map(|membership| membership.epoch.clone());
            let sentence = &mut model.bench.sentences[*nth];
            sentence.replied = Some(model.moment);
            (sentence.was_done, sentence.epoch) = (reason.is_none(), epoch.unwrap_or_default());
        }
        let Some(reason) = reason else {
            assert_eq!(event["type"], "ack", "client {}", self.number);
            assert!(may_be_there, "client {} is not in {room} and was obeyed: {event}", self.number);
            if let What::State { key, .. } = what {
                assert_eq!(event["key"], *key, "{event}");
                return model.count("states_set");
            }
            assert_ne!(room, "lobby", "client {} moderates the lobby", self.number);
            let nickname = fold(self.nickname.as_deref().expect("it has said hello"));
            let comebacks = self.session.comebacks;
            let is_renamed = self.rooms.get(&room).is_none_or(|membership| membership.was_renamed);
            if !is_renamed && !self.session.was_raced {
                model.bench.obeyed.push((self.number, comebacks, room, nickname));
            }
            return model.count("obeyed");
        };
        let is_understood = match reason {
            "not_a_member" | "no_such_room" => {
                self.session.be_sure_of(&room);
                !is_there
            }
            "no_such_user" | "bad_request" => may_be_there && !matches!(what, What::State { .. }),
            "forbidden" => may_be_there,
            "store_down" => self.is_refused_by_store(model, moment),
            "muted" => matches!(what, What::State { .. }) && model.bench.has_mutes(&room),
            _ => false,
        };
        assert!(is_understood, "client {}: {event} in answer to {what:?}", self.number);
        model.count("verdicts_refused");
    }

    /// The store is said to be down: it must be so, or have been of late.
    pub fn is_refused_by_store(&self, model: &mut Model, since: u64) -> bool {
        model.count("refused_store_down");
        self.terms.has_store && (model.store.may_be_down(since) || model.store.was_unread(since))
    }

    /// Somebody who may not speak has tried to.
    pub fn hear_silenced(&mut self, model: &mut Model, room: &str, reason: &str) {
        let may_be =
            if reason == "muted" { model.bench.has_mutes(room) } else { model.bench.has_guests(room) };
        assert!(may_be, "client {}: {reason} in {room}, where nobody is", self.number);
        model.count(if reason == "muted" { "mutes_met" } else { "guests_met" });
    }

    /// The client has been put out of a room.
    pub fn hear_expelled(&mut self, model: &mut Model, event: &Value) {
        let room = fold(event["room"].as_str().expect("a room is left"));
        assert!(model.may_be_expelled(&room, self.number), "client {}: {event} for nothing", self.number);
        self.session.be_sure_of(&room);
        // A switch out of this room may have begun before.
        let is_left = |sent: &Sent| matches!(&sent.what, What::Switch { from, .. } if *from == room);
        if self.outstanding.iter().any(is_left) {
            self.session.unsure.insert(room.clone());
        }
        self.session.has_missed |= self.session.kept.remove(&room).is_some();
        if let Some(membership) = self.rooms.remove(&room) {
            self.check_skipped(model, &room, &membership);
        }
        model.count("expelled_heard");
    }

    /// While a client has no connection it may be put out of rooms that it remembers.
    pub fn doubt_rooms(&mut self, model: &Model) {
        let (number, session) = (self.number, &mut self.session);
        let unsure = &mut session.unsure;
        session.kept.retain(|room, _| {
            let may_be_out = model.may_be_expelled(room, number);
            if may_be_out {
                unsure.insert(room.clone());
            }
            !may_be_out
        });
    }

    /// A change of the room's state.
    pub fn hear_state(&mut self, model: &mut Model, event: &Value) {
        let room = fold(event["room"].as_str().expect("state is of a room"));
        let client = self.number;
        let membership = self.rooms.get_mut(&room).expect("state is told to members");
        let version = event["version"].as_u64().expect("state has a version");
        let key = event["key"].as_str().expect("state has a key").to_owned();
        let known = membership.version;
        assert!(
            if membership.knows_version { version == known + 1 } else { version > known },
            "client {client}, who knew version {known} of {room}: {event}"
        );
        (membership.version, membership.knows_version) = (version, true);
        let epoch = membership.epoch.clone();
        let change = (key.clone(), event["value"].clone());
        let changes = model.states.entry((room, epoch)).or_default();
        assert_eq!(*changes.entry(version).or_insert(change.clone()), change, "client {client}: {event}");
        match &event["value"] {
            Value::Null => drop(membership.state.remove(&key)),
            value => drop(membership.state.insert(key, value.clone())),
        }
        model.count("states_heard");
    }

    /// A role has changed hands.
    pub fn hear_role(&mut self, model: &mut Model, room: &str, event: &Value) {
        let (nickname, role) = (event["nickname"].as_str(), event["role"].as_str());
        let (nickname, role) = nickname.zip(role).expect("a role has both");
        if role == "host" {
            model.bench.note_host(room, nickname);
        }
        let membership = self.rooms.get_mut(room).expect("roles are told to members");
        membership.roles.insert(fold(nickname), role.to_owned());
        model.count("roles_heard");
    }
}

impl Membership {
    /// What a new member is told of the room.
    pub fn begin(&mut self, model: &mut Model, room: &str, own: &str, event: &Value) {
        let role = event["role"].as_str().expect("a member has a role");
        if role == "host" {
            model.bench.note_host(room, own);
        }
        self.roles.insert(fold(own), role.to_owned());
        for (key, entry) in event["state"].as_object().expect("a room has a state") {
            self.version = self.version.max(entry["version"].as_u64().expect("a key has a version"));
            self.state.insert(key.clone(), entry["value"].clone());
        }
    }

    /// Somebody has come or gone, or has another nickname.
    pub fn follow_roles(&mut self, model: &mut Model, room: &str, event: &Value) {
        let name = fold(event["nickname"].as_str().expect("presence is of somebody"));
        match (event["event"].as_str(), event["from"].as_str()) {
            (Some("join" | "leave"), _) => drop(self.roles.remove(&name)),
            (Some("nick"), Some(from)) => {
                model.bench.note_renamed(room, from, &name);
                match self.roles.remove(&fold(from)) {
                    Some(role) => drop(self.roles.insert(name, role)),
                    None => drop(self.roles.remove(&name)),
                }
            }
            _ => {}
        }
    }

    /// Compares the roles that a member has heard of with those that there are.
    pub fn check_roles(&self, client: usize, room: &str, truth: &BTreeMap<String, String>) {
        for (name, role) in &self.roles {
            let is = truth.get(name);
            assert!(
                is.is_none_or(|is| is == role),
                "{name} is {is:?} in {room}; client {client} heard {role}"
            );
        }
    }
}

/// Checks that somebody moderates each room in which anybody speaks.
pub fn check_hosts(room: &str, roles: &BTreeMap<String, String>) {
    let has = |role: &str| roles.values().any(|is| is == role);
    assert!(room != "lobby" || !has("host"), "somebody moderates the lobby: {roles:?}");
    assert!(room == "lobby" || has("host") || !has("member"), "nobody moderates {room}: {roles:?}");
}
