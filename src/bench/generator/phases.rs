//! From gathering to the end.

use std::sync::atomic::Ordering::Relaxed;

use super::super::audit::UNKNOWN;
use super::super::cast::NONE;
use super::super::plan::{Load, Profile};
use super::super::schedule::Schedule;
use super::super::shared::Phase;
use super::{Generator, MS, Peer, Publisher, State, UNSEEN};
use crate::base::slots::Id;

/// How long farewells may take before what is left is cut off.
const LEAVE_NS: u64 = 1000 * MS;

impl Generator {
    /// What has to be looked at now and then.
    pub(super) fn do_chores(&mut self) {
        let phase = self.shared.phase();
        if phase >= Phase::Talking && !self.has_begun && self.now_ns >= self.shared.begin_ns.load(Relaxed) {
            self.begin();
        }
        if self.has_begun || self.shared.plan.profile == Profile::Storm {
            self.end_ns = self.end_ns.min(self.shared.end_ns.load(Relaxed));
            self.read_cpu();
        }
        if phase == Phase::Settling {
            self.settle();
        }
        if phase >= Phase::Leaving {
            self.leave();
        }
        if phase == Phase::Settling && self.phase < Phase::Settling {
            let slow = self.members.iter().filter(|member| member.is_slow);
            self.resumed = slow.filter_map(|member| member.connection).collect();
        }
        self.phase = phase;
        if phase < Phase::Talking {
            return;
        }
        // The beginning and the end are not to be missed by a chore's interval.
        let begin_ns = self.shared.begin_ns.load(Relaxed);
        for moment_ns in [begin_ns, self.from_ns, self.end_ns] {
            if moment_ns > self.now_ns {
                self.chores_ns = self.chores_ns.min(moment_ns);
            }
        }
    }

    /// Talking begins.
    fn begin(&mut self) {
        self.has_begun = true;
        let shared = self.shared.clone();
        let plan = &shared.plan;
        let begin_ns = shared.begin_ns.load(Relaxed);
        let end_ns = plan.end_ns(begin_ns);
        self.from_ns = begin_ns + plan.warmup_ns;
        self.end_ns = end_ns;
        match plan.profile {
            Profile::Idle | Profile::Storm => {}
            Profile::Churn => {
                if let Load::Rate(rate) = plan.load {
                    self.visits = self.share_of(rate, begin_ns, end_ns);
                }
            }
            _ => match plan.load {
                Load::Rate(rate) => {
                    let own = self.publishers.iter().map(|publisher| publisher.number).collect();
                    self.schedule = Some(Schedule::new(rate, plan.publishers, own, begin_ns, end_ns));
                }
                Load::InFlight(_) => self.begin_closed_loop(),
            },
        }
        self.moves = self.share_of(plan.moves, begin_ns, end_ns);
        if plan.profile == Profile::Resume {
            self.cut_ns = self.from_ns + plan.duration_ns / 2;
        }
    }

    /// Notes the processor time of the thread at both ends of the measured time.
    fn read_cpu(&mut self) {
        if self.now_ns >= self.from_ns && self.cpu_at_from_ns.is_none() {
            self.cpu_at_from_ns = thread_cpu_ns();
        }
        if self.now_ns >= self.end_ns && !std::mem::replace(&mut self.has_read_cpu, true) {
            let at_end_ns = thread_cpu_ns().unwrap_or_default();
            self.tally.cpu_ns = at_end_ns.saturating_sub(self.cpu_at_from_ns.unwrap_or(at_end_ns));
        }
    }

    /// Tells how much was sent, and once all have told, how much of it has not come.
    fn settle(&mut self) {
        // Everything that was due is sent first, however late it is.
        self.speak();
        let is_behind = self.schedule.as_ref().is_some_and(|schedule| schedule.next_ns().is_some());
        if is_behind {
            return;
        }
        if !self.has_told {
            self.has_told = true;
            for publisher in &self.publishers {
                self.shared.published[publisher.number as usize].store(publisher.next_sequence, Relaxed);
            }
            self.shared.gauges[self.thread].has_told.store(1, std::sync::atomic::Ordering::Release);
        }
        let all_told = self
            .shared
            .gauges
            .iter()
            .all(|gauges| gauges.has_told.load(std::sync::atomic::Ordering::Acquire) == 1);
        let unsettled = if all_told { self.count_unsettled() } else { u64::MAX };
        self.shared.gauges[self.thread].unsettled.store(unsettled, Relaxed);
    }

