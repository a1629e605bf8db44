//! Registering and logging in by HTTP. The password is looked at by a thread of its own; here is what comes before, and the token after.

use std::net::IpAddr;

use serde::Deserialize;

use super::Shard;
use super::closing::Closing;
use super::http::What;
use super::limits::{Cost, too_fast};
use super::mail::{ConnectionRef, Reply};
use super::reading::{Awaited, StoreRequest};
use crate::auth::Claims;
use crate::auth::password::{PasswordError, check_password};
use crate::base::slots::Id;
use crate::chat::name::Nickname;
use crate::chat::refusal::{Farewell, Reason, Refusal};
use crate::proto::http1::{Body, Head};
use crate::record::AccountState;

/// What clients are told to wait where too many passwords wait to be looked at, in milliseconds.
const QUEUE_RETRY_MS: u64 = 1000;

/// What is asked for an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountAction {
    /// To become a user.
    Register,
    /// To get a token.
    Login,
}

/// A request about an account, checked as far as that goes without the store.
#[derive(PartialEq, Eq)]
pub struct AccountRequest {
    /// What is asked.
    pub action: AccountAction,
    /// Whose account.
    pub name: Nickname,
    /// The password, which nothing logs.
    pub password: String,
    /// Who asks.
    pub asked: Asked,
}

/// Who asks something of another thread, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The connection, or the call.
    pub conn: ConnectionRef,
    /// The address.
    pub peer: IpAddr,
    /// The request of HTTP.
    pub request: Option<Box<str>>,
}

impl std::fmt::Debug for AccountRequest {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:?}({})", self.action, self.name.as_str())
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AccountOutcome {
    /// It is the user of this name, who may have a token; those from before `since_ms` are void.
    Granted { name: Nickname, since_ms: u64 },
    /// The name is somebody's already.
    Taken,
    /// There is no such user, or this is not the password.
    BadCredentials,
    /// Too many passwords wait.
    Busy,
    /// The store fails, for this reason.
    Down(Box<str>),
}

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: String,
}

