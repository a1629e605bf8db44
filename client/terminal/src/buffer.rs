//! A room, a private conversation, or what the client itself says: its lines, members and what is unread.

use std::collections::VecDeque;
use std::time::Duration;

use starling_client::Ticket;
use starling_client::wire::{Change, Member, Role};

/// How many lines are kept, unless somebody reads further up.
pub const LINES_MAX: usize = 5_000;

/// And if he does.
const LINES_MAX_READ: usize = 50_000;

/// For how long somebody is said to be typing.
const TYPING: Duration = Duration::from_secs(4);

/// What a buffer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What the client itself says, and admins.
    Server,
    /// A room.
    Room,
    /// One person.
    Private,
}

/// What has become of one's own message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Own {
    /// It waits.
    Queued,
    /// It is under way.
    Sent,
    /// The server has it.
    Acknowledged,
    /// It is not there, as far as one knows; and why.
    Failed(String),
}

impl Own {
    /// Whether something more will be heard of it.
    pub fn is_open(&self) -> bool {
        matches!(self, Own::Queued | Own::Sent)
    }
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Somebody has said something.
    Message {
        /// Who.
        sender: String,
        /// What; harmless.
        content: String,
        /// Whether one's nickname is in it.
        is_mention: bool,
        /// If it is one's own of this run: what has become of it.
        own: Option<Own>,
    },
    /// Something has happened.
    Notice(String),
    /// Something has gone wrong.
    Trouble(String),
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its name within the client.
    pub id: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Which of the room's histories it stands in, and where.
    pub place: Option<(u32, u64)>,
    /// What it says.
    pub what: What,
}

impl Line {
    fn is_open(&self) -> bool {
        matches!(&self.what, What::Message { own: Some(own), .. } if own.is_open())
    }
}

/// What is known of the messages before the first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Older {
    /// They can be asked for.
    Unknown,
    /// They have been.
    Asked(Ticket),
    /// There are none.
    None,
}

/// Where the lowest visible row is, if it is not the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// The line.
    pub line: u64,
    /// How many of its rows are below.
    pub below: usize,
}

/// A buffer.
#[derive(Debug)]
pub struct Buffer {
    /// Its name within the client.
    pub id: u64,
    /// What it is about.
    pub kind: Kind,
    /// The room or the person.
    pub name: String,
    /// Which one was shown when somebody opened it.
    pub opened_from: Option<u64>,
    /// Its lines, the oldest first.
    pub lines: VecDeque<Line>,
    /// The history that offsets count in, and the how manieth that is.
    epoch: Option<String>,
    generation: u32,
    /// How many messages have not been seen.
    pub unread: usize,
    /// How many of them are for oneself.
    pub mentions: usize,
    /// The first line that had not been seen when one came.
    pub new_from: Option<u64>,
    /// The room's topic.
    pub topic: String,
    /// Who is there, as far as is known; sorted.
    pub members: Vec<Member>,
    /// How many are there.
    pub total: u64,
    /// Who is typing, and until when.
    pub typing: Vec<(String, Duration)>,
    /// Where it is scrolled to.
    pub scroll: Option<Anchor>,
    /// What is known of the messages before.
    pub older: Older,
    /// Whether one is in the room.
    pub is_joined: bool,
}

impl Buffer {
    /// An empty one.
    pub fn new(id: u64, kind: Kind, name: &str) -> Buffer {
        Buffer {
            id,
            kind,
            name: name.to_owned(),
            opened_from: None,
            lines: VecDeque::new(),
            epoch: None,
            generation: 0,
            unread: 0,
            mentions: 0,
            new_from: None,
            topic: String::new(),
            members: Vec::new(),
            total: 0,
            typing: Vec::new(),
            scroll: None,
            older: if kind == Kind::Room { Older::Unknown } else { Older::None },
            is_joined: false,
        }
    }

