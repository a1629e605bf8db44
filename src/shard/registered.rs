//! Registered users at the homes of their nicknames: whose nicknames are reserved, and whose private messages wait in the store while they
//! are away.

use std::collections::VecDeque;

use super::Shard;
use super::journal::{Asker, Pending};
use super::mail::{Handover, InboxNotice, Mail, Reply, ReplyTo, Request};
use super::reading::{Awaited, StoreNews, StoreRequest};
use crate::base::slots::Id;
use crate::chat::inbox::Kept;
use crate::chat::name::Nickname;
use crate::chat::refusal::{Reason, Refusal};
use crate::chat::user::SessionRef;
use crate::config::AckLevel;
use crate::record::{AccountState, KeptPrivate, Owner, Record, RestoredUser, WaitingPrivate};

/// A registered user. The inbox of one is the only place of private messages that could not be told at once: to no session, or not to one of
/// several, for which a copy is kept then that is for that session alone. Places in it are given out here, so that all of the user's
/// sessions mean the same by them.
#[derive(Debug)]
pub struct Registered {
    name: Nickname,
    last_offset: u64,
    /// The messages that wait, the oldest first.
    waiting: VecDeque<WaitingPrivate>,
}

/// A private message in a user's inbox that is not in the store yet.
#[derive(Debug)]
pub(super) struct Unstored {
    /// The position in the journal behind it; `None` until it is there.
    pub end: Option<u64>,
    user: Nickname,
    /// The session that it is for; 0: any.
    session: u64,
    kept: Kept,
}

impl Registered {
    /// One who was registered before the server was started.
    pub fn restored(user: &RestoredUser) -> Self {
        Registered {
            name: user.name.clone(),
            last_offset: user.last_offset,
            waiting: user.waiting.iter().copied().collect(),
        }
    }

    fn new(name: Nickname) -> Self {
        Registered { name, last_offset: 0, waiting: VecDeque::new() }
    }

    /// Forgets those that wait of which that is true, and says whether there were any.
    fn forget(&mut self, is_over: impl Fn(&WaitingPrivate) -> bool) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| !is_over(waiting));
        self.waiting.len() < before
    }
}

/// Whether something that is for the session `session`, or for any if that is 0, is for the one of this number.
fn is_for(session: u64, number: u64) -> bool {
    session == 0 || session == number
}

impl Shard {
    /// Whether a nickname is reserved for somebody else.
    ///
    /// # Errors
    /// `nickname_in_use` to guests; `bad_credentials` to users that have been disabled.
    pub(super) fn check_registered(&self, nickname: &Nickname, has_token: bool) -> Result<(), Refusal> {
        match self.accounts.get(nickname.folded()) {
            Some(_) if !has_token => {
                let message = "this nickname is registered: log in, and say hello with the token";
                Err(Refusal::new(Reason::NicknameInUse, message))
            }
            // Whoever's token: of the account, or of the operator's own.
            Some(AccountState { is_disabled: true, .. }) => {
                Err(Refusal::new(Reason::BadCredentials, "this account has been disabled"))
            }
            _ => Ok(()),
        }
    }

    /// Somebody has said hello with a nickname, or has come back in the session of this number: if it is registered, what waits in the
    /// inbox is read for the session.
    pub(super) fn send_inbox(
        &mut self,
        nickname: &Nickname,
        to: SessionRef,
        number: u64,
    ) -> Option<InboxNotice> {
        let registered = self.home.registered.get(nickname.folded())?;
        // The store may not have heard yet what has been received, nor what has come: this is what counts.
        let offsets = registered.waiting.iter().filter(|waiting| is_for(waiting.session, number));
        let offsets: Vec<u64> = offsets.map(|waiting| waiting.offset).collect();
        if offsets.is_empty() {
            return Some(InboxNotice::Empty);
        }
        let user = registered.name.clone();
        let recent = self.home.unstored_private.iter();
        let recent = recent.filter(|unstored| unstored.user == user && is_for(unstored.session, number));
        let recent = recent.map(|unstored| unstored.kept.clone()).collect();
        // Answered where the session is.
        self.ask_store(to.core, StoreRequest::Inbox { user, to, offsets, recent });
        Some(InboxNotice::Follows)
    }

