//! Text of other people, made harmless; widths, cuts and wraps in columns of a terminal.

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};
use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

/// What stands for a line break in a text that has one line.
pub const BREAK: char = '⏎';

/// The longest grapheme that is shown whole, in characters: a family of four has 7, stacks of marks have hundreds.
const GRAPHEME_MAX: usize = 12;

/// What a character of other people's text is shown as; nothing for those that cannot be seen.
fn harmless_char(letter: char) -> Option<char> {
    match letter {
        '\t' => Some(' '),
        '\n' | '\u{2028}' | '\u{2029}' => Some(BREAK),
        // Each has a picture; most fonts have them.
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(letter)),
        '\x7f' => Some('␡'),
        '\u{80}'..='\u{9f}' => Some('\u{fffd}'),
        // They join emoji and letters of some scripts, and turn nothing.
        '\u{200c}' | '\u{200d}' => Some(letter),
        // What turns the direction, or cannot be seen.
        _ if letter.general_category() == GeneralCategory::Format => None,
        _ => Some(letter),
    }
}

/// A text that others wrote, as one line without anything that moves the cursor, changes the terminal or turns the direction.
pub fn harmless(text: &str) -> String {
    let text: String = text.replace("\r\n", "\n").chars().filter_map(harmless_char).collect();
    if text.is_ascii() {
        return text;
    }
    let cut = |grapheme: &str| grapheme.chars().take(GRAPHEME_MAX).collect::<String>();
    text.graphemes(true).map(cut).collect()
}

/// How many columns a grapheme takes.
pub fn width_of(grapheme: &str) -> usize {
    // ratatui draws no grapheme in more than two cells either, as terminals do.
    grapheme.width().min(2)
}

/// How many columns a text takes.
pub fn width(text: &str) -> usize {
    text.graphemes(true).map(width_of).sum()
}

/// What fits of a text; if that is not all, it ends with `…`.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let fits = |grapheme: &&str| {
        let width = width_of(grapheme);
        let does = width <= left;
        left = if does { left - width } else { 0 };
        does
    };
    let mut cut: String = text.graphemes(true).take_while(fits).collect();
    if columns > 0 {
        cut.push('…');
    }
    cut
}

/// A text in exactly so many columns.
pub fn fitted(text: &str, columns: usize) -> String {
    let text = cut(text, columns);
    let left = columns.saturating_sub(width(&text));
    text + &" ".repeat(left)
}

/// A text in rows of so many columns: broken at spaces where that is possible, and behind line breaks.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    let mut rows = Vec::new();
    let mut row = String::new();
    let mut used = 0;
    for word in text.split_inclusive([' ', BREAK]) {
        let is_end = word.ends_with(BREAK);
        let bare = word.trim_end_matches(' ');
        if used + width(bare) > columns && used > 0 && width(bare) <= columns {
            rows.push(std::mem::take(&mut row).trim_end().to_owned());
            used = 0;
        }
        for grapheme in word.graphemes(true) {
            let width = width_of(grapheme);
            if used + width > columns {
                if grapheme == " " {
                    // It hangs over the edge.
                    continue;
                }
                rows.push(std::mem::take(&mut row));
                used = 0;
            }
            row.push_str(grapheme);
            used += width;
        }
        if is_end {
            rows.push(std::mem::take(&mut row));
            used = 0;
        }
    }
    if !row.is_empty() || rows.is_empty() {
        rows.push(row);
    }
    rows
}

/// Whether a text has this nickname in it as a word, whatever its case.
pub fn mentions(text: &str, nickname: &str) -> bool {
    if nickname.is_empty() {
        return false;
    }
    let (text, nickname) = (text.to_lowercase(), nickname.to_lowercase());
    let is_of_word =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    text.match_indices(&nickname).any(|(at, found)| {
        !is_of_word(text[..at].chars().next_back()) && !is_of_word(text[at + found.len()..].chars().next())
    })
}

/// How long something takes, for people.
pub fn seconds(duration: std::time::Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds => format!("{:.0} min", seconds / 60.0),
    }
}

/// A latency, for people.
pub fn millis(duration: std::time::Duration) -> String {
    match duration.as_secs_f64() * 1000.0 {
        millis if millis < 10.0 => format!("{millis:.1} ms"),
        millis => format!("{millis:.0} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_cannot_move_the_cursor_or_turn_the_direction() {
        assert_eq!(harmless("a\x1b[2Jb"), "a␛[2Jb");
        assert_eq!(harmless("one\ntwo\r\nthree\u{2028}four\rfive"), "one⏎two⏎three⏎four␍five");
        assert_eq!(harmless("a\tb\x7f\u{9b}c"), "a b␡\u{fffd}c");
        assert_eq!(harmless("a\u{202e}gnp.exe\u{2066}b\u{200b}\u{feff}\u{ad}"), "agnp.exeb");
        assert_eq!(harmless("👩\u{200d}👩\u{200d}👧"), "👩\u{200d}👩\u{200d}👧");
        assert!(harmless(&format!("a{}", "\u{301}".repeat(500))).chars().count() <= GRAPHEME_MAX);
    }

    #[test]
    fn columns_are_those_of_a_terminal() {
        for (text, columns) in
            [("ab", 2), ("李明", 4), ("e\u{301}", 1), ("🦜", 2), ("👩\u{200d}👧", 2), ("❤\u{fe0f}", 2)]
        {
            assert_eq!(width(text), columns, "{text}");
        }
        assert_eq!(
            (cut("abcdef", 4), cut("李明好", 4), cut("ab", 2)),
            ("abc…".into(), "李…".into(), "ab".into())
        );
        assert_eq!((fitted("李", 4), cut("abc", 0)), ("李  ".into(), String::new()));
    }

    #[test]
    fn lines_break_at_spaces_and_within_what_is_too_long() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("a bcdefghijk", 5), ["a bcd", "efghi", "jk"]);
        assert_eq!(wrap("李明好好", 5), ["李明", "好好"]);
        assert_eq!(wrap("one⏎two", 20), ["one⏎", "two"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("x⏎", 5), ["x⏎"]);
    }

    #[test]
    fn a_mention_is_a_word() {
        for text in ["bob: hi", "hi Bob!", "@bob", "(bob)"] {
            assert!(mentions(text, "bob"), "{text}");
        }
        for text in ["bobby", "kebob", "bob_2", ""] {
            assert!(!mentions(text, "bob"), "{text}");
        }
        assert!(!mentions("x", ""));
    }
}