    /// From here on offsets count in this history. Whether it is another one than before.
    pub fn set_epoch(&mut self, epoch: &str) -> bool {
        if self.epoch.as_deref() == Some(epoch) {
            return false;
        }
        let is_new = self.epoch.replace(epoch.to_owned()).is_some();
        self.generation += 1;
        is_new
    }

    /// The place of an offset, if it counts in the history of now.
    pub fn place(&self, epoch: &str, offset: u64) -> Option<(u32, u64)> {
        (self.epoch.as_deref() == Some(epoch)).then_some((self.generation, offset))
    }

    /// The first message that is here.
    pub fn first_offset(&self) -> Option<u64> {
        let of_now = |line: &Line| line.place.filter(|(generation, _)| *generation == self.generation);
        self.lines.iter().find_map(of_now).map(|(_, offset)| offset)
    }

    /// Puts a line where it belongs: messages by their places, what waits behind all others. Whether it was not there yet.
    pub fn put(&mut self, line: Line) -> bool {
        let mut at = self.lines.len();
        while let Some(before) = at.checked_sub(1).map(|before| &self.lines[before]) {
            let is_later = match (line.place, before.place) {
                (Some(place), Some(other)) if place == other => return false,
                (Some(place), Some(other)) => other > place,
                _ => before.is_open() && !line.is_open(),
            };
            if !is_later {
                break;
            }
            at -= 1;
        }
        self.lines.insert(at, line);
        self.shorten();
        true
    }

    /// Puts older messages before all others; whether there were any.
    pub fn put_older(&mut self, older: Vec<Line>) -> bool {
        let first = self.lines.iter().find_map(|line| line.place);
        let mut any = false;
        for line in older.into_iter().rev() {
            if line.place.is_some() && first.is_none_or(|first| line.place < Some(first)) {
                self.lines.push_front(line);
                any = true;
            }
        }
        any
    }

    /// Takes the oldest lines away, if there are too many.
    fn shorten(&mut self) {
        let most = if self.scroll.is_some() { LINES_MAX_READ } else { LINES_MAX };
        while self.lines.len() > most {
            // What waits is not forgotten.
            if self.lines.front().is_some_and(Line::is_open) {
                return;
            }
            let gone = self.lines.pop_front();
            if gone.is_some_and(|line| line.place.is_some())
                && self.kind == Kind::Room
                && self.older == Older::None
            {
                self.older = Older::Unknown;
            }
        }
    }

    /// The line of this name.
    pub fn line(&self, id: u64) -> Option<usize> {
        self.lines.iter().rposition(|line| line.id == id)
    }

    /// What has become of one's own message. If it has a place now, it goes there; if the room has been heard to say it, it is gone.
    pub fn settle(&mut self, id: u64, own: Own, place: Option<(u32, u64)>, at_ms: Option<u64>) {
        let Some(at) = self.line(id) else { return };
        let line = &mut self.lines[at];
        if let What::Message { own: was, .. } = &mut line.what {
            *was = Some(own.clone());
        }
        if own.is_open() {
            return;
        }
        let Some(mut line) = self.lines.remove(at) else { return };
        if let Some(at_ms) = at_ms {
            line.at_ms = at_ms;
        }
        line.place = place;
        let anchor = self.scroll.filter(|anchor| anchor.line == id);
        if !self.put(line) {
            let twin = self.lines.iter_mut().rfind(|line| line.place == place);
            if let Some(Line { id: twin, what: What::Message { own: was, .. }, .. }) = twin {
                *was = Some(own);
                if let Some(anchor) = anchor {
                    self.scroll = Some(Anchor { line: *twin, ..anchor });
                }
            }
        }
    }

    /// One has seen it.
    pub fn seen(&mut self) {
        self.unread = 0;
        self.mentions = 0;
    }

    /// Who has spoken here, the last one first.
    pub fn speakers(&self) -> Vec<&str> {
        let mut speakers: Vec<&str> = Vec::new();
        for line in self.lines.iter().rev().take(300) {
            if let What::Message { sender, .. } = &line.what
                && !speakers.contains(&sender.as_str())
            {
                speakers.push(sender);
            }
        }
        speakers
    }

