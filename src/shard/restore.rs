//! What a server begins with, when there was one before: rooms at their homes, and sessions without connections, which wait for their users.
//!
//! Every core gets its share before it turns for the first time. Keys into the tables of other cores are known beforehand, because each share
//! is put into empty tables in its own order.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Shard;
use super::encode::Encoding;
use super::home::HomeRoom;
use super::mail::RoomKey;
use super::registered::Registered;
use super::rooms::{Pushed, pushed_as};
use super::session::{Identity, Membership, Receipt, Session, Step};
use super::{Flock, home_of};
use crate::auth::Claims;
use crate::base::slots::Id;
use crate::chat::inbox::{Inbox, Kept};
use crate::chat::name::{Nickname, RoomName};
use crate::chat::room::{Entrant, Room, Rules, Stamp};
use crate::chat::user::SessionRef;
use crate::record::{
    AccountState, KeptPrivate, Record, Restored, RestoredReceipt, RestoredRoom, RestoredSession,
    RestoredUser, WrittenClaims,
};

/// What one core begins with.
#[derive(Debug, Default)]
pub struct Share {
    rooms: Vec<RoomShare>,
    sessions: Vec<SessionShare>,
    nicknames: Vec<(Nickname, SessionRef, bool)>,
    /// Sessions that cannot go on, by number and revision.
    ended: Vec<(u64, u64)>,
    users: Vec<RestoredUser>,
    accounts: Vec<(Nickname, AccountState)>,
    pushed: Vec<(String, Pushed)>,
}

impl Share {
    /// The numbers of the rooms in it.
    pub fn room_numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.rooms.iter().map(|share| share.room.number)
    }

    /// How many sessions there are in it.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }
}

#[derive(Debug)]
struct RoomShare {
    room: RestoredRoom,
    rules: Rules,
    members: Vec<Entrant>,
}

#[derive(Debug)]
struct SessionShare {
    session: RestoredSession,
    nickname: Nickname,
    identity: Option<Arc<Identity>>,
    memberships: Vec<Membership>,
    remembered: Vec<(Box<str>, Receipt)>,
}

/// Divides what was restored among the cores.
pub fn share_out(restored: Restored, flock: &Flock) -> Vec<Share> {
    let cores = usize::from(flock.cores);
    let home = |folded: &str| usize::from(home_of(flock.home_seed, cores, folded));
    let mut shares: Vec<Share> = (0..cores).map(|_| Share::default()).collect();
    let mut keys: HashMap<String, RoomKey> = HashMap::new();
    let mut numbers: HashMap<u64, (RoomName, Arc<str>)> = HashMap::new();
    numbers.extend(restored.ended_rooms.into_iter().map(|(number, name, epoch)| (number, (name, epoch))));
    for room in restored.rooms {
        let core = home(room.name.folded());
        keys.insert(
            room.name.folded().to_owned(),
            RoomKey { home: core as u16, key: nth(shares[core].rooms.len()) },
        );
        numbers.insert(room.number, (room.name.clone(), room.epoch.clone()));
        let rules =
            room.rules.as_deref().map(serde_json::from_str::<Rules>).transpose().unwrap_or_else(|error| {
                log::error!("store: the rules of room {} cannot be read: {error}", room.name.as_str());
                None
            });
        shares[core].rooms.push(RoomShare { room, rules: rules.unwrap_or_default(), members: Vec::new() });
    }
    let mut holders: HashMap<String, bool> = HashMap::new();
    for session in restored.sessions {
        let core = (session.number % cores as u64) as usize;
        let me =
            SessionRef { node: flock.node, core: core as u16, session: nth(shares[core].sessions.len()) };
        let Ok(nickname) = Nickname::parse(&session.body.nickname) else { continue };
        let identity = session.body.claims.clone().and_then(|claims| identity_of(&nickname, claims));
        // A machine that failed may have lost that somebody let go of a nickname, and not that somebody else took it. Only sessions of
        // one user have the same one; of others one is left.
        match holders.entry(nickname.folded().to_owned()) {
            Entry::Vacant(holder) => drop(holder.insert(identity.is_some())),
            Entry::Occupied(holder) if *holder.get() && identity.is_some() => {}
            Entry::Occupied(_) => {
                shares[core].ended.push((session.number, session.revision));
                continue;
            }
        }
        let mut memberships = Vec::new();
        for written in &session.body.rooms {
            // A room that has ended meanwhile is not there any more.
            let Ok(room) = RoomName::parse(&written.room) else { continue };
            let Some(key) = keys.get(room.folded()) else { continue };
            let share = &mut shares[usize::from(key.home)].rooms[key.key.index as usize];
            let is_admin = identity.as_ref().is_some_and(|identity| identity.claims.is_admin);
            share.members.push(Entrant { session: me, nickname: nickname.clone(), is_admin });
            let room = share.room.name.clone();
            memberships.push(Membership { room, key: *key, echo: written.echo, position: None });
        }
        let remembered =
            session.receipts.iter().filter_map(|receipt| remembered(receipt, &numbers)).collect();
        shares[home(nickname.folded())].nicknames.push((nickname.clone(), me, identity.is_some()));
        shares[core].sessions.push(SessionShare { session, nickname, identity, memberships, remembered });
    }
    let accounts = restored.users.iter().map(|user| (user.name.clone(), user.account));
    let accounts: Vec<(Nickname, AccountState)> = accounts.collect();
    for share in &mut shares {
        share.accounts.clone_from(&accounts);
    }
    for user in restored.users {
        shares[home(user.name.folded())].users.push(user);
    }
    for receipt in &restored.pushed {
        let RestoredReceipt::Published { id, sender, room, offset, timestamp_ms } = receipt else { continue };
        let Some((room, epoch)) = numbers.get(room) else { continue };
        let stamp = Stamp { offset: *offset, timestamp_ms: *timestamp_ms };
        let pushed = Pushed { room: room.clone(), epoch: epoch.clone(), stamp };
        shares[home(room.folded())].pushed.push((pushed_as(sender, room, id), pushed));
    }
    shares
}

