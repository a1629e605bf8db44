//! What an admin says to all nodes, or has all of them do: broadcasts, and the end of a user's sessions and event streams.
//!
//! Each core of each node that lives does it and says so; when all have, it is done. The sessions that lost nodes had are held by the
//! backplane alone, which is asked last.

use super::super::backplane::{Ask, BackplaneRequest, Failed, NodeMessage, RoomOp};
use super::super::journal::Asker;
use super::super::mail::{Broadcast, Reply};
use super::super::reading::Awaited;
use super::Shard;
use crate::base::slots::Id;
use crate::chat::name::Nickname;
use crate::chat::pattern::Patterns;
use crate::chat::refusal::{LeaveReason, Reason, Refusal};
use crate::chat::user::{NodeId, SessionRef};

/// What an admin says to all, on its way to the other nodes.
#[derive(Debug)]
pub(in crate::shard) struct Spoken {
    asker: Asker,
    /// How many have been reached: sessions, and event streams if they are ended.
    reached: u64,
    /// Whose sessions and event streams are ended, if that is what is done.
    putting_out: Option<Nickname>,
    /// Whether the backplane has not taken it for some node.
    pub(super) is_refused: bool,
    /// Nodes that have not answered wholly, and how many of their cores have.
    pub(super) open: Vec<(NodeId, u16)>,
}

impl Shard {
    /// Has the other nodes say something to their sessions; `sessions` have heard it here.
    pub(in crate::shard) fn speak_to_others(&mut self, asker: Asker, sessions: u64, broadcast: &Broadcast) {
        let Broadcast { sender, content, rooms, tags, timestamp_ms } = broadcast;
        self.tell_others(
            Spoken { asker, reached: sessions, open: Vec::new(), putting_out: None, is_refused: false },
            |ask| NodeMessage::Broadcast {
                ask,
                sender: sender.clone(),
                content: content.clone(),
                rooms: rooms.as_ref().map(Patterns::written).unwrap_or_default(),
                tags: tags.clone(),
                timestamp_ms: *timestamp_ms,
            },
        );
    }

    /// Has the other nodes end a user's sessions and event streams; so many have been `ended` here.
    pub(in crate::shard) fn put_out_elsewhere(&mut self, asker: Asker, ended: u64, nickname: Nickname) {
        let putting_out = Some(nickname.clone());
        let spoken = Spoken { asker, reached: ended, open: Vec::new(), putting_out, is_refused: false };
        let lost = self.lost_lately();
        self.tell_others(spoken, |ask| NodeMessage::PutOut { ask, nickname, lost });
    }

    fn tell_others(&mut self, mut spoken: Spoken, message: impl FnOnce(Ask) -> NodeMessage) {
        let others = self.nodes.living.iter().filter(|node| **node != self.node);
        spoken.open = others.map(|node| (*node, 0)).collect();
        if spoken.open.is_empty() || self.nodes.down.is_some() {
            return self.finish_spoken(spoken);
        }
        let wait = self.wait_for_store(Awaited::Spoken(Box::new(spoken)));
        let message = message(Ask { core: self.core, wait });
        self.ask_backplane(BackplaneRequest::TellAll { message: Box::new(message) });
    }

    pub(super) fn hear_broadcast_done(&mut self, node: NodeId, wait: Id, reached: u64, cores: u16) {
        let Some(Awaited::Spoken(spoken)) = self.awaited_mut(wait) else { return };
        spoken.reached += reached;
        for open in spoken.open.iter_mut().filter(|(of, _)| *of == node) {
            open.1 += 1;
        }
        spoken.open.retain(|(of, answered)| *of != node || *answered < cores);
        if spoken.open.is_empty()
            && let Some(Awaited::Spoken(spoken)) = self.end_wait(wait)
        {
            self.finish_spoken(*spoken);
        }
    }

    /// All nodes have answered, or their time is over.
    pub(in crate::shard) fn finish_spoken(&mut self, spoken: Spoken) {
        let Spoken { asker, reached, open, putting_out, is_refused } = spoken;
        let reply = match putting_out {
            // Perhaps somebody has not heard it who is connected.
            _ if is_refused || (!open.is_empty() && self.nodes.down.is_some()) => {
                Reply::Refused(self.backplane_down())
            }
            _ if !open.is_empty() => {
                let message = format!(
                    "{} of the other nodes do not answer; {reached} sessions were reached",
                    open.len()
                );
                Reply::Refused(Refusal::with_retry(Reason::Unavailable, message, 1000))
            }
            // All that live have done it. Those of nodes that are lost are held by the backplane alone.
            Some(nickname) if self.is_clustered() => {
                let wait = self.wait_for_store(Awaited::PutOut { asker, ended: reached });
                return self.ask_backplane(BackplaneRequest::PutOut { wait, nickname });
            }
            Some(_) => Reply::PutOut { ended: reached },
            None => Reply::Heard { sessions: reached },
        };
        self.reply_to_asker(asker, reply);
    }

    /// The backplane has ended what lost nodes had, or has not.
    pub(super) fn hear_put_out(&mut self, asker: Asker, ended: u64, outcome: Result<u64, Failed>) {
        let reply = match outcome {
            Ok(lost) => {
                self.counters.put_out.add(lost);
                Reply::PutOut { ended: ended + lost }
            }
            Err(_) => Reply::Refused(self.backplane_down()),
        };
        self.reply_to_asker(asker, reply);
    }

    /// A user has been put out: whoever had the nickname on a node that is lost leaves this core's rooms. Others may know better than this
    /// node which those are: who was there would be away, and have its time of grace.
    pub(in crate::shard) fn put_lost_members_out(&mut self, nickname: &Nickname, lost: &[NodeId]) {
        let (living, own) = (self.nodes.living.clone(), self.node);
        let mut orders = Vec::new();
        for key in self.home.by_name.values() {
            let member = self.home.rooms.get(*key).and_then(|e| e.room.member_named(nickname.folded()));
            let is_lost =
                |at: &SessionRef| at.node != own && (lost.contains(&at.node) || !living.contains(&at.node));
            let lost = member.into_iter().flat_map(|member| member.sessions()).filter(is_lost);
            orders.extend(lost.map(|session| (*key, RoomOp::Leave { session, reason: LeaveReason::Lost })));
        }
        for (key, op) in orders.into_iter().filter(|_| !living.is_empty()) {
            if !self.is_ordered(key, &op) {
                self.order(key, op, None);
            }
        }
    }
}
