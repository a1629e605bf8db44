//! How one log line looks: as text for people, as JSON for programs. Either way one line is one entry, whatever a
//! peer's data holds: control characters are escaped, so that nobody forges lines or steers the reader's terminal.

use std::fmt::Write as _;

use crate::config::LogFormat;

/// One thing to log.
#[derive(Debug)]
pub(super) struct Entry {
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    pub level: log::Level,
    /// The module that tells it.
    pub target: String,
    pub message: String,
    /// What it is about, by names.
    pub fields: Vec<(String, Field)>,
}

/// What stands under a name.
#[derive(Debug)]
pub(super) enum Field {
    Number(u64),
    Text(String),
}

/// How a sink's lines look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub format: LogFormat,
    /// Whether the level is coloured; text only.
    pub is_coloured: bool,
}

impl Style {
    /// Appends one line for `entry`, its end included. Writing to a `String` cannot fail.
    pub fn append(self, out: &mut String, entry: &Entry) {
        match self.format {
            LogFormat::Text => {
                push_time(out, entry.time_ms);
                let (on, off) = if self.is_coloured { (colour(entry.level), "\x1b[0m") } else { ("", "") };
                let _ = write!(out, " {on}{:<5}{off} ", entry.level.as_str());
                push_escaped(out, &entry.target);
                out.push_str(": ");
                push_escaped(out, &entry.message);
                for (name, field) in &entry.fields {
                    out.push(' ');
                    push_escaped(out, name);
                    out.push('=');
                    match field {
                        Field::Number(number) => _ = write!(out, "{number}"),
                        Field::Text(text) => push_value(out, text),
                    }
                }
            }
            LogFormat::Json => {
                out.push_str("{\"time\":\"");
                push_time(out, entry.time_ms);
                let _ = write!(out, "\",\"level\":\"{}\"", entry.level.as_str().to_lowercase());
                out.push_str(",\"target\":");
                push_json(out, &entry.target);
                out.push_str(",\"message\":");
                push_json(out, &entry.message);
                for (name, field) in &entry.fields {
                    out.push(',');
                    push_json(out, name);
                    out.push(':');
                    match field {
                        Field::Number(number) => _ = write!(out, "{number}"),
                        Field::Text(text) => push_json(out, text),
                    }
                }
                out.push('}');
            }
        }
        out.push('\n');
    }
}

fn colour(level: log::Level) -> &'static str {
    match level {
        log::Level::Error => "\x1b[31m",
        log::Level::Warn => "\x1b[33m",
        log::Level::Info => "\x1b[32m",
        log::Level::Debug => "\x1b[36m",
        log::Level::Trace => "\x1b[2m",
    }
}

/// Characters that move the cursor, end a line or turn the direction of text: controls (C0, DEL, C1), the line and
/// paragraph separators, and the marks of bidirectional text.
fn is_unsafe(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn push_escaped(out: &mut String, text: &str) {
    for letter in text.chars() {
        if is_unsafe(letter) { out.extend(letter.escape_default()) } else { out.push(letter) }
    }
}

/// A value after its name: in quotes where it would not be clear where it ends.
fn push_value(out: &mut String, text: &str) {
    if !text.is_empty() && !text.contains([' ', '"', '=', '\\']) {
        return push_escaped(out, text);
    }
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            _ if is_unsafe(letter) => out.extend(letter.escape_default()),
            _ => out.push(letter),
        }
    }
    out.push('"');
}

fn push_json(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            // All of them are below U+10000, so one escape does (RFC 8259 section 7).
            _ if is_unsafe(letter) => _ = write!(out, "\\u{:04x}", u32::from(letter)),
            _ => out.push(letter),
        }
    }
    out.push('"');
}