/// The key of the so many-th value that is put into an empty table.
fn nth(index: usize) -> Id {
    Id { index: index as u32, generation: 0 }
}

pub(super) fn identity_of(nickname: &Nickname, written: WrittenClaims) -> Option<Arc<Identity>> {
    let WrittenClaims { admin: is_admin, rooms, tags, expires_at_ms, account_at_ms } = written;
    let nickname = nickname.clone();
    let claims = Claims { nickname, is_admin, rooms, tags, expires_at_ms, account_at_ms };
    super::resume::identity_of(claims).ok().map(Arc::new)
}

fn remembered(
    receipt: &RestoredReceipt,
    rooms: &HashMap<u64, (RoomName, Arc<str>)>,
) -> Option<(Box<str>, Receipt)> {
    Some(match receipt {
        RestoredReceipt::Published { id, room, offset, timestamp_ms, .. } => {
            let (room, epoch) = rooms.get(room)?.clone();
            let stamp = Stamp { offset: *offset, timestamp_ms: *timestamp_ms };
            // It was read from the disk.
            let level = crate::config::AckLevel::Synced;
            (id.clone(), Receipt::Published { room, epoch, stamp, level })
        }
        RestoredReceipt::Delivered { id, target, delivered, stored, timestamp_ms } => {
            let (target, sessions) = (target.clone(), *delivered);
            let (is_stored, timestamp_ms) = (*stored, *timestamp_ms);
            (id.clone(), Receipt::Delivered { target, sessions, is_stored, timestamp_ms })
        }
    })
}

impl Shard {
    /// Takes in this core's share, before anything else.
    pub fn restore(&mut self, share: Share) {
        let Share { rooms, sessions, nicknames, ended, users, accounts, pushed } = share;
        self.accounts.extend(accounts.into_iter().map(|(name, account)| (name.folded().into(), account)));
        for (index, room) in rooms.into_iter().enumerate() {
            let key = self.restore_room(room);
            assert_eq!(key, nth(index), "others know the room by this key");
        }
        for (index, session) in sessions.into_iter().enumerate() {
            let id = self.restore_session(session);
            assert_eq!(id, nth(index), "others know the session by this key");
        }
        for (nickname, session, has_token) in nicknames {
            self.home.nicknames.claim(&nickname, session, has_token, usize::MAX);
        }
        for (number, revision) in ended {
            log::warn!("session {number:016x} is ended: another one has its nickname since");
            self.write_down(&Record::SessionEnded { number, revision: revision + 1 });
        }
        for user in users {
            let registered = Registered::restored(&user);
            self.home.registered.insert(user.name.folded().into(), registered);
        }
        for (known_as, pushed) in pushed {
            self.remember_pushed(&known_as, pushed);
        }
        let keys: Vec<Id> = self.home.by_name.values().copied().collect();
        for key in keys {
            self.note_rules(key);
            self.consider_room(key);
        }
        // Whose password was changed, or who was disabled, while no server ran.
        self.note_accounts(Vec::new());
        self.counters.nicknames.set(self.home.nicknames.len() as u64);
        self.counters.rooms.set(self.home.rooms.len() as u64);
        self.counters.away.set(self.away as u64);
    }

