//! Rooms whose server does not answer, although the backplane is not down: that of a Redis Cluster which has them is away.
//!
//! Whoever wants to change such a room is told at once that it cannot be, and what cannot be refused is kept, as while all of the backplane
//! is down. Each such wish has it tried again, as the link does from time to time; the first answer ends it.

use crate::base::slots::Id;
use crate::shard::Shard;

impl Shard {
    /// Something that was asked for a room was not answered.
    pub(super) fn note_room_away(&mut self, key: Id) {
        if let Some(shared) = self.home.rooms.get_mut(key).and_then(|entry| entry.shared.as_mut()) {
            shared.is_away = true;
            self.answer_orders(key);
        }
    }

    /// The link could not find out where a room is.
    pub(in crate::shard) fn hear_unseen(&mut self, folded: &str) {
        if let Some(key) = self.home.by_name.get(folded).copied() {
            self.note_room_away(key);
        }
    }

    /// Asks for what a room is now, if it did not answer.
    pub(super) fn try_room_again(&mut self, key: Id) {
        let shared = self.home.rooms.get(key).and_then(|entry| entry.shared.as_ref());
        if self.nodes.down.is_none() && shared.is_some_and(|shared| shared.is_away) {
            self.bring_up_to_date(key);
        }
    }

    /// The backplane is back after it has been down: of no room it is known that it is away.
    pub(in crate::shard) fn forget_rooms_away(&mut self) {
        for key in self.home.by_name.values() {
            if let Some(shared) = self.home.rooms.get_mut(*key).and_then(|entry| entry.shared.as_mut()) {
                shared.is_away = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use crate::base::slots::Id;
    use crate::config::{Config, ListenKind};
    use crate::shard::Shard;
    use crate::shard::backplane::{
        BackplaneNews, BackplaneRequest, ClaimOutcome, Failed, LogEntry, OpenedRoom, Position, RoomOp,
    };
    use crate::shard::mail::Mail;
    use crate::shard::nodes::alone::{core_of_a_node, next_requests};

    /// A core with a member of a room, and a backplane that does at once what it is asked, or fails at that for this room.
    struct Alone {
        shard: Shard,
        ann: Id,
        change: u64,
        is_away: bool,
        ops: Vec<RoomOp>,
    }

    impl Alone {
        fn new() -> Self {
            let mut shard = core_of_a_node(Config::default());
            let ann = shard.open([127, 0, 0, 1].into(), ListenKind::Line);
            let mut alone = Alone { shard, ann, change: 0, is_away: false, ops: Vec::new() };
            alone.say(r#"{"type":"hello","nickname":"ann"}"#);
            alone.say(r#"{"type":"join","room":"den"}"#);
            assert!(matches!(alone.ops[..], [RoomOp::Join { .. }]), "{:?}", alone.ops);
            alone
        }

        fn say(&mut self, line: &str) {
            self.shard.receive(self.ann, &mut format!("{line}\n").into_bytes());
            self.settle();
        }

        fn settle(&mut self) {
            while let Some(requests) = next_requests(&mut self.shard) {
                requests.into_iter().for_each(|request| self.answer(request));
            }
        }

        fn tell(&mut self, news: BackplaneNews) {
            self.shard.mail(Mail::Backplane(news));
        }

        fn answer(&mut self, request: BackplaneRequest) {
            let position = Position { change: self.change, offset: 0 };
            let news = match request {
                BackplaneRequest::Claim { wait, nickname, session, .. } => {
                    BackplaneNews::Claimed { wait, nickname, session, outcome: Ok(ClaimOutcome::Granted) }
                }
                BackplaneRequest::Open { room, make } => {
                    let (epoch, folded) = (make.unwrap_or_else(|| "e".into()), room.folded().into());
                    let opened = OpenedRoom {
                        room,
                        epoch,
                        position,
                        timestamp_ms: 0,
                        first_kept: 1,
                        snapshot: None,
                        entries: Vec::new(),
                        is_doubtful: false,
                    };
                    let outcome = Ok(Some(Box::new(opened)));
                    BackplaneNews::Opened { room: folded, outcome, is_catch_up: false }
                }
                BackplaneRequest::Append(append) if self.is_away => {
                    let (room, epoch, tag) = (append.at.room, append.at.epoch, append.tag);
                    BackplaneNews::Appended { room, epoch, tag, outcome: Err(Failed::Down) }
                }
                BackplaneRequest::Append(append) => {
                    self.change += 1;
                    let position = Position { change: self.change, offset: 0 };
                    let (room, epoch, tag) = (append.at.room, append.at.epoch, append.tag);
                    self.ops.extend(append.ops.iter().cloned());
                    let entry = LogEntry::Change { position, timestamp_ms: 0, node: 7, tag, ops: append.ops };
                    let (heard, of) = (room.clone(), epoch.clone());
                    self.tell(BackplaneNews::Appended { room, epoch, tag, outcome: Ok(position) });
                    BackplaneNews::Entries { room: heard, epoch: of, entries: vec![entry] }
                }
                BackplaneRequest::CatchUp(at) => {
                    let outcome = if self.is_away { Err(Failed::Down) } else { Ok(Vec::new()) };
                    BackplaneNews::CaughtUp { room: at.room, epoch: at.epoch, outcome }
                }
                _ => return,
            };
            self.tell(news);
        }

        /// What was answered to the command with this id, if it was.
        fn answered(&self, id: &str) -> Option<String> {
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = self.shard.gather(self.ann, &mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            let heard = String::from_utf8(bytes).unwrap();
            heard.lines().find(|line| line.contains(&format!("\"id\":\"{id}\""))).map(str::to_owned)
        }

        fn set(&mut self, id: &str) -> Option<String> {
            self.say(&format!(r#"{{"type":"state","room":"den","key":"k","value":1,"id":"{id}"}}"#));
            self.answered(id)
        }
    }

    #[test]
    fn whoever_changes_a_room_that_is_away_is_answered_each_time() {
        let mut alone = Alone::new();
        alone.is_away = true;
        for id in ["1", "2", "3"] {
            let answer = alone.set(id).expect("an answer at once");
            assert!(answer.contains("backplane_down"), "{answer}");
        }
        alone.say(r#"{"type":"leave","room":"den","id":"4"}"#);
        assert!(alone.answered("4").is_some_and(|answer| answer.contains("\"type\":\"left\"")));
        alone.is_away = false;
        // Whatever is asked next finds that it is back, and what waits has its place first.
        alone.say(r#"{"type":"join","room":"den","id":"5"}"#);
        let has_left = |op: &RoomOp| matches!(op, RoomOp::Leave { .. });
        assert!(alone.ops.iter().any(has_left), "{:?}", alone.ops);
        alone.say(r#"{"type":"join","room":"den","id":"6"}"#);
        assert!(alone.answered("6").is_some_and(|answer| answer.contains("\"type\":\"joined\"")));
        assert!(alone.set("7").is_some_and(|answer| answer.contains("\"type\":\"ack\"")));
    }

    #[test]
    fn a_change_that_has_its_place_and_is_not_heard_of_is_not_waited_for_while_the_room_is_away() {
        let mut alone = Alone::new();
        alone.shard.receive(
            alone.ann,
            &mut b"{\"type\":\"state\",\"room\":\"den\",\"key\":\"k\",\"value\":1,\"id\":\"1\"}\n".to_vec(),
        );
        let mail: Vec<Mail> = alone.shard.outboxes().iter_mut().flat_map(std::mem::take).collect();
        for mail in mail {
            match mail {
                Mail::BackplaneRequest { request: BackplaneRequest::Append(append), .. } => {
                    let (room, epoch, tag) = (append.at.room, append.at.epoch, append.tag);
                    let outcome = Ok(Position { change: 2, offset: 0 });
                    alone.tell(BackplaneNews::Appended { room, epoch, tag, outcome });
                }
                Mail::BackplaneRequest { .. } => {}
                mail => alone.shard.mail(mail),
            }
        }
        assert_eq!(alone.answered("1"), None);
        alone.tell(BackplaneNews::Unseen { room: "den".into() });
        alone.settle();
        assert!(alone.answered("1").is_some_and(|answer| answer.contains("backplane_down")));
    }
}
