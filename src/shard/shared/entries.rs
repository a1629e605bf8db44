//! Entries of shared rooms: what has its place is applied there, on every node that has a copy.

use std::sync::Arc;

use crate::base::slots::Id;
use crate::chat::room::{Room, Stamp};
use crate::chat::user::NodeId;
use crate::proto::wire::Event;
use crate::shard::Shard;
use crate::shard::backplane::{BackplaneRequest, Failed, Keep, LogEntry, Position, SharedMessage};
use crate::shard::fanout::Deaf;
use crate::shard::home::HomeRoom;
use crate::shard::shared::Shared;

/// Entries that came before their turn and are kept; what comes beyond is asked for again.
const EARLY_MAX: usize = 1024;

/// A room's snapshot is kept after so many changes, at least; after as many as it has members, if these are more.
const KEEP_EVERY: u64 = 64;

impl Shard {
    /// Goes on with all that waits for the backplane.
    pub(in crate::shard) fn pump(&mut self, key: Id) {
        let Some(entry) = self.home.rooms.get(key) else { return };
        let at = entry.at();
        let Some(shared) = &entry.shared else { return };
        if shared.is_renewing {
            return;
        }
        if shared.appending.is_some() {
            self.send_appending(key, at); // under its tag, which finds it if it has its place
        } else {
            self.append_orders(key);
        }
        self.publish_waiting(key);
    }

    /// Asks for what the copy has missed.
    pub(in crate::shard) fn bring_up_to_date(&mut self, key: Id) {
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        let at = entry.at();
        let Some(shared) = &mut entry.shared else { return };
        if !shared.is_renewing && !std::mem::replace(&mut shared.is_catching_up, true) {
            shared.asked = at.known;
            self.counters.catch_ups.add(1);
            self.ask_backplane(BackplaneRequest::CatchUp(at));
        }
    }

    /// The link tells where a room is.
    pub(in crate::shard) fn hear_at(
        &mut self,
        folded: &str,
        at: Option<(Arc<str>, Position)>,
        is_doubtful: bool,
    ) {
        let Some(key) = self.home.by_name.get(folded).copied() else { return };
        let entry = &mut self.home.rooms[key];
        let mine = entry.at();
        let Some(shared) = &mut entry.shared else { return };
        shared.is_away = false;
        if let Some((epoch, position)) = &at
            && *epoch == mine.epoch
        {
            shared.known = shared.known.max(*position);
        }
        match at {
            Some((epoch, position)) if !is_doubtful && epoch == mine.epoch && position == mine.position => {
                let is_waiting = shared.appending.is_some() || !shared.orders.is_empty();
                if is_waiting && !shared.is_catching_up {
                    self.pump(key);
                }
            }
            // Older news than what has been applied meanwhile, or a loss: the backplane decides.
            _ => self.bring_up_to_date(key),
        }
    }

    /// Entries of a room have come, announced or asked for.
    pub(in crate::shard) fn hear_entries(&mut self, folded: &str, epoch: &str, entries: Vec<LogEntry>) {
        let Some(key) = self.home.by_name.get(folded).copied() else { return };
        let entry = &mut self.home.rooms[key];
        if **entry.room.epoch() != *epoch {
            return self.bring_up_to_date(key);
        }
        // Looked at before any is applied: one that has to wait is not yet measured by those before it.
        let (node, room) = (self.node, &entry.room);
        let shared = entry.shared.as_ref();
        if shared.is_some_and(|shared| entries.iter().any(|told| shared.is_contradicted(told, room, node))) {
            return self.renew_contradicted(key);
        }
        // Whether it is their turn or not: they are there, and if they are not there any more, something is lost.
        if let Some(shared) = &mut entry.shared {
            shared.known = entries.iter().fold(shared.known, |known, entry| known.max(entry.position()));
        }
        self.apply_all(key, entries);
    }

