//! What all clients know together: who said what where, and who may have which nickname. Each client compares what it
//! hears with this, and adds to it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use starling::config::AckLevel;
use starling::proto::text;

use crate::coverage::Tally;
use crate::moderation::Bench;
use crate::store::Ledger;

/// The knowledge of all clients.
#[derive(Default)]
pub struct Model {
    /// Counts the steps of the run: when something was said, or heard.
    pub moment: u64,
    /// The messages of each room and epoch, by offset.
    pub logs: BTreeMap<(String, String), BTreeMap<u64, Entry>>,
    /// The epochs whose first member is known.
    begun: BTreeSet<(String, String)>,
    pub said: BTreeMap<String, Said>,
    holdings: BTreeMap<String, Vec<Holding>>,
    /// Every nickname that a client has asked for, as it wrote it.
    names: BTreeMap<usize, Vec<String>>,
    /// What hosts have done.
    pub bench: Bench,
    pub is_draining: bool,
    /// The connections up to this one were of servers that have drained.
    pub drained_conns: usize,
    pub has_jumped: bool,
    /// Those who have had more than one connection: what they have asked for may happen unknown to them.
    pub losers: BTreeSet<usize>,
    /// What the store has.
    pub store: Ledger,
    /// How often the server was started again, and when messages were lost by it last, if ever.
    pub restarts: u64,
    pub lost_at: Option<u64>,
    /// The epochs of rooms that have others now, because messages were lost.
    pub dead_epochs: BTreeSet<String>,
    /// Those of rooms that were lost, or had ended before.
    pub lost_rooms: BTreeSet<String>,
    /// The changes of the rooms' states, by epoch and version.
    pub states: BTreeMap<(String, String), BTreeMap<u64, (String, Value)>>,
    /// How often things happened that only clients know of.
    pub counts: BTreeMap<&'static str, u64>,
    /// What of the protocol was said and heard.
    pub tally: Tally,
}

/// One message as a room has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub sender: String,
    pub content: String,
    pub timestamp: u64,
}

/// Something that a client has said.
#[derive(Debug)]
pub struct Said {
    pub author: usize,
    /// When it was said first.
    pub moment: u64,
    pub content: String,
    /// The room, where the client knew it; nothing for private messages.
    pub room: Option<String>,
    pub is_private: bool,
    /// Whether its author was a member when it was taken up. Not known of those who were gone by then.
    pub was_member: Option<bool>,
    /// Whether its author hears neither of an acknowledgement nor of itself.
    pub is_unheard: bool,
    /// The epoch and offset that it got.
    pub place: Option<(String, u64)>,
    /// The offset that it had before its room got another epoch: it is the same there.
    pub offset: Option<u64>,
    /// What its author was promised.
    pub acked: Option<AckLevel>,
    /// Whether a private message was said to be kept.
    pub is_kept: bool,
    /// Who has heard it, if it is private.
    pub receivers: Vec<usize>,
    pub was_delivered: bool,
    /// Whether it was heard on a connection whose client had gone on with another.
    pub was_heard_behind: bool,
    /// Whether it has been said again: that it was refused once does not mean that it always is.
    pub is_repeated: bool,
    pub target: String,
}

/// A time in which a client may have had a nickname: from when it asked until it knew that it has it no longer.
struct Holding {
    client: usize,
    since: u64,
    until: Option<u64>,
}

/// The part of a content that no other content has.
pub fn key_of(content: &str) -> &str {
    content.split(' ').next().expect("a split has a first part")
}

/// How a content looks on a terminal.
pub fn shown(content: &str) -> String {
    let mut out = Vec::new();
    text::put_text(&mut out, content);
    String::from_utf8(out).expect("text stays text")
}

pub fn fold(name: &str) -> String {
    starling::chat::name::fold(name).into_owned()
}

