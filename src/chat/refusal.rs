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

/// An enumeration whose variants each have a word for programs, and which knows all of them.
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $($(#[$of_variant:meta])* $variant:ident => $word:literal,)+ }
    ) => {
        $(#[$meta])*
        pub enum $name { $($(#[$of_variant])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word for programs.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

words! {
    /// Why a command is refused.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[allow(missing_docs)]
    pub enum Reason {
        BadJson => "bad_json",
        BadRequest => "bad_request",
        UnknownType => "unknown_type",
        BadName => "bad_name",
        BadUtf8 => "bad_utf8",
        AckUnavailable => "ack_unavailable",
        Unauthenticated => "unauthenticated",
        BadToken => "bad_token",
        ExpiredToken => "expired_token",
        BadCredentials => "bad_credentials",
        Forbidden => "forbidden",
        Banned => "banned",
        Muted => "muted",
        NotAMember => "not_a_member",
        NoSuchRoom => "no_such_room",
        NoSuchUser => "no_such_user",
        NotFound => "not_found",
        NicknameInUse => "nickname_in_use",
        AlreadyJoined => "already_joined",
        AlreadySaidHello => "already_said_hello",
        TooLarge => "too_large",
        RateLimited => "rate_limited",
        TooManyConnections => "too_many_connections",
        TooManyRooms => "too_many_rooms",
        Internal => "internal",
        Unavailable => "unavailable",
        Draining => "draining",
        BackplaneDown => "backplane_down",
        StoreDown => "store_down",
    }
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

    /// Whether the same command may succeed later without the client doing anything else.
    pub fn is_retryable(self) -> bool {
        // Too many rooms shares the code of the rate limits, but only leaving a room helps.
        self.code() >= 429 && self != Self::TooManyRooms
    }
}

words! {
    /// Why the server closes a connection.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[allow(missing_docs)]
    pub enum Farewell {
        Quit => "quit",
        BadProtocol => "bad_protocol",
        Unauthenticated => "unauthenticated",
        Banned => "banned",
        /// The session was resumed on another connection.
        Replaced => "replaced",
        TooManyErrors => "too_many_errors",
        TooManyConnections => "too_many_connections",
        NoHello => "no_hello",
        Kicked => "kicked",
        Internal => "internal",
        SlowConsumer => "slow_consumer",
        RateLimited => "rate_limited",
        Timeout => "timeout",
        Overloaded => "overloaded",
        ExpiredToken => "expired_token",
        Draining => "draining",
    }
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

words! {
    /// Why somebody is no longer in a room, as the others hear it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    #[allow(missing_docs)]
    pub enum LeaveReason {
        Left => "left",
        Quit => "quit",
        /// The session's time of grace ended without a resume.
        Timeout => "timeout",
        /// The connection broke and its session had no time of grace.
        Lost => "lost",
        Kicked => "kicked",
        Banned => "banned",
        SlowConsumer => "slow_consumer",
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
        assert_eq!(Refusal::from(ContentError::Empty).message, "a message has at least one character");
        assert_eq!(
            Refusal::from(ContentError::TooLong { bytes_max: 9 }).message,
            "a message has at most 9 bytes"
        );
        let limited = Refusal::with_retry(Reason::RateLimited, "slow down", 50);
        assert_eq!(limited.retry_after_ms, Some(50));
    }
}
