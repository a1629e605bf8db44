//! The end of the server's process, and of its machine, in the middle of everything; and the next server, which goes on with what is
//! left. What was announced before must be there afterwards; after the end of the machine, what was promised to be on the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use starling::config::AckLevel;
use starling::record::{Restored, RestoredRoom};
use starling::store::engine::Engine;
use starling::store::{directory, load};

use crate::client::Kind;
use crate::faults::happens;
use crate::model::{Model, fold};
use crate::talk::ROOMS;
use crate::upgrade;
use crate::world::World;

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process is killed. Its journals are still there.
    Kill,
    /// The machine fails. What was not on its disk is lost.
    Machine,
    /// The server has drained and written everything down, and another takes its place, with other limits.
    Upgrade,
}

/// The messages of rooms, by room and offset.
type Messages = BTreeMap<(u64, u64), (String, String)>;

impl World {
    /// Ends the server at moments that are drawn, and starts another.
    pub fn restart_perhaps(&mut self) {
        let Some(storage) = &self.shape.storage else { return };
        let end = {
            let rng = &mut self.kernel.borrow_mut().rng;
            // Chances in a hundred thousand.
            if happens(rng, 10) && rng.below(1000) < storage.kill {
                End::Kill
            } else if happens(rng, 10) && rng.below(1000) < storage.machine {
                End::Machine
            } else {
                return;
            }
        };
        self.restart(end);
    }

    /// Ends the server, and starts another, perhaps with another number of cores.
    pub fn restart(&mut self, end: End) {
        // To lose commits that were not synced yet, the database would have to be played too.
        let is_synced = self.store.as_ref().is_some_and(|store| store.is_synced());
        if end == End::Machine && !is_synced {
            return;
        }
        let mut store = self.store.take().expect("only what is stored outlives a server");
        self.model.count(match end {
            End::Kill => "kills",
            End::Machine => "machine_failures",
            End::Upgrade => "upgrades",
        });
        for core in &mut self.cores {
            for (name, value) in core.reactor.world().counters().values() {
                *self.model.counts.entry(name).or_default() += value;
            }
        }
        let replays = end == End::Kill;
        // A core that had to go on without having written everything down has said so.
        let is_behind = replays && store.rings.iter().any(|ring| ring.is_behind());
        let end = if is_behind { End::Machine } else { end };
        if is_behind {
            self.model.count("kills_behind");
        }
        if replays {
            store.note_replayed(&mut self.model);
            if store.frames() > 0 {
                self.model.count("replayed_journals");
            }
        }
        if end == End::Upgrade {
            store.settle(&mut self.kernel.borrow_mut(), &mut self.model);
            store.check_written();
        }
        assert_eq!(store.engine().rejected(), 0, "a record contradicts what is there");
        let (engine, rings) = store.end();
        let mut engine = engine.restarted().expect("it can be opened again");
        let mut is_whole = true;
        for (index, ring) in rings.iter().enumerate().filter(|_| replays) {
            let (_, is_sound) = directory::replay_ring(&mut engine, index, ring).expect("it can be written");
            is_whole &= is_sound;
        }
        assert_eq!(is_whole, !is_behind, "a journal is damaged");
        assert_eq!(engine.rejected(), 0, "a record contradicts what is there");
        let (home_seed, seeds, now_ms) = {
            let kernel = &mut *self.kernel.borrow_mut();
            let cores = 1 + kernel.rng.below(4) as usize;
            kernel.trace.note(&[60, cores as u64], || format!("{end:?}; the next server has {cores} cores"));
            // What has left a machine that fails later may arrive, but is not needed to tell what was announced.
            let delivers = match end {
                End::Kill => 50,
                End::Machine => 0,
                End::Upgrade => 100,
            };
            if end == End::Upgrade {
                self.config = Arc::new(upgrade::other_limits(&mut kernel.rng, &self.config));
                self.terms.memory_count = self.terms.memory_count.min(self.config.history.memory_count);
            }
            if std::mem::take(&mut self.model.is_draining) {
                self.model.drained_conns = kernel.conns.len();
            }
            self.upgrade = None;
            kernel.restart(cores, delivers, &self.config.limits);
            kernel.clock_ms += kernel.rng.below(100);
            let home_seed = kernel.rng.next_u64();
            let seeds = (0..cores).map(|_| kernel.rng.next_u64()).collect();
            (home_seed, seeds, kernel.clock_ms + kernel.unix_offset_ms)
        };
        let limits = &self.config.limits;
        let since_ms = now_ms.saturating_sub(limits.idempotency_ms);
        let mut restored = load::load(&mut engine, since_ms, limits.idempotency_ids).expect("it can be read");
        self.check_restored(&engine, &restored, end);
        if end == End::Machine {
            restored.renew_epochs(|| self.kernel.borrow_mut().rng.next_u64());
        }
        directory::settle_last_run(engine.connection(), &restored).expect("it can be written");
        self.tell_clients(end);
        self.begin_server(home_seed, seeds, restored, Some(engine));
    }

