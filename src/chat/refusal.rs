//! Why the server says no, and why it says good-bye: every reason with its code, its word and what the client is to do.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::name::{ContentError, NameError};

/// A command refused: the reason for programs, a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What a person is told.
    pub message: Cow<'static, str>,
    /// How long to wait before the same command may succeed, in milliseconds, where the server knows.
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal that waiting does not change, or nobody knows how long it would take.
    pub fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, message: message.into(), retry_after_ms: None }
    }

    /// A refusal that is over in `retry_after_ms`.
    pub fn with_retry(reason: Reason, message: impl Into<Cow<'static, str>>, retry_after_ms: u64) -> Self {
        Self { reason, message: message.into(), retry_after_ms: Some(retry_after_ms) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.reason.code(), self.reason.as_str(), self.message)
    }
}

impl Error for Refusal {}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Self::new(Reason::BadName, error.to_string())
    }
}

impl From<ContentError> for Refusal {
    fn from(error: ContentError) -> Self {
        let reason = match error {
            ContentError::Empty => Reason::BadRequest,
            ContentError::TooLong { .. } => Reason::TooLarge,
        };
        Self::new(reason, error.to_string())
    }
}

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Reason {
    BadJson,
    BadRequest,
    UnknownType,
    BadName,
    BadUtf8,
    AckUnavailable,
    Unauthenticated,
    BadToken,
    ExpiredToken,
    BadCredentials,
    Forbidden,
    Banned,
    Muted,
    NotAMember,
    NoSuchRoom,
    NoSuchUser,
    NotFound,
    NicknameInUse,
    AlreadyJoined,
    AlreadySaidHello,
    TooLarge,
    RateLimited,
    TooManyConnections,
    TooManyRooms,
    Internal,
    Unavailable,
    Draining,
    BackplaneDown,
    StoreDown,
}

impl Reason {
    /// The status code, one of HTTP's.
    pub fn code(self) -> u16 {
        match self {
            Self::BadJson
            | Self::BadRequest
            | Self::UnknownType
            | Self::BadName
            | Self::BadUtf8
            | Self::AckUnavailable => 400,
            Self::Unauthenticated | Self::BadToken | Self::ExpiredToken | Self::BadCredentials => 401,
            Self::Forbidden | Self::Banned | Self::Muted | Self::NotAMember => 403,
            Self::NoSuchRoom | Self::NoSuchUser | Self::NotFound => 404,
            Self::NicknameInUse | Self::AlreadyJoined | Self::AlreadySaidHello => 409,
            Self::TooLarge => 413,
            Self::RateLimited | Self::TooManyConnections | Self::TooManyRooms => 429,
            Self::Internal => 500,
            Self::Unavailable | Self::Draining | Self::BackplaneDown | Self::StoreDown => 503,
        }
    }

    /// The word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::BadRequest => "bad_request",
            Self::UnknownType => "unknown_type",
            Self::BadName => "bad_name",
            Self::BadUtf8 => "bad_utf8",
            Self::AckUnavailable => "ack_unavailable",
            Self::Unauthenticated => "unauthenticated",
            Self::BadToken => "bad_token",
            Self::ExpiredToken => "expired_token",
            Self::BadCredentials => "bad_credentials",
            Self::Forbidden => "forbidden",
            Self::Banned => "banned",
            Self::Muted => "muted",
            Self::NotAMember => "not_a_member",
            Self::NoSuchRoom => "no_such_room",
            Self::NoSuchUser => "no_such_user",
            Self::NotFound => "not_found",
            Self::NicknameInUse => "nickname_in_use",
            Self::AlreadyJoined => "already_joined",
            Self::AlreadySaidHello => "already_said_hello",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyRooms => "too_many_rooms",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::Draining => "draining",
            Self::BackplaneDown => "backplane_down",
            Self::StoreDown => "store_down",
        }
    }

    /// Whether the same command may succeed later without the client doing anything else.
    pub fn is_retryable(self) -> bool {
        // Too many rooms shares the code of the rate limits, but only leaving a room helps.
        self.code() >= 429 && self != Self::TooManyRooms
    }
}

/// Why the server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Farewell {
    Quit,
    BadProtocol,
    Unauthenticated,
    Banned,
    /// The session was resumed on another connection.
    Replaced,
    TooManyErrors,
    TooManyConnections,
    NoHello,
    Kicked,
    Internal,
    SlowConsumer,
    RateLimited,
    Timeout,
    Overloaded,
    ExpiredToken,
    Draining,
}