    fn restore_room(&mut self, share: RoomShare) -> Id {
        let RoomShare { room: restored, rules, members } = share;
        let now_ms = self.now.unix_ms;
        let (retention, bounds) = self.room_rules.of(&restored.name);
        let epoch = restored.epoch.clone();
        if retention != restored.retention {
            let (room, name) = (restored.number, restored.name.as_str());
            self.write_down(&Record::Room { room, name, epoch: &epoch, retention });
        }
        let mut room = Room::new(restored.name, epoch, bounds);
        room.restore(restored.offset, restored.timestamp_ms);
        room.history_mut().pin_after(restored.offset, now_ms);
        for state in restored.state {
            room.restore_state(state.key, state.value, state.version);
        }
        room.restore_state_version(restored.state_version);
        room.restore_restrictions(rules.held);
        for entrant in members {
            // Banned, but its session had not heard of it yet when the server ended. It will when its user is back.
            if !entrant.is_admin && room.is_banned(entrant.nickname.folded(), now_ms) {
                continue;
            }
            let is_host = rules.hosts.iter().any(|host| host == entrant.nickname.folded());
            room.restore_member(entrant, is_host, now_ms);
        }
        room.restore_host();
        let folded: Arc<str> = room.name().folded().into();
        // Somebody else may have become host, because those who were have not come back.
        let is_written =
            room.rules(now_ms).hosts.iter().collect::<BTreeSet<_>>() == rules.hosts.iter().collect();
        let mut entry = HomeRoom::new(room, self.cores(), restored.number, retention);
        entry.kept_from = restored.first_kept;
        if is_written {
            entry.rules_written = entry.room.rules_version();
        }
        let key = self.home.rooms.insert(entry);
        self.home.by_name.insert(folded, key);
        self.note_number(key);
        key
    }

    fn restore_session(&mut self, share: SessionShare) -> Id {
        let SessionShare { session: restored, nickname, identity, memberships, remembered } = share;
        // How its connection wants events is said by the one that comes for it.
        let mut session = Session::new(None, Encoding::JsonLine, identity, Step::Idle);
        (session.number, session.revision) = (restored.number, restored.revision as u32);
        session.nickname = Some(nickname);
        session.memberships = memberships;
        if !remembered.is_empty() {
            let window = session.remembered.get_or_insert_default();
            for (id, receipt) in remembered {
                window.begin(&id, self.now.tick, self.limits.idempotency_ids);
                window.finish(&id, receipt);
            }
        }
        if restored.inbox.last_offset > 0 {
            let items = restored.inbox.items.into_iter().map(kept);
            session.inbox = Some(Box::new(Inbox::restored(restored.inbox.last_offset, items)));
        }
        let number = restored.number;
        let id = self.sessions.insert(session);
        self.counters.session_places.set(self.sessions.places() as u64);
        self.directory.insert(number, SessionRef { node: self.node, core: self.core, session: id });
        let deadline = self.now.tick + self.config.session.grace_ms;
        self.sessions[id].grace = Some(self.wheel.insert(deadline, super::timers::Timer::Grace(id)));
        self.away += 1;
        id
    }
}

/// A private message of an inbox.
pub(super) fn kept(item: KeptPrivate) -> Kept {
    let KeptPrivate { offset, sender, target, content, timestamp_ms } = item;
    Kept::Private { offset: Some(offset), sender, target, content, timestamp_ms, key: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::census::Census;
    use crate::base::time::Now;
    use crate::config::Config;
    use crate::record::{RestoredMembership, SessionBody};

    #[test]
    fn two_strangers_do_not_come_back_with_one_nickname() {
        let flock = Flock::of_one(Arc::new(Config::default()), Arc::new(Census::new(0, 0)));
        let session = |number: u64, nickname: &str, claims: Option<WrittenClaims>| RestoredSession {
            number,
            revision: 1,
            body: SessionBody {
                nickname: nickname.into(),
                claims,
                rooms: vec![RestoredMembership { room: "den".into(), echo: true }],
            },
            inbox: Default::default(),
            receipts: Vec::new(),
        };
        let claims = || WrittenClaims {
            admin: false,
            rooms: None,
            tags: Vec::new(),
            expires_at_ms: None,
            account_at_ms: None,
        };
        let sessions = vec![
            session(1, "gil", None),
            session(2, "Gil", None),
            session(3, "ann", Some(claims())),
            session(4, "ann", Some(claims())),
            session(5, "ann", None),
        ];
        let mut shares = share_out(Restored { sessions, ..Restored::default() }, &flock);
        assert_eq!((shares[0].sessions(), &shares[0].ended[..]), (3, &[(2, 1), (5, 1)][..]));
        let mut shard = Shard::new(0, &flock, Arc::default(), 1, Now::default());
        shard.restore(shares.remove(0));
        assert_eq!((shard.inventory().sessions, shard.inventory().nicknames), (3, 2));
    }
}
