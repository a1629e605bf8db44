//! Names of people and rooms, and what a message may contain: what is checked once, where it comes in, so that
//! everything behind can rely on it.
//!
//! Names are compared by simple case folding (C and S of Unicode's CaseFolding.txt). Full folding was turned down: it
//! makes names longer (`ß` becomes `ss`), so that a name could break its own limit. Names are not normalised, so two
//! spellings that only look the same are two names.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::error::Error;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Longest nickname, in Unicode scalar values: fits a column of a chat window.
pub const NICKNAME_CHARS_MAX: usize = 32;

/// Longest name of a room, in Unicode scalar values: room for a path-like name such as `team-x.project-y`.
pub const ROOM_NAME_CHARS_MAX: usize = 64;

/// Characters that show nothing where they are not understood, such as the Hangul fillers, which are letters, and variation
/// selectors, which are marks: two names that differ in them alone look the same everywhere. The property
/// Default_Ignorable_Code_Point of Unicode 16.0, from
/// <https://www.unicode.org/Public/16.0.0/ucd/DerivedCoreProperties.txt>; in order.
const INVISIBLE: [(char, char); 17] = [
    ('\u{AD}', '\u{AD}'),
    ('\u{34F}', '\u{34F}'),
    ('\u{61C}', '\u{61C}'),
    ('\u{115F}', '\u{1160}'),
    ('\u{17B4}', '\u{17B5}'),
    ('\u{180B}', '\u{180F}'),
    ('\u{200B}', '\u{200F}'),
    ('\u{202A}', '\u{202E}'),
    ('\u{2060}', '\u{206F}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{FE00}', '\u{FE0F}'),
    ('\u{FEFF}', '\u{FEFF}'),
    ('\u{FFA0}', '\u{FFA0}'),
    ('\u{FFF0}', '\u{FFF8}'),
    ('\u{1BCA0}', '\u{1BCA3}'),
    ('\u{1D173}', '\u{1D17A}'),
    ('\u{E0000}', '\u{E0FFF}'),
];

/// Longest character in UTF-8, in bytes (RFC 3629 section 3): turns a limit in characters into one in bytes.
const CHAR_BYTES_MAX: usize = 4;

/// What a user is called. Equal, ordered and hashed by its folded form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nickname(Name);

impl TryFrom<String> for Nickname {
    type Error = NameError;

    fn try_from(written: String) -> Result<Self, NameError> {
        Self::parse(&written)
    }
}

impl From<Nickname> for String {
    fn from(nickname: Nickname) -> Self {
        nickname.as_str().to_owned()
    }
}

impl Nickname {
    /// Checks a nickname that a peer wrote.
    pub fn parse(written: &str) -> Result<Self, NameError> {
        Name::parse(written, NICKNAME_CHARS_MAX).map(Self)
    }

    /// The nickname as it was first written.
    pub fn as_str(&self) -> &str {
        &self.0.shown
    }

    /// The form that nicknames are compared by.
    pub fn folded(&self) -> &str {
        &self.0.folded
    }