impl Farewell {
    /// The code of `bye`, and of the WebSocket close frame.
    pub fn code(self) -> u16 {
        match self {
            Self::Quit => 1000,
            Self::BadProtocol => 4100,
            Self::Unauthenticated => 4101,
            Self::Banned => 4102,
            Self::Replaced => 4103,
            Self::TooManyErrors => 4104,
            Self::TooManyConnections => 4105,
            Self::NoHello => 4106,
            Self::Kicked => 4107,
            Self::Internal => 4200,
            Self::SlowConsumer => 4201,
            Self::RateLimited => 4202,
            Self::Timeout => 4203,
            Self::Overloaded => 4204,
            Self::ExpiredToken => 4205,
            Self::Draining => 4300,
        }
    }

    /// The word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quit => "quit",
            Self::BadProtocol => "bad_protocol",
            Self::Unauthenticated => "unauthenticated",
            Self::Banned => "banned",
            Self::Replaced => "replaced",
            Self::TooManyErrors => "too_many_errors",
            Self::TooManyConnections => "too_many_connections",
            Self::NoHello => "no_hello",
            Self::Kicked => "kicked",
            Self::Internal => "internal",
            Self::SlowConsumer => "slow_consumer",
            Self::RateLimited => "rate_limited",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::ExpiredToken => "expired_token",
            Self::Draining => "draining",
        }
    }

    /// Whether the client is to come back and resume: the hundreds digit of the code tells it.
    pub fn is_resumable(self) -> bool {
        self.code() >= 4200
    }

    /// Whether the nickname is free as soon as the connection is told, without the session's time of grace. A
    /// replaced connection has no nickname left to free: the connection that replaced it goes on under it.
    pub fn frees_nickname_at_once(self) -> bool {
        !self.is_resumable() && self != Self::Replaced
    }
}

/// Why somebody is no longer in a room, as the others hear it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum LeaveReason {
    Left,
    Quit,
    /// The session's time of grace ended without a resume.
    Timeout,
    /// The connection broke and its session had no time of grace.
    Lost,
    Kicked,
    Banned,
    SlowConsumer,
}

impl LeaveReason {
    /// The word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Quit => "quit",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
            Self::Kicked => "kicked",
            Self::Banned => "banned",
            Self::SlowConsumer => "slow_consumer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_by_itself_is_retryable() {
        for reason in [Reason::RateLimited, Reason::TooManyConnections, Reason::Internal, Reason::StoreDown] {
            assert!(reason.is_retryable(), "{reason:?}");
        }
        for reason in [Reason::TooManyRooms, Reason::TooLarge, Reason::NicknameInUse, Reason::BadJson] {
            assert!(!reason.is_retryable(), "{reason:?}");
        }
    }

    #[test]
    fn the_hundreds_digit_tells_whether_to_come_back() {
        assert!(!Farewell::Quit.is_resumable());
        assert!(!Farewell::Kicked.is_resumable());
        assert!(Farewell::Internal.is_resumable());
        assert!(Farewell::ExpiredToken.is_resumable());
        assert!(Farewell::Draining.is_resumable());
    }

    #[test]
    fn a_nickname_is_free_at_once_unless_its_session_lives_on() {
        assert!(Farewell::Quit.frees_nickname_at_once());
        assert!(Farewell::Kicked.frees_nickname_at_once());
        assert!(!Farewell::Replaced.frees_nickname_at_once());
        assert!(!Farewell::SlowConsumer.frees_nickname_at_once());
        assert!(!Farewell::Draining.frees_nickname_at_once());
    }

    #[test]
    fn errors_of_names_and_content_become_refusals() {
        let refusal = Refusal::from(NameError::BadFirst('-'));
        assert_eq!(
            refusal.to_string(),
            "400 bad_name: a name begins with a letter or a number, not with '-'"
        );
        assert_eq!(Refusal::from(ContentError::Empty).reason, Reason::BadRequest);
        assert_eq!(Refusal::from(ContentError::TooLong { bytes_max: 1 }).reason.code(), 413);
        let limited = Refusal::with_retry(Reason::RateLimited, "slow down", 50);
        assert_eq!(limited.retry_after_ms, Some(50));
    }
}