    /// What clients know to have happened by the end of a server.
    fn tell_clients(&mut self, end: End) {
        let model = &mut self.model;
        model.restarts += 1;
        // What was told to a connection is nowhere else, unless it was said to be kept.
        for said in model.said.values_mut().filter(|said| said.is_private) {
            said.was_heard_behind |= !said.is_kept || end == End::Machine;
        }
        if end != End::Machine {
            return;
        }
        model.lost_at = Some(model.moment);
        for client in &mut self.clients {
            model.losers.insert(client.number);
            let session = &mut client.session;
            (session.may_be_lost, session.has_missed) = (session.token.is_some(), true);
            if client.kind != Kind::Text {
                for room in std::mem::take(&mut client.rooms).into_keys() {
                    session.unsure.insert(room);
                }
            }
            session.unsure.extend(std::mem::take(&mut session.kept).into_keys());
            // It may be back where it had left.
            session.unsure.extend(ROOMS.iter().map(|room| fold(room)));
            // The last ones may be lost, and their places be given to others.
            session.inbox.clear();
            session.received = 0;
        }
    }

    /// Compares what a server begins with with what clients have heard of the one before.
    fn check_restored(&mut self, engine: &Engine, restored: &Restored, end: End) {
        let messages = read_messages(engine);
        let rooms: BTreeMap<&str, &RestoredRoom> =
            restored.rooms.iter().map(|room| (room.name.folded(), room)).collect();
        let has_history = self.terms.history_count > 0;
        let model = &mut self.model;
        let is_alive = |(_, epoch): &&(String, String)| {
            !model.dead_epochs.contains(epoch) && !model.lost_rooms.contains(epoch)
        };
        let logs: Vec<(String, String)> = model.logs.keys().filter(is_alive).cloned().collect();
        for (name, epoch) in logs {
            let room = rooms.get(&*name).filter(|room| *room.epoch == *epoch);
            let last = *model.logs[&(name.clone(), epoch.clone())].keys().next_back().expect("not empty");
            if end != End::Machine {
                assert!(room.is_some() || !has_history, "room {name} {epoch} with {last} messages is gone");
                assert!(room.is_none_or(|room| room.offset >= last), "{name} had {last} messages: {room:?}");
            }
            if let Some(room) = room {
                model.check_messages(&name, room, &messages);
                model.check_state(&name, room, end);
            }
        }
        if end == End::Machine {
            model.lose_epochs(&restored.rooms);
            let is_lost = |epoch: &&String| !rooms.values().any(|room| *room.epoch == ***epoch);
            let lost: Vec<String> =
                model.logs.keys().map(|(_, epoch)| epoch).filter(is_lost).cloned().collect();
            model.lost_rooms.extend(lost);
        }
    }
}

impl Model {
    /// The messages that a room has kept are those that clients have heard there.
    fn check_messages(&self, name: &str, room: &RestoredRoom, messages: &Messages) {
        let log = &self.logs[&(name.to_owned(), room.epoch.to_string())];
        let first = room.first_kept.max((room.offset + 1).saturating_sub(room.retention.count));
        for (offset, entry) in log.range(first..).filter(|(offset, _)| **offset <= room.offset) {
            let kept = messages.get(&(room.number, *offset));
            let known = (entry.sender.clone(), entry.content.clone());
            assert_eq!(kept, Some(&known), "{name} {offset} is another message");
        }
    }

    /// The state is what clients have heard of it last, unless it has changed since.
    fn check_state(&self, name: &str, room: &RestoredRoom, end: End) {
        let Some(changes) = self.states.get(&(name.to_owned(), room.epoch.to_string())) else { return };
        let last = *changes.keys().next_back().expect("not empty");
        assert!(end == End::Machine || room.state_version >= last, "{name} has forgotten change {last}");
        for (version, (key, value)) in changes.range(..=room.state_version) {
            let kept = room.state.iter().find(|state| *state.key == **key);
            let is_same = match kept {
                Some(state) if state.version == *version => {
                    serde_json::from_str::<serde_json::Value>(&state.value).is_ok_and(|kept| kept == *value)
                }
                Some(state) => state.version > *version,
                None => value.is_null() || room.state_version > *version,
            };
            assert!(is_same, "{name}: {key} was {value} by change {version}, and is {kept:?}");
        }
    }

    /// Messages that rooms do not have are lost; the others are in another epoch from now on.
    fn lose_epochs(&mut self, rooms: &[RestoredRoom]) {
        let kept: BTreeMap<&str, u64> = rooms.iter().map(|room| (&*room.epoch, room.offset)).collect();
        for said in self.said.values_mut() {
            if said.place.is_none() && said.offset.is_none() {
                said.was_member = None;
            }
            // A room that is not there may have ended before, or have been forgotten with its beginning.
            let Some((epoch, offset)) = said.place.take() else { continue };
            match kept.get(&*epoch) {
                Some(last) if offset <= *last => said.offset = Some(offset),
                Some(_) => {
                    let is_promised = said.acked.is_some_and(|level| level > AckLevel::Sequenced);
                    assert!(!is_promised, "{said:?} was lost at {epoch} {offset}");
                    said.was_member = None;
                    *self.counts.entry("messages_lost").or_default() += 1;
                }
                None => said.was_member = None,
            }
        }
        self.dead_epochs.extend(kept.into_keys().map(str::to_owned));
    }
}

fn read_messages(engine: &Engine) -> Messages {
    let db = engine.connection();
    let mut statement = db.prepare("SELECT room, offset, sender, content FROM messages").expect("a query");
    let rows = statement.query_map([], |row| {
        let place = (row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64);
        Ok((place, (row.get(2)?, row.get(3)?)))
    });
    rows.expect("a query").collect::<Result<_, _>>().expect("rows")
}