    /// Whether `other` is this nickname to the letter, not merely an equal one.
    pub fn same_spelling(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

/// What a room is called. Equal, ordered and hashed by its folded form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoomName(Name);

impl TryFrom<String> for RoomName {
    type Error = NameError;

    fn try_from(written: String) -> Result<Self, NameError> {
        Self::parse(&written)
    }
}

impl From<RoomName> for String {
    fn from(room: RoomName) -> Self {
        room.as_str().to_owned()
    }
}

impl RoomName {
    /// Checks a room's name that a peer wrote.
    pub fn parse(written: &str) -> Result<Self, NameError> {
        Name::parse(written, ROOM_NAME_CHARS_MAX).map(Self)
    }

    /// The name as it was first written.
    pub fn as_str(&self) -> &str {
        &self.0.shown
    }

    /// The form that rooms' names are compared by.
    pub fn folded(&self) -> &str {
        &self.0.folded
    }

    /// Whether `other` is this name to the letter, not merely an equal one.
    pub fn same_spelling(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

/// Folds upper and lower case together, character by character; borrows if there is nothing to fold.
pub fn fold(text: &str) -> Cow<'_, str> {
    match text.char_indices().find(|&(_, c)| fold_char(c) != c) {
        None => Cow::Borrowed(text),
        Some((at, _)) => {
            let mut folded = String::with_capacity(text.len());
            folded.push_str(&text[..at]);
            folded.extend(text[at..].chars().map(fold_char));
            Cow::Owned(folded)
        }
    }
}

/// Checks the content of a message against the configured limit.
pub fn check_content(content: &str, bytes_max: usize) -> Result<(), ContentError> {
    if content.is_empty() {
        Err(ContentError::Empty)
    } else if content.len() > bytes_max {
        Err(ContentError::TooLong { bytes_max })
    } else {
        Ok(())
    }
}

/// Why something is no name. Its `Display` is a sentence for the person who wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// There is no character.
    Empty,
    /// There are too many characters.
    TooLong {
        /// How many are allowed.
        chars_max: usize,
    },
    /// The first character is neither a letter nor a number.
    BadFirst(char),
    /// A character belongs in no name.
    BadChar(char),
    /// A character cannot be seen.
    Invisible(char),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a name has at least one character"),
            Self::TooLong { chars_max } => write!(f, "a name has at most {chars_max} characters"),
            Self::BadFirst(c) => {
                write!(f, "a name begins with a letter or a number, not with '{}'", c.escape_debug())
            }
            Self::BadChar(c) => {
                write!(
                    f,
                    "a name has letters, marks, numbers, '_', '-' and '.', but no '{}'",
                    c.escape_debug()
                )
            }
            Self::Invisible(c) => {
                write!(f, "a name has no invisible characters, such as U+{:04X}", u32::from(*c))
            }
        }
    }
}

impl Error for NameError {}

/// Why something cannot be a message. Its `Display` is a sentence for the person who wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentError {
    /// There is nothing in it.
    Empty,
    /// It has too many bytes.
    TooLong {
        /// How many are allowed.
        bytes_max: usize,
    },
}

impl fmt::Display for ContentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a message has at least one character"),
            Self::TooLong { bytes_max } => write!(f, "a message has at most {bytes_max} bytes"),
        }
    }
}

impl Error for ContentError {}

/// What both kinds of names have in common. Names are cloned with every event that tells of them, and across cores,
/// hence `Arc`; most names are written in lower case and keep one string for both forms.
#[derive(Clone)]
struct Name {
    shown: Arc<str>,
    folded: Arc<str>,
}

impl Name {
    fn parse(written: &str, chars_max: usize) -> Result<Self, NameError> {
        // Bytes first: counting the characters of a quarter of a megabyte is work for nothing.
        if written.len() > chars_max * CHAR_BYTES_MAX || written.chars().count() > chars_max {
            return Err(NameError::TooLong { chars_max });
        }
        let first = written.chars().next().ok_or(NameError::Empty)?;
        if let Some(bad) = written.chars().find(|&c| !is_name_character(c)) {
            return Err(if is_invisible(bad) { NameError::Invisible(bad) } else { NameError::BadChar(bad) });
        }
        if !is_allowed_first(first) {
            return Err(NameError::BadFirst(first));
        }
        let shown: Arc<str> = written.into();
        let folded = match fold(written) {
            Cow::Borrowed(_) => Arc::clone(&shown),
            Cow::Owned(folded) => folded.into(),
        };
        Ok(Self { shown, folded })
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.folded == other.folded
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.folded.cmp(&other.folded)
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.folded.hash(state);
    }
}

impl fmt::Display for Nickname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Nickname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nickname({:?})", self.as_str())
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoomName({:?})", self.as_str())
    }
}

pub(super) fn is_name_character(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    }
    (is_allowed_first(c) || c.general_category_group() == GeneralCategoryGroup::Mark) && !is_invisible(c)
}