    /// Who types now.
    pub fn typists(&self, now: Duration) -> Vec<&str> {
        self.typing.iter().filter(|(_, until)| now < *until).map(|(nickname, _)| nickname.as_str()).collect()
    }

    /// Somebody types.
    pub fn types(&mut self, nickname: &str, now: Duration) {
        self.typing.retain(|(other, until)| other != nickname && now < *until);
        self.typing.push((nickname.to_owned(), now + TYPING));
    }

    /// A page of members; the first one begins anew.
    pub fn set_members(&mut self, page: Vec<Member>, total: u64, is_first: bool) {
        if is_first {
            self.members.clear();
        }
        self.members.extend(page);
        self.total = total;
        self.sort_members();
    }

    fn sort_members(&mut self) {
        let rank = |role: Role| match role {
            Role::Host => 0,
            Role::Guest => 2,
            _ => 1,
        };
        self.members.sort_by_cached_key(|member| (rank(member.role), member.nickname.to_lowercase()));
        self.members.dedup_by(|a, b| a.nickname == b.nickname);
    }

    fn member(&mut self, nickname: &str) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.nickname == nickname)
    }

    fn come(&mut self, nickname: &str) {
        if self.member(nickname).is_none() {
            // The struct may get more fields, and cannot be made of them here.
            let value = starling_client::serde_json::json!({"nickname": nickname, "connected": true});
            if let Ok(member) = starling_client::serde_json::from_value(value) {
                self.members.push(member);
            }
        }
    }

    /// Somebody came, went or changed; and what is to be told of it.
    pub fn change(&mut self, change: &Change) -> Option<String> {
        let told = match change {
            Change::Join { nickname } => {
                if self.member(nickname).is_none() {
                    self.total += 1;
                }
                self.come(nickname);
                Some(format!("{nickname} joined"))
            }
            Change::Leave { nickname, reason } => {
                self.members.retain(|member| member.nickname != *nickname);
                self.typing.retain(|(other, _)| other != nickname);
                self.total = self.total.saturating_sub(1);
                Some(match reason.as_str() {
                    "kicked" => format!("{nickname} was put out"),
                    "banned" => format!("{nickname} was banned"),
                    "" | "left" => format!("{nickname} left"),
                    reason => format!("{nickname} left ({reason})"),
                })
            }
            Change::Away { nickname } | Change::Back { nickname } => {
                let is_back = matches!(change, Change::Back { .. });
                if let Some(member) = self.member(nickname) {
                    member.connected = is_back;
                }
                None
            }
            Change::Nick { nickname, from } => {
                if let Some(member) = self.member(from) {
                    member.nickname.clone_from(nickname);
                }
                Some(format!("{from} is {nickname} now"))
            }
            Change::Role { nickname, role } => {
                if let Some(member) = self.member(nickname) {
                    member.role = *role;
                }
                let role = match role {
                    Role::Host => "a host",
                    Role::Guest => "a guest, who may only read",
                    _ => "a member",
                };
                Some(format!("{nickname} is {role} now"))
            }
            Change::Mute { nickname } => Some(format!("{nickname} may not speak for now")),
            Change::Unmute { nickname } => Some(format!("{nickname} may speak again")),
            Change::Batch { joined, left, members } => {
                for nickname in joined {
                    self.come(nickname);
                }
                self.members.retain(|member| !left.contains(&member.nickname));
                self.total = *members;
                None
            }
            _ => None,
        };
        self.sort_members();
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u64, place: Option<u64>, own: Option<Own>) -> Line {
        let what = What::Message { sender: "a".into(), content: format!("{id}"), is_mention: false, own };
        Line { id, at_ms: 0, place: place.map(|offset| (1, offset)), what }
    }

    fn room() -> Buffer {
        let mut buffer = Buffer::new(1, Kind::Room, "den");
        assert!(!buffer.set_epoch("e"));
        buffer
    }

    fn ids(buffer: &Buffer) -> Vec<u64> {
        buffer.lines.iter().map(|line| line.id).collect()
    }

    #[test]
    fn messages_stand_by_their_places_and_what_waits_is_last() {
        let mut buffer = room();
        buffer.put(line(1, Some(5), None));
        buffer.put(line(2, None, Some(Own::Queued)));
        buffer.put(line(3, Some(7), None));
        buffer.put(line(4, Some(6), None));
        buffer.put(line(5, None, Some(Own::Queued)));
        assert!(!buffer.put(line(6, Some(6), None)));
        assert_eq!(ids(&buffer), [1, 4, 3, 2, 5]);
        buffer.put(Line { what: What::Notice("x".into()), ..line(7, None, None) });
        assert_eq!(ids(&buffer), [1, 4, 3, 7, 2, 5]);
        assert!(buffer.put_older(vec![
            line(8, Some(3), None),
            line(9, Some(4), None),
            line(10, Some(5), None)
        ]));
        assert_eq!(ids(&buffer), [8, 9, 1, 4, 3, 7, 2, 5]);
        assert_eq!(buffer.first_offset(), Some(3));
    }

    #[test]
    fn ones_own_message_stands_once_whatever_comes_first() {
        let mut buffer = room();
        buffer.put(line(1, None, Some(Own::Queued)));
        buffer.settle(1, Own::Sent, None, None);
        buffer.settle(1, Own::Acknowledged, Some((1, 5)), Some(9));
        assert!(!buffer.put(line(2, Some(5), None)));
        buffer.put(line(3, None, Some(Own::Queued)));
        buffer.put(line(4, Some(6), None));
        buffer.settle(3, Own::Acknowledged, Some((1, 6)), None);
        assert_eq!(ids(&buffer), [1, 4]);
        let acknowledged =
            |line: &Line| matches!(&line.what, What::Message { own: Some(Own::Acknowledged), .. });
        assert!(buffer.lines.iter().all(acknowledged));
    }

    #[test]
    fn old_lines_go_but_not_what_waits() {
        let mut buffer = room();
        buffer.older = Older::None;
        for id in 0..LINES_MAX as u64 + 10 {
            buffer.put(line(id, Some(id + 1), None));
        }
        assert_eq!(
            (buffer.lines.len(), buffer.first_offset(), buffer.older),
            (LINES_MAX, Some(11), Older::Unknown)
        );
    }

    #[test]
    fn a_history_that_begins_afresh_is_told_from_the_one_before() {
        let mut buffer = room();
        buffer.put(line(1, Some(5), None));
        assert!(buffer.set_epoch("f"));
        assert_eq!((buffer.place("e", 1), buffer.place("f", 1)), (None, Some((2, 1))));
        buffer.put(Line { place: Some((2, 1)), ..line(2, None, None) });
        assert_eq!((ids(&buffer), buffer.first_offset()), (vec![1, 2], Some(1)));
    }

    #[test]
    fn members_come_go_and_change() {
        let mut buffer = room();
        let join = |nickname: &str| Change::Join { nickname: nickname.into() };
        assert_eq!(buffer.change(&join("bob")).as_deref(), Some("bob joined"));
        buffer.change(&join("Alice"));
        buffer.change(&Change::Role { nickname: "bob".into(), role: Role::Host });
        buffer.change(&Change::Away { nickname: "bob".into() });
        assert_eq!(
            (buffer.members[0].nickname.as_str(), buffer.members[0].connected, buffer.total),
            ("bob", false, 2)
        );
        buffer.change(&Change::Nick { nickname: "rob".into(), from: "bob".into() });
        assert_eq!(buffer.members[0].nickname, "rob");
        buffer.change(&Change::Leave { nickname: "rob".into(), reason: "left".into() });
        assert_eq!((buffer.members.len(), buffer.total), (1, 1));
    }
}
