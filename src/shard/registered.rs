//! Registered users at the homes of their nicknames: whose nicknames are reserved, and whose private messages wait in the store while they
//! are away.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shard;
use super::journal::{Asker, Pending};
use super::mail::{Reply, ReplyTo};
use super::reading::{StoreNews, StoreRequest};
use crate::base::slots::Id;
use crate::chat::inbox::Kept;
use crate::chat::name::Nickname;
use crate::chat::refusal::{Reason, Refusal};
use crate::chat::user::SessionRef;
use crate::config::AckLevel;
use crate::record::{Owner, Record, RestoredInbox, RestoredUser};

/// A registered user.
#[derive(Debug)]
pub struct Registered {
    name: Nickname,
    is_disabled: bool,
    last_offset: u64,
    /// The messages that wait, by place and bytes.
    waiting: VecDeque<(u64, usize)>,
    bytes: usize,
}

/// A private message in a user's inbox that is not in the store yet.
#[derive(Debug)]
pub(super) struct Unstored {
    /// The position in the journal behind it; `None` until it is there.
    pub end: Option<u64>,
    user: Nickname,
    kept: Kept,
}

impl Registered {
    /// One who was registered before the server was started.
    pub fn restored(user: &RestoredUser) -> Self {
        Registered {
            name: user.name.clone(),
            is_disabled: user.is_disabled,
            last_offset: user.last_offset,
            waiting: user.waiting.iter().copied().collect(),
            bytes: user.waiting.iter().map(|(_, bytes)| bytes).sum(),
        }
    }

    fn new(name: Nickname, is_disabled: bool) -> Self {
        Registered { name, is_disabled, last_offset: 0, waiting: VecDeque::new(), bytes: 0 }
    }

    fn received(&mut self, through: u64) {
        while let Some((_, bytes)) =
            super::journal::pop_if(&mut self.waiting, |(offset, _)| *offset <= through)
        {
            self.bytes -= bytes;
        }
    }
}

impl Shard {
    /// Whether a nickname is reserved for somebody else.
    ///
    /// # Errors
    /// `nickname_in_use` to guests; `bad_credentials` to users that have been disabled.
    pub(super) fn check_registered(&self, nickname: &Nickname, has_token: bool) -> Result<(), Refusal> {
        match self.home.registered.get(nickname.folded()) {
            Some(_) if !has_token => {
                let message = "this nickname is registered: log in, and say hello with the token";
                Err(Refusal::new(Reason::NicknameInUse, message))
            }
            Some(Registered { is_disabled: true, .. }) => {
                Err(Refusal::new(Reason::BadCredentials, "this account has been disabled"))
            }
            _ => Ok(()),
        }
    }

    /// Somebody has said hello with a registered nickname: what waits in the inbox is read for the session.
    pub(super) fn send_inbox(&mut self, nickname: &Nickname, to: SessionRef) {
        let Some(registered) = self.home.registered.get(nickname.folded()).filter(|r| !r.waiting.is_empty())
        else {
            return;
        };
        let user = registered.name.clone();
        let recent = self.home.unstored_private.iter().filter(|unstored| unstored.user == user);
        let recent = recent.map(|unstored| unstored.kept.clone()).collect();
        // Answered where the session is.
        self.ask_store(to.core, StoreRequest::Inbox { user, to, recent });
    }

    /// A private message for a nickname that has no session: it waits in the inbox of a registered user.
    pub(super) fn keep_for_user(
        &mut self,
        from: SessionRef,
        reply_to: ReplyTo,
        target: &Nickname,
        sender: Nickname,
        content: Arc<str>,
    ) {
        let asker = Asker::Session(from, reply_to);
        let timestamp_ms = self.now.unix_ms;
        let kept = Kept::Private { offset: None, sender, target: target.clone(), content, timestamp_ms };
        let refusal = match self.check_store(AckLevel::Stored, kept.bytes()) {
            _ if !self.home.registered.contains_key(target.folded()) => super::home::no_such_user(),
            Err(refusal) => refusal,
            Ok(()) => match self.put_into_inbox(target, kept) {
                Some(name) => {
                    self.counters.private_kept.add(1);
                    let reply = Reply::Delivered { target: name, sessions: 0, is_stored: true, timestamp_ms };
                    return self.answer_at(AckLevel::Stored, asker, Pending::Other(reply));
                }
                None => {
                    self.counters.private_not_kept.add(1);
                    super::home::inbox_full()
                }
            },
        };
        self.reply_to_asker(asker, Reply::Refused(refusal));
    }

