//! Members that nobody is any more: a session came here from another node, and could not be taken back into a room, because that could not be
//! reached, or what is known of it here is behind. It has been told so. Where it was before is gone, perhaps with its node, which says nothing more of it: so this one does, when
//! it reaches the room.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::time::Tick;
use crate::chat::name::RoomName;
use crate::chat::refusal::LeaveReason;
use crate::chat::user::SessionRef;
use crate::shard::Shard;
use crate::shard::backplane::RoomOp;
use crate::shard::timers::Timer;

use super::{BACKPLANE_RETRY_MS, Knock};

/// How many are remembered, a core. Any more are away in their rooms until the time of grace is over, as those of a node that is lost.
const STRAYS_MAX: usize = 4096;

/// What a room may still have as a member.
#[derive(Debug)]
pub(in crate::shard) struct Stray {
    room: RoomName,
    /// Where its session has been before it came here.
    places: Arc<[SessionRef]>,
    /// After this it is no member any more in any case.
    until: Tick,
}

/// Those that a core remembers.
#[derive(Debug, Default)]
pub(in crate::shard) struct Strays {
    waiting: VecDeque<Stray>,
    is_timed: bool,
}

impl Shard {
    /// A session could not be taken back into a room.
    pub(super) fn note_stray(&mut self, room: RoomName, places: Arc<[SessionRef]>) {
        let until = self.now.tick + self.config.session.grace_ms + self.config.cluster.lease_ms;
        self.keep_stray(Stray { room, places, until });
    }

    pub(super) fn keep_stray(&mut self, stray: Stray) {
        let strays = &mut self.nodes.strays;
        if strays.waiting.len() >= STRAYS_MAX || stray.until <= self.now.tick {
            return;
        }
        strays.waiting.push_back(stray);
        if strays.waiting.len() == STRAYS_MAX {
            log::warn!(
                "{STRAYS_MAX} members could not be taken back into their rooms: others are away there for the time of grace"
            );
        }
        if !std::mem::replace(&mut strays.is_timed, true) {
            self.wheel.insert(self.now.tick + BACKPLANE_RETRY_MS, Timer::Strays);
        }
    }

    /// Looks for all of them once more.
    pub(in crate::shard) fn look_for_strays(&mut self) {
        self.nodes.strays.is_timed = false;
        for stray in std::mem::take(&mut self.nodes.strays.waiting) {
            let name = stray.room.clone();
            if let Some((_, Knock::Stray(stray))) = self.open_or_wait(&name, false, Knock::Stray(stray)) {
                self.leave_stray(stray);
            }
        }
    }

    /// Whoever is where such a session was is no member any more. If there is nobody, what is known of the room here may be behind: it is
    /// looked at again for as long as that may take.
    pub(super) fn leave_stray(&mut self, stray: Stray) {
        let Some(key) = self.home.by_name.get(stray.room.folded()).copied() else { return };
        let mut is_found = false;
        for session in stray.places.iter().copied() {
            let is_member = self.home.rooms[key].room.member(session).is_some();
            is_found |= is_member;
            // Unless it is on its way here after all.
            if is_member && self.attaching(key, session).is_empty() {
                self.order(key, RoomOp::Leave { session, reason: LeaveReason::Timeout }, None);
            }
        }
        if !is_found {
            let until = self.now.tick + self.config.cluster.lease_ms;
            self.keep_stray(Stray { until: stray.until.min(until), ..stray });
        }
    }
}