    fn count_unsettled(&self) -> u64 {
        let unacknowledged = |publisher: &Publisher| publisher.ledger.outstanding(publisher.next_sequence);
        if self.shared.plan.profile == Profile::Churn {
            return (self.late_visits.len() + self.to_connect.len() + self.peers.len()) as u64;
        }
        if self.level.is_some() && !self.tally.refused.is_empty() {
            // What was refused will neither be acknowledged nor heard, and the run has failed.
            return 0;
        }
        let mut unsettled = self.to_connect.len() as u64;
        if self.level.is_some() {
            unsettled += self.publishers.iter().map(unacknowledged).sum::<u64>();
        }
        for local in 0..self.members.len() {
            self.for_each_stream(local, |expected, end| unsettled += end.saturating_sub(expected));
            let member = &self.members[local];
            unsettled += u64::from(!member.is_in && member.connection.is_some());
        }
        unsettled
    }

    /// Calls `visit` with the number that is expected next, and the one that must not come, of all that a member hears.
    fn for_each_stream(&self, local: usize, mut visit: impl FnMut(u64, u64)) {
        let member = &self.members[local];
        let is_churn = self.shared.plan.profile == Profile::Churn;
        if member.is_slow || !(member.is_in && member.connection.is_some() || is_churn) {
            return;
        }
        let hears_itself = self.shared.target.traits().hears_itself
            || self.shared.plan.rooms == self.shared.plan.connections;
        let is_deaf = self.shared.target.traits().is_split && member.publisher != NONE;
        let Some(speakers) = self.shared.cast.speakers_of.get(member.room as usize) else { return };
        for (speaker, track) in speakers.iter().zip(&member.tracks) {
            let is_own = *speaker == member.number && !hears_itself;
            if *track != UNSEEN && !is_own && !is_deaf {
                let end = self.shared.published[*speaker as usize].load(Relaxed);
                visit(u64::from(*track), u64::from(end));
            }
        }
    }

    /// Says goodbye, and cuts off whoever is still there after a while.
    fn leave(&mut self) {
        let ids: Vec<Id> = self.peers.iter().map(|(id, _)| id).collect();
        if self.leave_ns == 0 {
            self.leave_ns = self.now_ns;
            // What is missing is told by what has come until now.
            self.audit_ends();
            for id in &ids {
                if self.peers[*id].state == State::Opening {
                    self.close(*id, true);
                } else {
                    self.quit(*id);
                }
            }
        } else if self.now_ns > self.leave_ns + LEAVE_NS {
            for id in &ids {
                self.close(*id, true);
            }
        }
        self.shared.gauges[self.thread].open.store(self.peers.len() as u64, Relaxed);
    }

    fn audit_ends(&mut self) {
        let mut audit = std::mem::take(&mut self.by_sequence);
        for local in 0..self.members.len() {
            self.for_each_stream(local, |expected, end| audit.end(expected, end));
        }
        self.by_sequence = audit;
        if self.has_begun && self.shared.plan.profile != Profile::Churn {
            let absent = self.members.iter().filter(|member| !member.is_in && !member.is_slow);
            self.tally.absent = absent.count() as u64;
        }
    }

    /// A connection is gone.
    pub(super) fn part(&mut self, id: Id, peer: &Peer) {
        if matches!(peer.state, State::Opening | State::Silent | State::Entering) {
            self.handshakes -= 1;
        }
        let member = &mut self.members[peer.member as usize];
        if member.connection != Some(id) {
            return;
        }
        member.connection = None;
        if std::mem::replace(&mut member.is_in, false) {
            self.ready -= 1;
        }
        if self.shared.plan.profile == Profile::Churn {
            member.next_offset = UNKNOWN;
            self.free.push(peer.member);
        }
    }

    /// Closes the books.
    pub(super) fn finish(&mut self) {
        self.read_cpu();
        self.tally.offsets = std::mem::take(&mut self.by_offset).finish();
        self.tally.sequences = std::mem::take(&mut self.by_sequence).finish();
        if self.level.is_some() {
            for publisher in &mut self.publishers {
                let ledger = std::mem::take(&mut publisher.ledger);
                self.tally.acks.add(&ledger.finish(publisher.next_sequence));
            }
        }
    }
}

/// Processor time of this thread: the first number of schedstat, see sched-stats.txt of the kernel.
fn thread_cpu_ns() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}
