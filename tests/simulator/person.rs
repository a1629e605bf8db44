//! What people read: one line an event. There are no ids and no offsets, so less can be checked than of programs: that
//! every line is of a kind that exists, and that messages come once, in order, and without a gap.

use crate::client::{Client, Membership};
use crate::coverage::Part;
use crate::kernel::Kernel;
use crate::model::{Model, fold, shown};

impl Client {
    pub fn hear_line(&mut self, kernel: &mut Kernel, model: &mut Model, line: &str) {
        assert!(self.bye.is_none(), "client {}: {line:?} after bye", self.number);
        kernel.trace.note(&[25, self.number as u64], || format!("client {} reads {line}", self.number));
        assert!(!line.contains(char::is_control), "{line:?}");
        if let Some(rest) = line.strip_prefix("! ") {
            let (code, rest) = rest.split_once(' ').expect("a code and a reason");
            self.read_refusal(kernel, model, code.parse().expect("a code is a number"), rest);
        } else if let Some(rest) = line.strip_prefix("* ") {
            self.read_answer(model, rest);
        } else if let Some(rest) = line.strip_prefix('[') {
            let (room, rest) = rest.split_once("] ").expect("a room in brackets");
            self.read_room(model, room, rest);
        } else {
            panic!("client {} reads {line:?}", self.number);
        }
    }

    fn read_refusal(&mut self, kernel: &mut Kernel, model: &mut Model, code: u16, rest: &str) {
        if code >= 1000 {
            model.tally.farewell(code);
            return self.hear_bye(kernel, model, code);
        }
        let reason = rest.split(':').next().expect("a split has a first part");
        if code == 400 {
            self.errors_400 += 1;
        }
        model.tally.count(Part::Reason, reason);
        assert!(reason != "rate_limited" || self.terms.has_rates);
        let is_turned_away =
            matches!(reason, "draining" | "rate_limited" | "store_down") && self.nickname.is_none();
        if reason == "nickname_in_use" || is_turned_away {
            // Lines that came behind a nickname that was refused have been taken for nicknames too, but are none.
            if let Some(name) = self.asked_names.pop_front() {
                if reason == "nickname_in_use" {
                    model.check_conflict(self.number, &name, 0);
                }
                model.give_up(self.number, &name);
            }
        }
    }

    fn read_answer(&mut self, model: &mut Model, rest: &str) {
        let taken = |client: &mut Client, name: &str| {
            assert_eq!(client.asked_names.pop_front().as_deref(), Some(name), "client {}", client.number);
            client.nickname = Some(name.to_owned());
        };
        if let Some(name) = rest.strip_prefix("welcome, ") {
            assert!(self.nickname.is_none());
            taken(self, name);
        } else if let Some(name) = rest.strip_prefix("you are now ") {
            let old = self.nickname.clone().expect("renamed after the hello");
            model.give_up(self.number, &old);
            taken(self, name);
        } else if let Some(room) = rest.strip_prefix("joined ") {
            let room = fold(room.split(": ").next().expect("a split has a first part"));
            assert!(self.rooms.insert(room, Membership::default()).is_none(), "joined twice: {rest}");
        } else if let Some(room) = rest.strip_prefix("left ") {
            let room = room.split(" (").next().expect("a split has a first part");
            let membership = self.rooms.remove(&fold(room)).expect("in the room that is left");
            self.check_order(model, &fold(room), &membership);
        }
    }

    fn read_room(&mut self, model: &mut Model, room: &str, rest: &str) {
        // What admins say to all.
        if room == "system" && self.terms.has_strangers {
            return;
        }
        if room == "private" {
            let (_, content) = rest.split_once(": ").expect("a sender and a text");
            let target = model.said(content).target.clone();
            assert_eq!(shown(&model.said(content).content), content);
            return self.hear_private(model, &target, content);
        }
        let room = fold(room);
        let Some(membership) = self.rooms.get_mut(&room) else {
            panic!("client {} is not in {room} and reads {rest}", self.number);
        };
        if rest.starts_with("* ") {
            return;
        }
        let (_, content) = rest.split_once(": ").expect("a sender and a text");
        let said = model.said(content);
        assert_eq!(shown(&said.content), content);
        assert!(said.room.as_deref().is_none_or(|said_in| said_in == room), "{said:?} was heard in {room}");
        assert_ne!(said.author, self.number, "people do not hear themselves");
        membership.contents.push(content.to_owned());
    }

    /// Checks that the contents heard in a room have no gap that is known of.
    pub fn check_order(&self, model: &mut Model, room: &str, membership: &Membership) {
        let mut before: Option<(String, u64)> = None;
        for content in &membership.contents {
            let Some((epoch, offset)) = model.said(content).place.clone() else { continue };
            if let Some((known_epoch, known)) = before {
                assert_eq!(known_epoch, epoch, "client {} heard two epochs of {room}", self.number);
                assert!(known < offset, "client {} heard {room} {offset} after {known}", self.number);
            }
            before = Some((epoch, offset));
        }
        let Some((epoch, last)) = before else { return };
        let heard = |model: &mut Model, content: &str| model.said(content).place.clone();
        let first = membership.contents.iter().find_map(|content| heard(model, content));
        let (_, first) = first.expect("there is a last one");
        for offset in first..=last {
            // Offsets of which nobody knows were heard by people only, or were their own.
            if let Some(content) = model.content_at(room, &epoch, offset)
                && model.said(&content).author != self.number
            {
                let was_heard = membership.contents.contains(&shown(&content));
                assert!(was_heard, "client {} has missed {room} {offset}", self.number);
            }
        }
    }
}