    /// The missing entries have come, as far as one answer has place for them.
    pub(in crate::shard) fn hear_caught_up(
        &mut self,
        folded: &str,
        epoch: &str,
        outcome: Result<Vec<LogEntry>, Failed>,
    ) {
        let Some(key) = self.home.by_name.get(folded).copied() else { return };
        if let Some(shared) = &mut self.home.rooms[key].shared {
            shared.is_catching_up = false;
            shared.is_away &= outcome.is_err();
        }
        // The link tells again where the room is.
        let Ok(entries) = outcome else { return self.note_room_away(key) };
        self.hear_entries(folded, epoch, entries);
        self.pump(key);
    }

    /// Applies entries in their order, and keeps those whose turn has not come.
    pub(super) fn apply_all(&mut self, key: Id, entries: Vec<LogEntry>) {
        for entry in entries {
            self.apply_or_keep(key, entry);
        }
        // One at a time, because each may be what another waits for.
        loop {
            let Some(room) = self.home.rooms.get_mut(key) else { return };
            let offset = room.room.offset();
            let Some(shared) = &mut room.shared else { return };
            let change = shared.change;
            shared.early.retain(|entry| !is_over(entry, change, offset));
            let next = shared.early.iter().position(|entry| is_next(entry, change, offset));
            let Some(entry) = next.and_then(|index| shared.early.remove(index)) else { break };
            self.apply(key, entry);
        }
        let Some(shared) = self.home.rooms.get_mut(key).and_then(|entry| entry.shared.as_mut()) else {
            return;
        };
        if shared.is_draft {
            return;
        }
        if !shared.early.is_empty() {
            return self.bring_up_to_date(key);
        }
        self.append_orders(key);
        self.publish_waiting(key);
        self.keep_snapshot(key);
        self.consider_shared(key);
    }

    pub(super) fn apply_or_keep(&mut self, key: Id, entry: LogEntry) {
        let Some(room) = self.home.rooms.get_mut(key) else { return };
        let offset = room.room.offset();
        let Some(shared) = &mut room.shared else { return };
        let change = shared.change;
        if is_over(&entry, change, offset) {
            return;
        }
        if is_next(&entry, change, offset) {
            self.apply(key, entry);
        } else if shared.early.len() < EARLY_MAX {
            shared.early.push_back(entry);
        }
    }

    /// A place has been promised, and something has come there before its turn: perhaps it is another's.
    pub(super) fn look_at_early(&mut self, key: Id, is_there: impl Fn(&LogEntry) -> bool) {
        let Some(HomeRoom { room, shared: Some(shared), .. }) = self.home.rooms.get(key) else { return };
        let there = shared.early.iter().find(|entry| is_there(entry));
        if there.is_some_and(|entry| shared.is_contradicted(entry, room, self.node)) {
            self.renew_contradicted(key);
        }
    }

    /// Applies the entry whose turn it is. What is decided by time is decided by that of the entry, alike on every node.
    pub(super) fn apply(&mut self, key: Id, entry: LogEntry) {
        let now_ms = self.now.unix_ms;
        match entry {
            LogEntry::Message { position, timestamp_ms, message } => {
                self.apply_message(key, position.offset, timestamp_ms, message);
            }
            LogEntry::Change { position, timestamp_ms, node, tag, ops } => {
                self.now.unix_ms = timestamp_ms;
                self.apply_change(key, position.change, node, tag, ops);
                self.now.unix_ms = now_ms;
            }
        }
    }

