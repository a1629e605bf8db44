//! Patterns for names of rooms: a name in which `*` stands for any run of characters, also none.

use std::fmt;
use std::sync::Arc;

use super::name::{RoomName, fold};

/// Longest pattern, in characters: that of a room's name.
pub const CHARS_MAX: usize = 64;

/// A list of patterns. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patterns(Arc<[Pattern]>);

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    folded: Box<str>,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatternError {
    /// It is empty.
    Empty,
    /// It has more than [`CHARS_MAX`] characters.
    TooLong,
    /// A character that no room's name has.
    BadCharacter(char),
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatternError::Empty => f.write_str("a name or pattern has at least one character"),
            PatternError::TooLong => write!(f, "a name or pattern has at most {CHARS_MAX} characters"),
            PatternError::BadCharacter(c) if super::name::is_invisible(*c) => {
                write!(f, "a name or pattern has no invisible characters, such as U+{:04X}", u32::from(*c))
            }
            PatternError::BadCharacter(c) => {
                write!(f, "a name or pattern has letters, marks, numbers, `_`, `-`, `.` and `*`, not {c:?}")
            }
        }
    }
}

impl std::error::Error for PatternError {}

impl Pattern {
    /// Reads one pattern.
    ///
    /// # Errors
    /// When no room's name could be meant.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.chars().count() > CHARS_MAX {
            return Err(PatternError::TooLong);
        }
        match text.chars().find(|c| *c != '*' && !super::name::is_name_character(*c)) {
            Some(c) => Err(PatternError::BadCharacter(c)),
            None => Ok(Pattern { folded: fold(text).into() }),
        }
    }

    /// Whether the pattern is of this room.
    pub fn matches(&self, room: &RoomName) -> bool {
        // Greedy from star to star: what lies between two stars is found at its first place, which leaves the most to the
        // rest. So each is looked for once.
        let (pattern, name) = (&*self.folded, room.folded());
        let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
        let Some(mut name) = name.strip_prefix(first) else { return false };
        let mut parts = rest.split('*').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return name.ends_with(part);
            }
            let Some(at) = name.find(part) else { return false };
            name = &name[at + part.len()..];
        }
        true
    }
}

impl Patterns {
    /// Reads a list.
    ///
    /// # Errors
    /// When one of them is no pattern.
    pub fn parse(list: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, PatternError> {
        list.into_iter()
            .map(|text| Pattern::parse(text.as_ref()))
            .collect::<Result<Vec<_>, _>>()
            .map(|l| Patterns(l.into()))
    }

    /// The patterns as text, which gives the same when it is read.
    pub fn written(&self) -> Vec<String> {
        self.0.iter().map(|pattern| pattern.folded.to_string()).collect()
    }

    /// Whether one of the patterns is of this room.
    pub fn matches(&self, room: &RoomName) -> bool {
        self.0.iter().any(|pattern| pattern.matches(room))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['*', rest @ ..] => (0..=name.len()).any(|skipped| naive(rest, &name[skipped..])),
            [c, rest @ ..] => name.first() == Some(c) && naive(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn matches_as_the_plain_definition_does(pattern in "[ab*]{1,8}", name in "[ab]{1,10}") {
            let expected = naive(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>());
            let room = RoomName::parse(&name).unwrap();
            prop_assert_eq!(Pattern::parse(&pattern).unwrap().matches(&room), expected);
        }
    }

    #[test]
    fn case_is_folded_and_nonsense_refused() {
        let patterns = Patterns::parse(["Team-*", "ÄPFEL"]).unwrap();
        assert!(patterns.matches(&RoomName::parse("tEAM-1").unwrap()));
        assert!(patterns.matches(&RoomName::parse("äpfel").unwrap()));
        assert!(!patterns.matches(&RoomName::parse("teams").unwrap()));
        assert_eq!(Pattern::parse(""), Err(PatternError::Empty));
        assert_eq!(Pattern::parse(&"*".repeat(65)), Err(PatternError::TooLong));
        assert_eq!(Pattern::parse("a b"), Err(PatternError::BadCharacter(' ')));
        assert!(Pattern::parse(&"*".repeat(64)).is_ok());
        assert_eq!(Patterns::parse(patterns.written()), Ok(patterns.clone()));
        assert_eq!(patterns.written(), ["team-*", "äpfel"]);
        let none: [&str; 0] = [];
        assert!(!Patterns::parse(none).unwrap().matches(&RoomName::parse("a").unwrap()));
    }

    #[test]
    fn what_is_no_pattern_is_told_why() {
        let told = |text: &str| Pattern::parse(text).unwrap_err().to_string();
        assert_eq!(told(""), "a name or pattern has at least one character");
        assert_eq!(told(&"a".repeat(65)), "a name or pattern has at most 64 characters");
        let expected = "a name or pattern has letters, marks, numbers, `_`, `-`, `.` and `*`, not '/'";
        assert_eq!(told("a/*"), expected);
        let expected = "a name or pattern has no invisible characters, such as U+200B";
        assert_eq!(told("a\u{200B}*"), expected);
    }
}