pub(super) fn is_invisible(c: char) -> bool {
    let after = INVISIBLE.partition_point(|(first, _)| *first <= c);
    INVISIBLE[..after].last().is_some_and(|(_, last)| c <= *last)
}

fn is_allowed_first(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric();
    }
    matches!(c.general_category_group(), GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number)
}

fn fold_char(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    unicode_case_mapping::case_folded(c).and_then(|folded| char::from_u32(folded.get())).unwrap_or(c)
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    fn nickname(written: &str) -> Nickname {
        Nickname::parse(written).unwrap_or_else(|error| panic!("{written:?}: {error}"))
    }

    #[test]
    fn names_keep_their_spelling_and_compare_folded() {
        let name = nickname("Alice.B-2_x");
        assert_eq!(name.as_str(), "Alice.B-2_x");
        assert_eq!(name.folded(), "alice.b-2_x");
        assert_eq!(name, nickname("ALICE.b-2_X"));
        assert!(name.same_spelling("Alice.B-2_x"));
        assert!(!name.same_spelling("alice.b-2_x"));
        assert_eq!(RoomName::parse("Lobby"), RoomName::parse("lobby"));
        assert!(nickname("Bob") > nickname("alice"), "the order is that of the folded form");
    }

    #[test]
    fn names_are_told_and_written_down_as_they_are_spelled() {
        let (name, room) = (nickname("Ann"), RoomName::parse("Den.2").unwrap());
        assert_eq!(
            format!("{name} {room} {name:?} {room:?}"),
            r#"Ann Den.2 Nickname("Ann") RoomName("Den.2")"#
        );
        assert_eq!((room.as_str(), room.folded()), ("Den.2", "den.2"));
        assert!(room.same_spelling("Den.2") && !room.same_spelling("den.2"));
        let written = (String::from(name), String::from(room));
        assert_eq!(written, ("Ann".to_owned(), "Den.2".to_owned()));
        assert!(Nickname::try_from(written.0).unwrap().same_spelling("Ann"));
        assert!(RoomName::try_from(written.1).unwrap().same_spelling("Den.2"));
        assert_eq!(
            Nickname::try_from("a b".to_owned()),
            Err(NameError::BadChar(' ')),
            "what is read is checked"
        );
        assert_eq!(RoomName::try_from("a b".to_owned()), Err(NameError::BadChar(' ')));
    }

    #[test]
    fn equal_names_are_found_as_keys() {
        let mut found = std::collections::HashMap::from([(nickname("Ann"), 1), (nickname("Bob"), 2)]);
        assert_eq!((found.get(&nickname("ANN")), found.get(&nickname("bOB"))), (Some(&1), Some(&2)));
        assert_eq!(found.insert(nickname("ann"), 3), Some(1));
        let hashes: std::collections::HashSet<u64> =
            (0..100).map(|n| found.hasher().hash_one(nickname(&format!("user{n}")))).collect();
        assert_eq!(hashes.len(), 100, "a table of them stays one and does not become a list");
    }

    #[test]
    fn a_name_in_lower_case_keeps_one_string() {
        let name = nickname("alice").0;
        assert!(Arc::ptr_eq(&name.shown, &name.folded));
    }

    #[test]
    fn names_of_many_scripts() {
        assert_eq!(nickname("ЖЕНЯ"), nickname("женя"));
        assert_eq!(nickname("ΟΔΟΣ"), nickname("οδος"));
        assert_eq!(nickname("οδοσ"), nickname("οδος"), "the two lower-case sigmas are one letter");
        assert_eq!(nickname("ẞ"), nickname("ß"));
        assert_ne!(nickname("straße"), nickname("strasse"), "simple folding has no ß = ss");
        assert_eq!(nickname("李小龍").folded(), "李小龍");
        assert_eq!(nickname("مُحَمَّد").as_str(), "مُحَمَّد");
        assert_eq!(nickname("Ⅷ"), nickname("ⅷ"));
        assert_eq!(nickname("𐐀"), nickname("𐐨"), "beyond the basic plane");
        assert_eq!(nickname("\u{212A}elvin"), nickname("kelvin"), "the Kelvin sign folds into ASCII");
    }

    #[test]
    fn turkish_dots_are_not_folded_away() {
        assert_ne!(nickname("İ"), nickname("i"));
        assert_ne!(nickname("ı"), nickname("i"));
        assert_eq!(nickname("I"), nickname("i"));
    }

    #[test]
    fn what_is_no_name_is_told_why() {
        let error = |written: &str| Nickname::parse(written).unwrap_err();
        assert_eq!(error(""), NameError::Empty);
        assert_eq!(error("-a"), NameError::BadFirst('-'));
        assert_eq!(error("\u{301}a"), NameError::BadFirst('\u{301}'));
        assert_eq!(error("a b"), NameError::BadChar(' '));
        assert_eq!(error("🦀"), NameError::BadChar('🦀'));
        assert_eq!(error("a/b"), NameError::BadChar('/'));
        assert_eq!(error("a\u{200D}b"), NameError::Invisible('\u{200D}'));
        assert_eq!(error("\u{202E}a"), NameError::Invisible('\u{202E}'));
        assert_eq!(
            error("a\n").to_string(),
            "a name has letters, marks, numbers, '_', '-' and '.', but no '\\n'"
        );
        assert_eq!(error(".a").to_string(), "a name begins with a letter or a number, not with '.'");
    }

    #[test]
    fn names_have_no_characters_that_cannot_be_seen() {
        let fillers = ['\u{3164}', '\u{115F}', '\u{1160}', '\u{FFA0}', '\u{17B4}', '\u{17B5}', '\u{34F}'];
        let selectors = ['\u{FE00}', '\u{FE0F}', '\u{180B}', '\u{180F}', '\u{E0100}', '\u{E01EF}'];
        for c in fillers.into_iter().chain(selectors) {
            for written in [format!("{c}"), format!("{c}a"), format!("a{c}"), format!("a{c}b")] {
                assert_eq!(Nickname::parse(&written), Err(NameError::Invisible(c)), "{written:?}");
            }
        }
        let error = NameError::Invisible('\u{3164}');
        assert_eq!(error.to_string(), "a name has no invisible characters, such as U+3164");
        for c in ['\u{114}', '\u{34E}', '\u{350}', '\u{115E}', '\u{1161}', '\u{3163}', '\u{3165}', '\u{FFA1}']
        {
            assert!(is_name_character(c), "{c:?}: the neighbours of what is refused are letters and marks");
        }
        assert!(INVISIBLE.windows(2).all(|pair| pair[0].1 < pair[1].0), "looked up as if in order");
    }

    #[test]
    fn limits_count_characters() {
        assert!(Nickname::parse(&"𐐀".repeat(32)).is_ok());
        assert_eq!(Nickname::parse(&"a".repeat(33)), Err(NameError::TooLong { chars_max: 32 }));
        assert_eq!(Nickname::parse(&"🦀".repeat(33)), Err(NameError::TooLong { chars_max: 32 }));
        assert!(RoomName::parse(&"𐐀".repeat(64)).is_ok());
        assert_eq!(RoomName::parse(&"é".repeat(65)), Err(NameError::TooLong { chars_max: 64 }));
    }

    #[test]
    fn folding_any_character_twice_changes_nothing_and_keeps_it_allowed() {
        for c in '\0'..=char::MAX {
            let folded = fold_char(c);
            assert_eq!(fold_char(folded), folded, "{c:?}");
            assert_eq!(is_name_character(c), is_name_character(folded), "{c:?}");
        }
    }

    #[test]
    fn content_has_a_byte_and_no_more_than_the_limit() {
        assert_eq!(check_content("", 8), Err(ContentError::Empty));
        assert_eq!(check_content("é".repeat(4).as_str(), 8), Ok(()));
        assert_eq!(check_content("123456789", 8), Err(ContentError::TooLong { bytes_max: 8 }));
    }
}