    /// A private message that could be told to no session of a nickname, or not to all: it waits in the inbox of a registered user, for the
    /// next hello, or for those sessions which others were told before.
    pub(super) fn keep_for_user(&mut self, from: SessionRef, reply_to: ReplyTo, handover: Handover) {
        let Handover { target, sender, content, delivered, untold, timestamp_ms, .. } = handover;
        let asker = Asker::Session(from, reply_to);
        let registered = self.home.registered.get(target.folded());
        let target = registered.map_or(target, |registered| registered.name.clone());
        let is_registered = registered.is_some();
        let kept =
            Kept::Private { offset: None, sender, target: target.clone(), content, timestamp_ms, key: None };
        let refusal = match self.check_store(AckLevel::Stored, kept.bytes()) {
            _ if !is_registered => Some(super::home::no_such_user()),
            checked => checked.err(),
        };
        let mut is_stored = false;
        if refusal.is_none() {
            let numbers = if delivered > 0 { untold } else { vec![0] };
            for number in numbers {
                let Some(kept) = self.put_into_inbox(&target, kept.clone(), number) else { continue };
                is_stored = true;
                let sessions = self.home.nicknames.find(&target).map(|(sessions, _)| sessions.to_vec());
                for SessionRef { core, session: to, .. } in sessions.into_iter().flatten() {
                    self.post(core, Mail::PutIntoInbox { to, number, kept: Box::new(kept.clone()) });
                }
            }
        }
        let reply = Reply::Delivered { target, sessions: delivered, is_stored, timestamp_ms };
        match refusal {
            _ if delivered > 0 => self.reply_to_asker(asker, reply),
            None if is_stored => self.answer_at(AckLevel::Stored, asker, Pending::Other(reply)),
            refusal => {
                let refusal = refusal.unwrap_or_else(super::home::inbox_full);
                self.reply_to_asker(asker, Reply::Refused(refusal));
            }
        }
    }

    /// Keeps a message in the inbox of a registered user, for one session or for all (0), and returns it with its place if there was one.
    fn put_into_inbox(&mut self, target: &Nickname, kept: Kept, session: u64) -> Option<Kept> {
        let bounds = self.inbox_bounds();
        let registered = self.home.registered.get_mut(target.folded())?;
        let Kept::Private { sender, target, content, timestamp_ms, .. } = kept else { return None };
        // Copies for one session have bounds of their own, and leave those of the user alone.
        let others = registered.waiting.iter().filter(|waiting| waiting.session == session);
        let (items, bytes) =
            others.fold((0, 0), |(items, bytes), waiting| (items + 1, bytes + waiting.bytes));
        if items >= bounds.items || bytes + content.len() > bounds.bytes {
            self.counters.private_not_kept.add(1);
            return None;
        }
        self.counters.private_kept.add(1);
        registered.last_offset += 1;
        let offset = registered.last_offset;
        registered.waiting.push_back(WaitingPrivate { offset, bytes: content.len(), session });
        let name = registered.name.clone();
        let record = Record::Kept {
            owner: owner(name.folded(), session),
            offset,
            sender: sender.as_str(),
            target: target.as_str(),
            content: &content,
            timestamp_ms,
        };
        self.write_down(&record);
        let kept = Kept::Private { offset: Some(offset), sender, target, content, timestamp_ms, key: None };
        self.home.unstored_private.push_back(Unstored { end: None, user: name, session, kept: kept.clone() });
        Some(kept)
    }

    /// A session of a registered user has received what waited, up to this place.
    pub(super) fn received_by_user(&mut self, nickname: &Nickname, through: u64, number: u64) {
        if let Some(registered) = self.home.registered.get_mut(nickname.folded()) {
            let through = through.min(registered.last_offset);
            let user = registered.name.clone();
            // Whoever says it again and again is not to fill the journal.
            if registered.forget(|w| w.offset <= through && is_for(w.session, number)) {
                self.home.unstored_private.retain(|unstored| {
                    let is_over = unstored.kept.offset() <= Some(through) && is_for(unstored.session, number);
                    unstored.user != user || !is_over
                });
                self.write_down(&Record::Received { owner: owner(user.folded(), number), through });
            }
        }
    }

