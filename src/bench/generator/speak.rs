//! What goes out: connections, messages that are due, and the next ones of those whose last has arrived.

use std::sync::atomic::Ordering::Relaxed;

use super::super::cast::NONE;
use super::super::marker::{Marker, name_hash};
use super::super::plan::{Load, Profile};
use super::super::schedule::Schedule;
use super::super::target::Comeback;
use super::{Generator, Peer, State, persona};
use crate::base::slots::Id;
use crate::reactor::Connect;

/// How many messages one turn sends at most: some thousandths of a second's work.
const BURST_MAX: usize = 16_384;

impl Generator {
    /// Begins a connection for a member.
    pub(super) fn connect(&mut self, local: u32) -> Connect {
        self.has_worked = true;
        let profile = self.shared.plan.profile;
        let now_ns = self.shared.clock.now_ns();
        let member = &mut self.members[local as usize];
        if profile != Profile::Churn && !self.has_cut {
            member.due_ns = now_ns;
        }
        let peer = Peer {
            member: local,
            stage: 0,
            state: State::Opening,
            is_touched: false,
            has_heard: false,
            is_lost: false,
            out_at: 0,
            out: Vec::new(),
            carry: Vec::new(),
        };
        let id = self.peers.insert(peer);
        member.connection = Some(id);
        self.handshakes += 1;
        let nickname = self.shared.cast.nickname(member.number, member.visit);
        let me = persona(&self.shared, member.number, &nickname, member.room, None);
        let is_open = self.shared.target.protocol.open(&me, &mut self.peers[id].out);
        if is_open {
            self.enter(id);
        }
        let sources = &self.shared.plan.sources;
        let from = (!sources.is_empty()).then(|| {
            self.next_source += 1;
            sources[(self.next_source * self.shared.plan.threads + self.thread) % sources.len()]
        });
        Connect { id, to: self.shared.target.address, from }
    }