impl Shard {
    /// For whoever asks for an account where there are none.
    pub(super) fn why_no_accounts(&self) -> &'static str {
        match self.is_clustered() {
            true => "this server has no accounts: its nodes share no store",
            false => "this server has no accounts: it keeps nothing on disk",
        }
    }

    /// Decides what is to be done about a request to register or log in, of which the body has not come.
    pub(super) fn consider_account(&mut self, id: Id, head: &Head, action: AccountAction) -> What {
        if self.is_leaving() {
            return What::Refusal(Refusal::new(Reason::Draining, "the server is about to stop"));
        }
        if self.authority.accounts.is_none() {
            return What::error(404, self.why_no_accounts());
        }
        if let Some(refused) = super::api::refuse_body(head) {
            return refused;
        }
        let bytes = if let Body::Length(length) = head.body { length } else { 0 };
        match self.charge(id, Cost { bytes, ..Cost::COMMAND }, None) {
            Ok(()) => What::UnreadAccount { action, body: Vec::new() },
            Err(refusal) => What::Refusal(refusal),
        }
    }

    /// The body has come.
    pub(super) fn complete_account(
        &mut self,
        id: Id,
        action: AccountAction,
        body: &[u8],
        request: Option<&str>,
    ) -> What {
        match self.check_account(id, action, body, request) {
            Ok(request) => What::Account(Box::new(request)),
            Err(refusal) => What::Refusal(refusal),
        }
    }

    fn check_account(
        &mut self,
        id: Id,
        action: AccountAction,
        body: &[u8],
        request: Option<&str>,
    ) -> Result<AccountRequest, Refusal> {
        let Credentials { username, password } = serde_json::from_slice(body).map_err(|error| {
            let reason = if error.is_data() { Reason::BadRequest } else { Reason::BadJson };
            // The error's own words could quote the password.
            Refusal::new(reason, "the body is a JSON object with `username` and `password`, which are texts")
        })?;
        self.check_credentials(id, action, &username, password, request)
    }

    /// Checks what somebody shows to register or log in, as far as that goes without the store, and counts the attempt.
    pub(super) fn check_credentials(
        &mut self,
        id: Id,
        action: AccountAction,
        username: &str,
        password: String,
        request: Option<&str>,
    ) -> Result<AccountRequest, Refusal> {
        let name = super::commands::parse_nickname(username)?;
        let least = if action == AccountAction::Register { self.config.auth.password_bytes_min } else { 0 };
        check_password(&password, least).map_err(|error| match error {
            PasswordError::TooShort { .. } => Refusal::new(Reason::BadRequest, error.to_string()),
            PasswordError::TooLong => {
                self.counters.too_large.add(1);
                Refusal::new(Reason::TooLarge, error.to_string())
            }
        })?;
        let now = self.now.tick;
        let peer: IpAddr = self.connections.get(id).expect("a request comes on a connection").peer;
        let counted = match action {
            AccountAction::Register => self.attempts.take_registration(peer, now),
            AccountAction::Login => self.attempts.take(name.folded(), peer, now),
        };
        counted.map_err(|ms| {
            self.counters.rate_limited_logins.add(1);
            too_fast("too many attempts", ms)
        })?;
        let asked = Asked { conn: self.name_of(id), peer, request: request.map(Into::into) };
        Ok(AccountRequest { action, name, password, asked })
    }

    /// Whether the account that a token is of is still what it was when the token was given out.
    ///
    /// # Errors
    /// `bad_credentials` if it is disabled, `bad_token` if there is none any more, or if its password has changed since.
    pub(super) fn check_account_of(&self, claims: &Claims) -> Result<(), Refusal> {
        let Some(account_at_ms) = claims.account_at_ms else { return Ok(()) };
        match self.accounts.get(claims.nickname.folded()) {
            Some(AccountState { is_disabled: true, .. }) => {
                Err(Refusal::new(Reason::BadCredentials, "this account has been disabled"))
            }
            Some(account) if account_at_ms >= account.since_ms => Ok(()),
            Some(_) => {
                let message = "the account has another password since the token was given out: log in again";
                Err(Refusal::new(Reason::BadToken, message))
            }
            None => Err(Refusal::new(Reason::BadToken, "the account of this token is no more")),
        }
    }

    /// Accounts have changed: whoever is here by a token of one that is void now, is put out. Every core is told.
    pub(super) fn note_accounts(&mut self, changes: Vec<(Nickname, Option<AccountState>)>) {
        for (name, account) in changes {
            match account {
                Some(account) => drop(self.accounts.insert(name.folded().into(), account)),
                None => drop(self.accounts.remove(name.folded())),
            }
            self.review_event_streams_of(&name);
            self.note_user(name, account);
        }
        self.put_out_void();
        self.settle();
    }

    /// Ends the sessions that nobody would be let in for any more.
    pub(super) fn put_out_void(&mut self) {
        let void: Vec<Id> = self.sessions.iter().map(|(id, _)| id).filter(|id| self.is_void(*id)).collect();
        for session in void {
            self.put_out(session);
        }
    }

    /// Whether a session is there by a token that is void, or without one where that is not allowed any more.
    fn is_void(&self, id: Id) -> bool {
        self.sessions.get(id).is_some_and(|session| {
            let is_void = match &session.identity {
                Some(identity) => self.check_account_of(&identity.claims).is_err(),
                // Before its hello a session is nobody's.
                None => !self.config.auth.guests && session.nickname.is_some(),
            };
            is_void && !session.is_ending()
        })
    }

    /// Ends a session that has become void while its hello was under way.
    pub(super) fn put_out_if_void(&mut self, id: Id) {
        if self.is_void(id) {
            self.put_out(id);
        }
    }

    fn put_out(&mut self, id: Id) {
        let closing = Closing::Bye(Farewell::Unauthenticated);
        let session = &self.sessions[id];
        match session.connection {
            // Its hello is answered first, and looked at again then.
            _ if !session.is_idle() && session.nickname.is_none() => {}
            Some(connection) => {
                self.count_void(id);
                self.close(connection, closing);
            }
            // The one that continues it is looked at when it has it.
            None if session.successor.is_some() => {}
            None => {
                self.count_void(id);
                self.end_grace(id);
                self.end_session(id, closing.leave_reason(), None);
            }
        }
    }

    fn count_void(&self, id: Id) {
        match self.sessions[id].identity {
            Some(_) => self.counters.void_tokens.add(1),
            None => self.counters.void_guests.add(1),
        }
    }

    /// Asks the threads that look at passwords.
    pub(super) fn ask_about_account(&mut self, to: ConnectionRef, request: AccountRequest) {
        let wait = self.wait_for_store(Awaited::Account(to.connection));
        self.ask_store(self.core, StoreRequest::Account { request, wait });
    }

    /// They have answered.
    pub(super) fn hear_account(&mut self, to: Id, outcome: AccountOutcome) {
        let reply = match outcome {
            AccountOutcome::Granted { name, since_ms } => {
                let accounts = self.authority.accounts.as_ref().expect("it was there when it was asked");
                match accounts.issue(&name, self.now.unix_ms, since_ms, self.config.auth.account_token_s) {
                    Ok((token, expires_at_ms)) => Reply::Token { token, expires_at_ms },
                    Err(error) => {
                        log::error!(conn:% = self.name_of(to); "a token could not be signed: {error}");
                        Reply::Refused(Refusal::new(Reason::Internal, "the token could not be signed"))
                    }
                }
            }
            AccountOutcome::Taken => {
                Reply::Refused(Refusal::new(Reason::NicknameInUse, "this name is registered already"))
            }
            AccountOutcome::BadCredentials => {
                let message = "there is no such user, or this is not the password";
                Reply::Refused(Refusal::new(Reason::BadCredentials, message))
            }
            AccountOutcome::Busy => {
                let message = "too many are logging in now";
                Reply::Refused(Refusal::with_retry(Reason::Unavailable, message, QUEUE_RETRY_MS))
            }
            AccountOutcome::Down(why) => {
                let message = format!("the store is down: {why}");
                Reply::Refused(Refusal::with_retry(Reason::StoreDown, message, QUEUE_RETRY_MS))
            }
        };
        self.handle_api_reply(to, self.store(), reply);
    }
}