    /// The session of this number has ended: nobody is left for what was kept for it alone, and what others of the user have heard. In the
    /// store that goes with the session.
    pub(super) fn forget_for_session(&mut self, nickname: &Nickname, number: u64) {
        if number != 0
            && let Some(registered) = self.home.registered.get_mut(nickname.folded())
            && registered.forget(|waiting| waiting.session == number)
        {
            self.home.unstored_private.retain(|unstored| unstored.session != number);
        }
    }

    /// A session has private messages that its user may not have heard: they wait in the user's inbox, if there is one.
    pub(super) fn inherit_inbox(&mut self, from: SessionRef, nickname: &Nickname, items: Vec<Kept>) -> Reply {
        for kept in items {
            if let Some(kept) = self.put_into_inbox(nickname, kept, 0) {
                self.post(
                    from.core,
                    Mail::PutIntoInbox { to: from.session, number: 0, kept: Box::new(kept) },
                );
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
            StoreNews::Page { wait, entries } => {
                if let Some(Awaited::Page(then)) = self.end_wait(wait) {
                    self.hear_page(then, entries);
                }
            }
            StoreNews::Account { wait, outcome } => {
                if let Some(Awaited::Account(connection)) = self.end_wait(wait) {
                    self.hear_account(connection, outcome);
                }
            }
            StoreNews::Inbox { to, inbox, recent } => self.hear_inbox(to.session, inbox, recent),
            StoreNews::Users(users) => self.note_accounts(users),
        }
    }

    /// Somebody is a registered user now, or is no more.
    pub(super) fn note_user(&mut self, name: Nickname, account: Option<AccountState>) {
        if self.home_of(name.folded()) != self.core {
            return;
        }
        match account {
            None => drop(self.home.registered.remove(name.folded())),
            Some(_) if self.home.registered.contains_key(name.folded()) => {}
            Some(_) => {
                drop(self.home.registered.insert(name.folded().into(), Registered::new(name)));
            }
        }
    }

    fn note_trimmed(&mut self, number: u64, first_kept: u64) {
        let Some(key) = self.home.by_number.get(&number).copied() else { return };
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        entry.kept_from = entry.kept_from.max(first_kept);
        self.look_at_room(key);
    }

    /// A session has got its nickname, and is told whether that is registered.
    pub(super) fn note_inbox(&mut self, id: Id, registered: Option<InboxNotice>) {
        if registered.is_some() {
            self.become_registered(id);
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.awaits_inbox = registered == Some(InboxNotice::Follows) && !session.has_inbox;
            if session.awaits_inbox {
                self.wait_for_store(Awaited::Inbox(id));
            }
            self.tell_inbox(id);
        }
    }

    /// The user of a session is registered. What was kept before that was known gets a place in the user's inbox.
    pub(super) fn become_registered(&mut self, id: Id) {
        let Some(session) = self.sessions.get_mut(id).filter(|session| !session.is_ending()) else { return };
        let Some(nickname) = session.nickname.clone() else { return };
        if std::mem::replace(&mut session.is_registered, true) {
            return;
        }
        let items = session.inbox.as_mut().map(|inbox| inbox.take_private()).unwrap_or_default();
        self.leave_to_user(id, nickname, items);
    }

    /// Has private messages that a session could not tell, or may not have, kept in its user's inbox.
    pub(super) fn leave_to_user(&mut self, id: Id, nickname: Nickname, items: Vec<Kept>) {
        if !items.is_empty() {
            let home = self.home_of(nickname.folded());
            self.ask(id, home, Request::InheritInbox { nickname, items });
        }
    }

    /// The inbox of a session's user has been read.
    fn hear_inbox(&mut self, id: Id, inbox: Option<Vec<KeptPrivate>>, recent: Vec<Kept>) {
        let Some(session) = self.sessions.get_mut(id).filter(|session| !session.is_ending()) else { return };
        session.awaits_inbox = false;
        if session.connection.is_none() || std::mem::replace(&mut session.has_inbox, true) {
            return; // too late; the next hello tries again, and so it does if the inbox could not be read
        }
        if let Some(items) = inbox {
            let mut items: Vec<Kept> = items.into_iter().map(super::restore::kept).collect();
            let last = items.last().and_then(Kept::offset);
            items.extend(recent.into_iter().filter(|kept| kept.offset() > last));
            session.inbox.get_or_insert_default().put_read(items);
        }
        self.tell_inbox(id);
    }

    /// Whether the inbox of its user is being read for a session.
    pub(super) fn awaits_inbox(&self, id: Id) -> bool {
        self.sessions.get(id).is_some_and(|session| session.awaits_inbox)
    }

    /// The inbox of a session's user could not be read in time: what comes is told without what waits there, for the next hello.
    pub(super) fn give_up_inbox(&mut self, id: Id) {
        if self.awaits_inbox(id)
            && let Some(session) = self.sessions.get_mut(id)
        {
            (session.awaits_inbox, session.has_inbox) = (false, true);
            self.tell_inbox(id);
        }
    }

    /// A private message is in the inbox of a session's user. Whoever has no connection reads it from there later.
    pub(super) fn hear_kept(&mut self, id: Id, number: u64, kept: Kept) {
        let session = self.sessions.get_mut(id).filter(|session| !session.is_ending());
        if let Some(session) = session
            && session.connection.is_some()
            && is_for(number, session.number)
        {
            session.inbox.get_or_insert_default().put(kept);
            self.tell_inbox(id);
        }
    }

    /// Tells what is in a session's inbox, if that may begin.
    pub(super) fn tell_inbox(&mut self, id: Id) {
        let session = self.sessions.get(id);
        if let Some(session) = session
            .filter(|session| !session.awaits_inbox && !session.is_upgrading() && !session.is_returning())
            && session.inbox.as_ref().is_some_and(|inbox| inbox.has_untold())
            && let Some(connection) = session.connection
        {
            self.go_on_telling(connection);
        }
    }

    /// Takes what a client has received out of its session's inbox, and returns what is to be asked of the home of its user's, where it is
    /// received once that has answered.
    #[must_use]
    pub(super) fn receive_private(&mut self, id: Id, offset: u64) -> Option<(u16, Request)> {
        let session = &mut self.sessions[id];
        let (number, is_durable) = (session.number, session.is_durable());
        // Places that have not been given are not received.
        let through = session.inbox.as_ref().map_or(0, |inbox| inbox.last_offset()).min(offset);
        let was_there = session.inbox.as_mut().is_some_and(|inbox| inbox.received(offset));
        if session.is_registered {
            // While the inbox is read it is not known what it has; what was told on an earlier connection may be received on this one.
            let nickname = session.nickname.clone().filter(|_| was_there || session.awaits_inbox)?;
            let through = if session.awaits_inbox { offset } else { through };
            let home = self.home_of(nickname.folded());
            return Some((home, Request::ReceivedByUser { nickname, through, number, is_command: true }));
        }
        if was_there && is_durable {
            // Whoever says it again and again is not to fill the journal.
            self.write_down(&Record::Received { owner: Owner::Session(number), through });
        }
        None
    }

    /// The same, for somebody on text lines who has been told it, and cannot say so.
    pub(super) fn receive_as_told(&mut self, id: Id, offset: u64) {
        if let Some((home, mut request)) = self.receive_private(id, offset) {
            if let Request::ReceivedByUser { is_command, .. } = &mut request {
                *is_command = false;
            }
            self.ask(id, home, request);
        }
    }
}

/// Whose a record of a user's inbox is: all sessions', or that of one.
fn owner(user: &str, session: u64) -> Owner<'_> {
    if session == 0 { Owner::User(user) } else { Owner::SessionOf { user, session } }
}