    /// Keeps a message in the inbox of a registered user, who is named if it had place.
    fn put_into_inbox(&mut self, target: &Nickname, kept: Kept) -> Option<Nickname> {
        let bounds = self.inbox_bounds();
        let registered = self.home.registered.get_mut(target.folded())?;
        let Kept::Private { sender, target, content, timestamp_ms, .. } = kept else { return None };
        if registered.waiting.len() >= bounds.items || registered.bytes + content.len() > bounds.bytes {
            return None;
        }
        registered.last_offset += 1;
        let offset = registered.last_offset;
        registered.waiting.push_back((offset, content.len()));
        registered.bytes += content.len();
        let name = registered.name.clone();
        let record = Record::Kept {
            owner: Owner::User(name.folded()),
            offset,
            sender: sender.as_str(),
            target: target.as_str(),
            content: &content,
            timestamp_ms,
        };
        self.write_down(&record);
        let kept = Kept::Private { offset: Some(offset), sender, target, content, timestamp_ms };
        self.home.unstored_private.push_back(Unstored { end: None, user: name.clone(), kept });
        Some(name)
    }

    /// The client of a registered user has received what waited, up to this place.
    pub(super) fn received_by_user(&mut self, nickname: &Nickname, through: u64) -> Reply {
        if let Some(registered) = self.home.registered.get_mut(nickname.folded()) {
            registered.received(through);
            let user = registered.name.clone();
            self.home.unstored_private.retain(|unstored| {
                unstored.user != user || place_of(&unstored.kept).is_none_or(|offset| offset > through)
            });
            self.write_down(&Record::Received { owner: Owner::User(user.folded()), through });
        }
        Reply::Noted
    }

    /// A session has ended with private messages that its user has not received: they wait in the user's inbox, if there is one.
    pub(super) fn inherit_inbox(&mut self, nickname: &Nickname, items: Vec<Kept>) -> Reply {
        for kept in items {
            if self.put_into_inbox(nickname, kept).is_none() {
                self.counters.private_not_kept.add(1);
            }
        }
        Reply::Noted
    }

    /// The storage threads say something.
    pub(super) fn hear_store(&mut self, news: StoreNews) {
        match news {
            StoreNews::Progress { stored, synced } => self.note_progress(stored, synced),
            StoreNews::Down(down) => self.note_store(down),
            StoreNews::Trimmed { room, first_kept } => self.note_trimmed(room, first_kept),
            StoreNews::Page(then, read) => self.hear_page(*then, read),
            StoreNews::Account { to, outcome } => self.hear_account(to, outcome),
            StoreNews::Inbox { to, inbox, recent } => self.hear_inbox(to.session, inbox, recent),
            StoreNews::Users(users) => {
                for (name, state) in users {
                    self.note_user(name, state);
                }
            }
        }
    }

    fn note_user(&mut self, name: Nickname, state: Option<bool>) {
        if self.home_of(name.folded()) != self.core {
            return;
        }
        match (state, self.home.registered.get_mut(name.folded())) {
            (Some(is_disabled), Some(known)) => known.is_disabled = is_disabled,
            (Some(is_disabled), None) => {
                let folded = name.folded().into();
                self.home.registered.insert(folded, Registered::new(name, is_disabled));
            }
            (None, _) => drop(self.home.registered.remove(name.folded())),
        }
    }

    fn note_trimmed(&mut self, number: u64, first_kept: u64) {
        let Some(key) = self.home.by_number.get(&number).copied() else { return };
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        entry.kept_from = entry.kept_from.max(first_kept);
        self.look_at_room(key);
    }

    /// The inbox of a session's user has been read.
    fn hear_inbox(&mut self, id: Id, inbox: Option<RestoredInbox>, recent: Vec<Kept>) {
        let Some(session) = self.sessions.get_mut(id).filter(|session| !session.is_ending()) else { return };
        let Some(RestoredInbox { items, last_offset }) = inbox else { return }; // the next hello tries again
        let mut items: Vec<Kept> = items.into_iter().map(super::restore::kept).collect();
        let last = items.last().and_then(place_of);
        items.extend(recent.into_iter().filter(|kept| place_of(kept) > last));
        let through = items.last().and_then(place_of).unwrap_or(last_offset);
        let own = session.inbox.get_or_insert_default();
        own.put_first(items, through);
        if let Some(connection) = session.connection {
            self.go_on_telling(connection);
        }
    }

    /// Takes what a client has received out of its session's inbox, and out of its user's.
    pub(super) fn receive_private(&mut self, id: Id, offset: u64) {
        let session = &mut self.sessions[id];
        let Some(inbox) = &mut session.inbox else { return };
        let from_user = inbox.of_user().min(offset);
        let through = offset.min(inbox.last_offset()); // places that have not been given are not received
        // Whoever says it again and again is not to fill the journal.
        if !inbox.received(offset) {
            return;
        }
        let (number, is_durable) = (session.number, session.is_durable());
        if from_user > 0 {
            let nickname = session.nickname.clone().expect("received after the hello");
            let home = self.home_of(nickname.folded());
            self.ask(id, home, super::mail::Request::ReceivedByUser { nickname, through: from_user });
        }
        if is_durable {
            self.write_down(&Record::Received { owner: Owner::Session(number), through });
        }
    }
}

/// The place of a private message in its inbox.
fn place_of(kept: &Kept) -> Option<u64> {
    if let Kept::Private { offset, .. } = kept { *offset } else { None }
}