    /// Says hello, and joins.
    pub(super) fn enter(&mut self, id: Id) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let member = &self.members[peer.member as usize];
        let nickname = self.shared.cast.nickname(member.number, member.visit);
        let session = member.session.as_deref().filter(|_| self.has_cut);
        let comeback = session.map(|session| Comeback {
            token: &session.token,
            epoch: &session.epoch,
            offset: member.next_offset - 1,
        });
        let me = persona(&self.shared, member.number, &nickname, member.room, comeback);
        let is_silent = self.shared.target.protocol.enter(&me, &mut peer.out);
        peer.state = if is_silent { State::Silent } else { State::Entering };
        // With nothing to say, the socket's being there is what is waited for.
        if !peer.out.is_empty() {
            self.touch(id);
        }
    }

    /// Sends all that is due.
    pub(super) fn speak(&mut self) {
        if !self.has_begun {
            return;
        }
        let now_ns = self.now_ns;
        if self.shared.is_cut_short.load(Relaxed) {
            (self.schedule, self.visits, self.moves) = (None, None, None);
            self.late_visits.clear();
        }
        // What is left of a backlog has its turn when this has been written, and the end of the run been looked for.
        for _ in 0..BURST_MAX {
            let Some(due) = self.schedule.as_mut().and_then(|schedule| schedule.take(now_ns)) else { break };
            self.publish(due.place, due.due_ns);
        }
        while let Some(due) = self.visits.as_mut().and_then(|visits| visits.take(now_ns)) {
            self.late_visits.push_back(due.due_ns);
        }
        while let Some(local) = self.late_visits.front().and_then(|_| self.free.pop()) {
            let member = &mut self.members[local as usize];
            member.due_ns = self.late_visits.pop_front().expect("looked at before");
            member.visit += 1;
            if let Some(name) = self.names.get_mut(member.number as usize) {
                *name = name_hash(self.shared.cast.nickname(member.number, member.visit).as_bytes());
            }
            self.to_connect.push_back(local);
        }
        while self.moves.as_mut().and_then(|moves| moves.take(now_ns)).is_some() {
            self.move_somebody();
        }
        if now_ns >= self.cut_ns && !self.has_cut {
            self.cut_all();
        }
    }

    /// The first messages of publishers who wait for each to arrive.
    pub(super) fn begin_closed_loop(&mut self) {
        let Load::InFlight(in_flight) = self.shared.plan.load else { return };
        for _ in 0..in_flight {
            for place in 0..self.publishers.len() {
                self.publish(place, self.now_ns);
            }
        }
    }

    /// Messages in the place of those that have arrived.
    pub(super) fn go_on(&mut self, now_ns: u64) {
        while let Some(place) = self.completed.pop() {
            if now_ns < self.end_ns {
                self.publish(place as usize, now_ns);
            }
        }
    }

    /// Sends a message that was due at `due_ns`.
    pub(super) fn publish(&mut self, place: usize, due_ns: u64) {
        self.has_worked = true;
        let plan = &self.shared.plan;
        let publisher = &mut self.publishers[place];
        let member = &self.members[publisher.member as usize];
        let peer =
            member.connection.filter(|_| member.is_in).and_then(|id| self.peers.get_mut(id).zip(Some(id)));
        let Some((peer, id)) = peer else {
            self.tally.unsent += 1;
            return;
        };
        let marker = Marker { publisher: publisher.number, sequence: publisher.next_sequence, due_ns };
        publisher.next_sequence += 1;
        if self.shared.target.is_answered {
            publisher.unanswered.push_back(due_ns);
        }
        let me = persona(&self.shared, publisher.number, &publisher.nickname, member.room, None);
        self.shared.target.protocol.publish(&me, marker, plan.bytes, plan.ack.as_deref(), &mut peer.out);
        self.tally.sent_in_all += 1;
        if due_ns >= self.from_ns && due_ns < self.end_ns {
            self.tally.sent += 1;
            // A visit's message is due before its connection is begun: that is not the generator's delay.
            if plan.profile != Profile::Churn {
                self.tally.lateness.saturating_record(self.now_ns.saturating_sub(due_ns));
            }
        }
        self.touch(id);
    }

    /// A farewell, after which our side ends.
    pub(super) fn quit(&mut self, id: Id) {
        let Some(peer) = self.peers.get_mut(id).filter(|peer| peer.state != State::Quitting) else { return };
        self.shared.target.protocol.quit(&mut peer.out);
        peer.state = State::Quitting;
        self.touch(id);
    }

    /// Sends a member who does not speak to the room of another, so that large rooms stay large.
    fn move_somebody(&mut self) {
        let shared = &self.shared;
        let local = self.rng.below(self.members.len().max(1) as u64) as usize;
        let to = shared.cast.room_of[self.rng.below(shared.cast.room_of.len() as u64) as usize];
        let Some(member) = self.members.get_mut(local) else { return };
        let is_free = member.is_in && member.publisher == NONE && member.moving_to == NONE;
        let Some(id) = member.connection.filter(|_| is_free && member.room != to) else { return };
        let Some(peer) = self.peers.get_mut(id) else { return };
        let me = persona(shared, member.number, "", member.room, None);
        shared.target.protocol.switch(&me, shared.cast.room(to), &mut peer.out);
        member.moving_to = to;
        self.touch(id);
    }

    /// Cuts the connection of everybody who only listens, and has all of them come back.
    fn cut_all(&mut self) {
        self.has_cut = true;
        for local in 0..self.members.len() {
            let now_ns = self.now_ns;
            let member = &mut self.members[local];
            if member.publisher != NONE || member.session.is_none() {
                continue;
            }
            let Some(id) = member.connection.take() else { continue };
            member.due_ns = now_ns;
            member.is_in = false;
            self.ready -= 1;
            self.close(id, true);
            self.to_connect.push_back(local as u32);
        }
    }

    /// A schedule of the thread's share of something that happens `rate` times a second.
    pub(super) fn share_of(&self, rate: f64, begin_ns: u64, end_ns: u64) -> Option<Schedule> {
        (rate > 0.0).then(|| {
            Schedule::new(rate, self.shared.plan.threads, vec![self.thread as u32], begin_ns, end_ns)
        })
    }
}