impl Said {
    /// It has this place, and no other.
    fn take_place(&mut self, epoch: &str, offset: u64) {
        let place = (epoch.to_owned(), offset);
        let known = self.place.get_or_insert(place.clone());
        assert_eq!(*known, place, "{:?} was published twice", self.content);
        assert!(
            self.offset.is_none_or(|known| known == offset),
            "{:?} was at {:?}",
            self.content,
            self.offset
        );
    }
}

impl Model {
    /// Whether the server of a connection drains, or has drained.
    pub fn may_drain(&self, conn: usize) -> bool {
        self.is_draining || conn < self.drained_conns
    }

    /// Messages that were lost were in another epoch.
    pub fn check_epoch(&self, epoch: &str) {
        assert!(!self.dead_epochs.contains(epoch), "the epoch {epoch} goes on, although messages were lost");
    }

    pub fn say(&mut self, said: Said) {
        let before = self.said.insert(key_of(&said.content).to_owned(), said);
        assert!(before.is_none(), "clients repeat themselves");
    }

    pub fn said(&mut self, content: &str) -> &mut Said {
        let key = key_of(content);
        self.said.get_mut(key).unwrap_or_else(|| panic!("nobody said {content:?}"))
    }

    /// A member hears, or a sender is told, that a room has a message at a place.
    pub fn place(&mut self, room: &str, epoch: &str, offset: u64, entry: Entry) {
        self.check_epoch(epoch);
        let said = self.said(&entry.content);
        assert_eq!(said.content, entry.content, "the content has changed");
        assert!(!said.is_private, "a private message was published: {entry:?}");
        assert!(
            said.room.as_deref().is_none_or(|said_in| said_in == room),
            "{entry:?} was said in another room than {room}"
        );
        assert_ne!(said.was_member, Some(false), "{entry:?} is from somebody who was not in {room}");
        said.take_place(epoch, offset);
        let (author, moment) = (said.author, said.moment);
        let mute = self.bench.sentence("mute", room, epoch, &fold(&entry.sender), moment);
        assert!(mute.is_none(), "{entry:?} was said in {room} in spite of {mute:?}");
        assert!(
            self.names[&author].contains(&entry.sender),
            "client {author} was never called {}",
            entry.sender
        );
        let log = self.logs.entry((room.to_owned(), epoch.to_owned())).or_default();
        if let Some(known) = log.get(&offset) {
            assert_eq!(*known, entry, "members do not agree about {room} {epoch} {offset}");
            return;
        }
        let before = log.range(..offset).next_back();
        let after = log.range(offset..).next();
        assert!(
            before.is_none_or(|(_, b)| b.timestamp <= entry.timestamp),
            "{before:?} is later than {entry:?}"
        );
        assert!(
            after.is_none_or(|(_, a)| a.timestamp >= entry.timestamp),
            "{entry:?} is later than {after:?}"
        );
        log.insert(offset, entry);
    }

    /// The answer to a message that was said again: there is but one place for it. Of one that is stored it is the first answer, although
    /// its room may have got another epoch since, and be gone.
    pub fn check_repeated(
        &mut self,
        content: &str,
        level: AckLevel,
        epoch: &str,
        offset: u64,
        timestamp: u64,
    ) {
        if level == AckLevel::Sequenced {
            self.check_epoch(epoch);
        }
        let said = self.said(content);
        said.take_place(epoch, offset);
        let room = said.room.clone().expect("programs know their rooms");
        let known = self.logs.get(&(room, epoch.to_owned())).and_then(|log| log.get(&offset));
        assert!(
            known.is_none_or(|known| known.content == content && known.timestamp == timestamp),
            "{known:?}"
        );
    }

    /// Somebody was the first member of a room.
    pub fn begin_epoch(&mut self, room: &str, epoch: &str) {
        let is_new = self.begun.insert((room.to_owned(), epoch.to_owned()));
        assert!(is_new, "the epoch {epoch} of {room} began twice");
    }

