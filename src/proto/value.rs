//! Values of a room's state: JSON that the server keeps as it was written and hands to others, now and when they join.
//! What would break the parsers of those is refused where it comes in.

use std::borrow::Cow;

use super::json::{Fault, Reason, compact};

/// How deep arrays and objects may stand in each other. Parsers have limits, and some less than 100 (64 in .NET's
/// System.Text.Json); what the value stands in, such as the answer to a join, takes a few levels more.
pub const DEPTH_MAX: usize = 32;

/// Makes a value of JSON whose grammar has been checked compact, so that it stands on one line; `field` is where it stood.
pub(super) fn read<'a>(field: &str, json: &'a str) -> Result<Cow<'a, str>, Fault> {
    check(json).map_err(|why| Fault::new(Reason::BadRequest, format!("field `{field}` {why}")))?;
    Ok(compact(json))
}

/// One pass without recursion, because the depth is what is in doubt.
fn check(json: &str) -> Result<(), String> {
    let bytes = json.as_bytes();
    let (mut at, mut depth) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = at + string_bytes(&bytes[at..]);
                check_string(&bytes[at..end])?;
                at = end;
                continue;
            }
            b'-' | b'0'..=b'9' => {
                let number = bytes[at..].iter().take_while(|byte| is_of_number(**byte)).count();
                check_number(&json[at..at + number])?;
                at += number;
                continue;
            }
            b'[' | b'{' if depth == DEPTH_MAX => {
                return Err(format!("may be nested {DEPTH_MAX} deep"));
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// How long the string is that begins here, quotes included.
fn string_bytes(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(special) = memchr::memchr2(b'"', b'\\', &bytes[at..]) {
        at += special;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2; // what is escaped is no end
    }
    unreachable!("the grammar has been checked, so that the string has an end")
}

/// RFC 8259 section 8.2: what an escape for half a surrogate pair means nobody knows, and some readers take the whole text for damaged.
fn check_string(quoted: &[u8]) -> Result<(), String> {
    let mut at = 0;
    while let Some(escape) = memchr::memchr(b'\\', &quoted[at..]) {
        at += escape;
        at += match (code_unit(&quoted[at..]), code_unit(quoted.get(at + 6..).unwrap_or_default())) {
            (Some(0xD800..0xDC00), Some(0xDC00..0xE000)) => 12,
            (Some(0xD800..0xE000), _) => return Err("has half a surrogate pair".to_owned()),
            _ => 2, // the digits behind it are text like any other
        };
    }
    Ok(())
}

/// The code unit that is escaped here by its number.
fn code_unit(escape: &[u8]) -> Option<u16> {
    let digits = escape.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn is_of_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')
}

/// RFC 8259 section 6 lets a number be as large as it likes, but readers have doubles: some take such a one for infinite,
/// and others the whole text for damaged.
fn check_number(number: &str) -> Result<(), String> {
    match number.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(()),
        _ => Err("has a number that is too large for a double".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(json: &str) -> String {
        read("value", json).expect_err(json).answering(None).message.into_owned()
    }

    #[test]
    fn values_are_nested_32_deep() {
        let of = |open: &str, close: &str, depth| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"]":"#, "}]")] {
            let levels = if open.len() > 5 { 2 } else { 1 };
            assert!(read("value", &of(open, close, 32 / levels)).is_ok());
            assert_eq!(fault(&of(open, close, 32 / levels + 1)), "field `value` may be nested 32 deep");
        }
        assert_eq!(fault(&"[".repeat(2000)), "field `value` may be nested 32 deep");
        let wide = "[],{},".repeat(100);
        for wide in [format!("[{wide}1]"), format!("[[{wide}1]]")] {
            assert!(read("value", &wide).is_ok(), "wide is not deep");
        }
        assert!(read("value", &format!("\"{}\"", "[".repeat(100))).is_ok(), "in a string brackets are text");
        assert!(
            read("value", &format!(r#"["\\\"{}"]"#, "[".repeat(100))).is_ok(),
            "an escaped quote ends no string"
        );
    }

    #[test]
    fn numbers_are_doubles() {
        for number in
            ["0", "-0.0", "1e308", "-1.7976931348623157e308", "1E-999", "123456789012345678901234567890"]
        {
            assert!(read("value", number).is_ok(), "{number}");
        }
        for number in ["1e999", "-1e999", "1E+309", "1.8e308", r#"{"a":[0,2e400]}"#, &"9".repeat(400)] {
            assert_eq!(fault(number), "field `value` has a number that is too large for a double");
        }
        assert!(read("value", r#"["1e999",true,{"1e999":null}]"#).is_ok(), "in a string a number is text");
    }

    #[test]
    fn surrogates_come_in_pairs() {
        for json in [
            r#""\ud83d\udc26""#,
            r#""\uD83D\uDC26\ud83d\udc26""#,
            r#"{"\ud83d\udc26":"\\ud83d"}"#,
            r#""\u00e9 \\\" d83d""#,
        ] {
            assert_eq!(read("value", json).ok().expect(json), json);
            assert!(serde_json::from_str::<serde_json::Value>(json).is_ok());
        }
        for json in [
            r#""\ud83d""#,
            r#""\udc26\ud83d""#,
            r#""\ud83d\ud83d\udc26""#,
            r#""\ud83dx\udc26""#,
            r#"{"\uDFFF":1}"#,
            r#"[1,"\\\ud800"]"#,
        ] {
            assert_eq!(fault(json), "field `value` has half a surrogate pair", "{json}");
            assert!(serde_json::from_str::<serde_json::Value>(json).is_err(), "others refuse it");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_others_can_read(text in r#"(\\(u[0-9a-fA-F]{4}|ud[89abcdef][0-9a-f]{2}|["\\nt])|[a-fu0-9]){0,8}"#) {
            let json = format!("\"{text}\"");
            let is_read = serde_json::from_str::<serde_json::Value>(&json).is_ok();
            prop_assert_eq!(read("value", &json).is_ok(), is_read, "{}", json);
        }

        #[test]
        fn every_text_of_a_string_is_skipped(texts in prop::collection::vec(".*", 0..4)) {
            let json = serde_json::to_string(&texts).unwrap();
            prop_assert_eq!(read("value", &json).ok().expect("strings are good"), json.as_str());
        }
    }
}