    pub(super) fn apply_message(&mut self, key: Id, offset: u64, timestamp_ms: u64, message: SharedMessage) {
        let now_ms = self.now.unix_ms;
        let SharedMessage { sender, content, from, node, tag } = message;
        let entry = &mut self.home.rooms[key];
        if let Some(from) = from {
            entry.room.note_activity(from, timestamp_ms);
        }
        let mut deaf = None;
        if node == self.node
            && let Some(shared) = &mut entry.shared
        {
            let of_sent = shared.publishing.iter().find(|publishing| publishing.tag == tag);
            deaf = of_sent.and_then(|publishing| publishing.deaf);
            if let Some(unheard) = shared.unheard.iter().find(|unheard| unheard.tag == tag) {
                deaf = unheard.deaf;
            }
        }
        if let Some(shared) = &mut entry.shared {
            while shared.unheard.front().is_some_and(|unheard| unheard.offset <= offset) {
                shared.unheard.pop_front();
            }
        }
        let before = entry.room.history().bytes();
        entry.room.place(Stamp { offset, timestamp_ms }, sender.clone(), content.clone(), now_ms);
        let after = entry.room.history().bytes();
        self.home.history_bytes = self.home.history_bytes + after - before;
        let room = entry.room.name().clone();
        let event = Event::Message {
            room: room.as_str(),
            sender: sender.as_str(),
            content: &content,
            offset,
            timestamp: timestamp_ms,
        };
        self.note_event(key, &event, deaf.map(Deaf::Origin));
        self.bound_histories(key);
    }

    /// Keeps what the room is, after some changes of this node's.
    pub(super) fn keep_snapshot(&mut self, key: Id) {
        let now_ms = self.now.unix_ms;
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        let (at, members) = (entry.at(), entry.room.len() as u64);
        let Some(shared) = &mut entry.shared else { return };
        if self.nodes.down.is_some() {
            return;
        }
        let is_due = shared.change >= shared.kept_change + KEEP_EVERY.max(members);
        // Told by whoever has brought it about, so that not all nodes say the same.
        let has_changed = std::mem::take(&mut shared.has_own_change) && shared.told_members != members;
        if !is_due && !has_changed {
            return;
        }
        shared.told_members = members;
        if is_due {
            shared.kept_change = shared.change;
        }
        let text =
            |room: &Room| serde_json::to_string(&room.snapshot(now_ms)).expect("plain values become JSON");
        let snapshot = is_due.then(|| text(&entry.room));
        self.ask_backplane(BackplaneRequest::Keep(Box::new(Keep { at, members, snapshot })));
    }
}

impl Shared {
    /// Whether an entry cannot have its place in the room as this node knows it.
    fn is_contradicted(&self, entry: &LogEntry, room: &Room, node: NodeId) -> bool {
        let offset = room.offset();
        match entry {
            LogEntry::Change { position, node: of, tag, .. } if position.change > self.change => {
                let promised = self.promised.filter(|(change, _)| *change == position.change);
                let is_other = promised.is_some_and(|(_, mine)| (mine, node) != (*tag, *of));
                position.offset < offset || is_other
            }
            LogEntry::Change { position, node, tag, .. } => {
                let since = (self.change - position.change) as usize;
                let known = self.recent.iter().rev().nth(since);
                known.is_some_and(|known| *known != (*node, *tag))
            }
            LogEntry::Message { position, message, .. } if position.offset > offset => {
                let promised = self.unheard.iter().find(|unheard| unheard.offset == position.offset);
                let is_other =
                    promised.is_some_and(|unheard| (unheard.tag, node) != (message.tag, message.node));
                position.change < self.change || is_other
            }
            LogEntry::Message { position, timestamp_ms, message } => {
                let known = room.history().after(position.offset - 1).next();
                known.filter(|known| known.offset == position.offset).is_some_and(|known| {
                    let said = (known.timestamp_ms, &known.sender, &known.content);
                    said != (*timestamp_ms, &message.sender, &message.content)
                })
            }
        }
    }
}

/// Whether an entry has been applied.
fn is_over(entry: &LogEntry, change: u64, offset: u64) -> bool {
    match entry {
        LogEntry::Message { position, .. } => position.offset <= offset,
        LogEntry::Change { position, .. } => position.change <= change,
    }
}

/// Whether it is an entry's turn.
fn is_next(entry: &LogEntry, change: u64, offset: u64) -> bool {
    match entry {
        LogEntry::Message { position, .. } => position.offset == offset + 1 && position.change <= change,
        LogEntry::Change { position, .. } => position.change == change + 1 && position.offset <= offset,
    }
}