    /// Who said what is at an offset, where that is known.
    pub fn author_at(&self, room: &str, epoch: &str, offset: u64) -> Option<usize> {
        let entry = self.logs.get(&(room.to_owned(), epoch.to_owned()))?.get(&offset)?;
        Some(self.said[key_of(&entry.content)].author)
    }

    /// What was said at an offset, where that is known.
    pub fn content_at(&self, room: &str, epoch: &str, offset: u64) -> Option<String> {
        Some(self.logs.get(&(room.to_owned(), epoch.to_owned()))?.get(&offset)?.content.clone())
    }

    /// Counts something that a client has tried or heard.
    pub fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }

    /// Whether a client has ever asked for a nickname.
    pub fn has_asked_for(&self, client: usize, nickname: &str) -> bool {
        self.names.get(&client).is_some_and(|names| names.iter().any(|name| name == nickname))
    }

    /// The same, however it was written.
    pub fn has_asked_for_folded(&self, client: usize, folded: &str) -> bool {
        self.ever_asked_for(folded, |other| other == client)
    }

    /// Whether some client of a kind has ever asked for a nickname, however it wrote it.
    pub fn ever_asked_for(&self, folded: &str, is_of_kind: impl Fn(usize) -> bool) -> bool {
        self.holdings.get(folded).is_some_and(|holdings| holdings.iter().any(|h| is_of_kind(h.client)))
    }

    /// A client asks for a nickname, and may have it from now on.
    pub fn claim(&mut self, client: usize, nickname: &str) {
        self.names.entry(client).or_default().push(nickname.to_owned());
        let holding = Holding { client, since: self.moment, until: None };
        self.holdings.entry(fold(nickname)).or_default().push(holding);
    }

    /// A client knows that one of its claims has failed, or that it has given a nickname back.
    pub fn give_up(&mut self, client: usize, nickname: &str) {
        let moment = self.moment;
        let holdings = self.holdings.get_mut(&fold(nickname)).expect("claimed before");
        let holding = holdings.iter_mut().find(|h| h.client == client && h.until.is_none());
        match holding {
            Some(holding) => holding.until = Some(moment),
            None => assert!(self.losers.contains(&client), "client {client} never claimed {nickname}"),
        }
    }

    /// A client has no nickname any more, nor will get one.
    pub fn give_up_all(&mut self, client: usize) {
        for holding in self.holdings.values_mut().flatten().filter(|h| h.client == client) {
            holding.until.get_or_insert(self.moment);
        }
    }

    /// Somebody was refused a nickname that it asked for at `since`: somebody else must have had it.
    pub fn check_conflict(&self, client: usize, nickname: &str, since: u64) {
        let has_holder = self.holdings[&fold(nickname)].iter().any(|h| {
            (h.client != client || self.losers.contains(&client))
                && h.since <= self.moment
                && (h.until.is_none_or(|until| until >= since) || self.losers.contains(&h.client))
        });
        assert!(has_holder, "client {client} may not have the nickname {nickname}, which nobody has");
    }

    /// What must be true when everybody has heard everything.
    pub fn check_private(&self, is_gone: impl Fn(usize) -> bool) {
        for (key, said) in self.said.iter().filter(|(_, said)| said.is_private && said.was_delivered) {
            let holders = &self.holdings[&said.target];
            let may_be_lost = holders.iter().any(|h| is_gone(h.client));
            assert!(
                may_be_lost || said.was_heard_behind || said.receivers.len() == 1,
                "private {key} was delivered to {:?}",
                said.receivers
            );
        }
    }

    /// Checks that everything that was said by members who are still there has its place, and that they know it.
    pub fn check_own_messages(&self, is_there: impl Fn(usize) -> bool) {
        for (key, said) in self.said.iter().filter(|(_, said)| said.was_member == Some(true)) {
            let is_known = said.place.is_some() || said.is_unheard;
            assert!(is_known || !is_there(said.author), "{key} was said by a member and never published");
        }
    }
}