/// RFC 3339, UTC, with milliseconds.
pub fn push_time(out: &mut String, time_ms: u64) {
    let (seconds, ms) = (time_ms / 1000, time_ms % 1000);
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z");
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
pub fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    // Whole cycles first: the steps below are then at most 400, whatever the clock says.
    let mut year = 1970 + days / DAYS_IN_400_YEARS * 400;
    let mut left = days % DAYS_IN_400_YEARS;
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    loop {
        let length = 365 + u64::from(is_leap(year));
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: LogFormat, is_coloured: bool, message: &str) -> String {
        line_with(format, is_coloured, message, Vec::new())
    }

    fn line_with(
        format: LogFormat,
        is_coloured: bool,
        message: &str,
        fields: Vec<(String, Field)>,
    ) -> String {
        let entry = Entry {
            time_ms: 1_795_255_872_345,
            level: log::Level::Info,
            target: "starling::server".to_owned(),
            message: message.to_owned(),
            fields,
        };
        let mut out = String::new();
        Style { format, is_coloured }.append(&mut out, &entry);
        out
    }

    #[test]
    fn text_line() {
        let expected = "2026-11-21T10:11:12.345Z INFO  starling::server: message\n";
        assert_eq!(line(LogFormat::Text, false, "message"), expected);
        let coloured = line(LogFormat::Text, true, "message");
        assert_eq!(coloured.replace("\x1b[32m", "").replace("\x1b[0m", ""), expected);
        assert_ne!(coloured, expected);
    }

    #[test]
    fn one_entry_is_one_line_without_controls() {
        let nasty = "a\r\nb\x1b[2J\u{9b}1m\u{7f}\u{202e}\u{2028}\"\\ü";
        let text = line(LogFormat::Text, false, nasty);
        assert!(text.ends_with("a\\r\\nb\\u{1b}[2J\\u{9b}1m\\u{7f}\\u{202e}\\u{2028}\"\\ü\n"), "{text}");
        let json = line(LogFormat::Json, true, nasty);
        assert!(!json.trim_end_matches('\n').chars().any(is_unsafe), "{json}");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["message"], nasty);
        assert_eq!(value["level"], "info");
        assert_eq!(value["target"], "starling::server");
        assert_eq!(value["time"], "2026-11-21T10:11:12.345Z");
    }

    #[test]
    fn fields_follow_the_message() {
        let nasty = "a \"b\\\n\u{1b}\u{2028}=";
        let fields = || {
            let texts = [("conn", "0.1.2"), ("nickname", nasty), ("path", "")];
            let mut fields: Vec<_> =
                texts.map(|(name, text)| (name.to_owned(), Field::Text(text.to_owned()))).into();
            fields.push(("bytes".to_owned(), Field::Number(u64::MAX)));
            fields
        };
        let text = line_with(LogFormat::Text, false, "said", fields());
        let expected =
            r#"said conn=0.1.2 nickname="a \"b\\\n\u{1b}\u{2028}=" path="" bytes=18446744073709551615"#;
        assert!(text.ends_with(&format!(": {expected}\n")), "{text}");
        let json = line_with(LogFormat::Json, false, "said", fields());
        assert_eq!(json.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["message"], "said");
        assert_eq!(value["conn"], "0.1.2");
        assert_eq!(value["nickname"], nasty);
        assert_eq!(value["path"], "");
        assert_eq!(value["bytes"], u64::MAX);
    }

    #[test]
    fn dates() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(58), (1970, 2, 28));
        assert_eq!(date(59), (1970, 3, 1));
        assert_eq!(date(365 + 365 + 31 + 28), (1972, 2, 29));
        // 2000 is a leap year, 2100 is not.
        assert_eq!(date(951_782_400 / 86_400), (2000, 2, 29));
        assert_eq!(date(4_107_542_400 / 86_400), (2100, 3, 1));
        assert_eq!(date(4_107_456_000 / 86_400), (2100, 2, 28));
        // The end of what a clock can say is slow for nobody.
        assert!(date(u64::MAX / 86_400_000).0 > 500_000_000);
    }
}
