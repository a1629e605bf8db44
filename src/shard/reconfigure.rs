//! Another configuration, while the server runs.
//!
//! What is decided from now on is decided by it. Who is connected stays, also where there would be no place any more; a token that was
//! good when its session began is good to its end. The key of a program is shown by each request, and one that has been taken away is good
//! for nothing any more: what was opened with it and goes on, event streams and dashboards, is ended. Who has shown nothing is here because
//! guests may be, and is put out when they may not any more: sessions, also of those who are away, and event streams. Rooms forget what is
//! over new bounds, some at a time: each that keeps another number of messages tells the store, whose queue is bounded.

use std::sync::Arc;

use super::Shard;
use super::limits::Rates;
use super::rooms::RoomRules;
use super::timers::Timer;
use crate::auth::Authority;
use crate::base::slots::Id;
use crate::config::Config;
use crate::record::Record;

/// Rooms that get new bounds at a time, and the milliseconds in between.
const ROOMS_AT_A_TIME: usize = 64;
const PAUSE_MS: u64 = 10;

/// Bytes of what is told to the store of a room: its name, at most, and some numbers.
const ROOM_RECORD_BYTES: usize = 512;

/// What a core decides by.
#[derive(Debug)]
pub struct Reconfigured {
    /// The configuration.
    pub config: Arc<Config>,
    /// What tokens and keys are checked with.
    pub authority: Arc<Authority>,
}

impl Shard {
    /// Goes on with another configuration.
    pub(super) fn reconfigure(&mut self, new: &Reconfigured) {
        let config = new.config.clone();
        if !self.is_clustered() {
            self.ledger.set_every(config.observe.latency_sample_every);
        }
        let keeps_more_than_memory = self.journal.is_on || self.is_clustered();
        self.authority = new.authority.clone();
        let are_guests_out = self.config.auth.guests && !config.auth.guests;
        self.limits = config.limits.clone();
        self.presence = config.presence.clone();
        self.rates = Rates::new(&config.rate);
        self.limit_those_who_are_here();
        // Of the whole server, and so the same from every core.
        self.census.set_address_max(config.limits.connections_per_address);
        self.attempts.set_rates(config.rate.logins_per_minute, config.rate.registrations_per_hour);
        let rules = RoomRules::new(&config, self.cores(), keeps_more_than_memory);
        self.config = config;
        self.review_event_streams_by_key();
        if are_guests_out {
            self.put_out_guests();
        }
        if rules != self.room_rules {
            self.room_rules = rules;
            let has_timer = !self.home.bounded_anew.is_empty();
            self.home.bounded_anew = self.home.by_name.values().copied().collect();
            if !has_timer && !self.home.bounded_anew.is_empty() {
                self.wheel.insert(self.now.tick + 1, Timer::Bounds);
            }
        }
    }

    /// Who came before there was a limit of addresses, or of users, shares it from now on.
    fn limit_those_who_are_here(&mut self) {
        if !self.rates.address.is_unlimited() {
            for (_, connection) in self.connections.iter_mut().filter(|(_, c)| c.address_bucket.is_none()) {
                connection.address_bucket = Some(self.address_buckets.get(connection.peer, self.now.tick));
            }
        }
        if !self.rates.user.is_unlimited() {
            for (_, session) in self.sessions.iter_mut().filter(|(_, session)| session.user_bucket.is_none())
            {
                if let Some(nickname) = &session.nickname {
                    let bucket = self.user_buckets.get(nickname.folded().into(), self.now.tick);
                    session.user_bucket = Some(bucket);
                }
            }
        }
    }

    /// Guests are not let in any more.
    fn put_out_guests(&mut self) {
        self.end_anonymous_event_streams();
        self.put_out_void();
    }

    /// Gives some of the rooms their new bounds.
    pub(super) fn bound_rooms_anew(&mut self) {
        for _ in 0..ROOMS_AT_A_TIME {
            if self.journal.is_on && !self.journal.has_place(ROOM_RECORD_BYTES) {
                break;
            }
            let Some(key) = self.home.bounded_anew.pop() else { break };
            self.bound_room_anew(key);
        }
        if !self.home.bounded_anew.is_empty() {
            self.wheel.insert(self.now.tick + PAUSE_MS, Timer::Bounds);
        }
    }

    fn bound_room_anew(&mut self, key: Id) {
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        let (retention, bounds) = self.room_rules.of(entry.room.name());
        let before = entry.room.history().bytes();
        entry.room.set_bounds(bounds, self.now.unix_ms);
        self.home.history_bytes = self.home.history_bytes + entry.room.history().bytes() - before;
        if std::mem::replace(&mut entry.retention, retention) != retention {
            let (room, name, epoch) = (entry.number, entry.room.name().clone(), entry.room.epoch().clone());
            self.write_down(&Record::Room { room, name: name.as_str(), epoch: &epoch, retention });
        }
        self.expire_history(key);
        self.consider_room(key);
    }
}
