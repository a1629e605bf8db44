//! Server-Sent Events: an event stream as the HTML standard has it (section 9.2). Lines of `field: value`, an empty line after each
//! event. What is put into a stream cannot end a line of it, whatever it contains.

use memchr::memchr2;

/// The type of an event stream.
pub const CONTENT_TYPE: &str = "text/event-stream";

/// Appends an event: what it is called, the place that a client says it has reached when it has it, and its data.
pub fn put_event(out: &mut Vec<u8>, name: &str, epoch: &str, offset: u64, data: &[u8]) {
    out.reserve(data.len() + name.len() + epoch.len() + 64);
    put_field(out, b"event", name.as_bytes());
    put_place(out, epoch, offset);
    put_field(out, b"data", data);
    out.push(b'\n');
}

/// Appends what begins a stream: after how long a client that has lost it comes back, and where it begins, if the client does not know
/// that already. Nothing is dispatched for it.
pub fn put_beginning(out: &mut Vec<u8>, retry_ms: u64, place: Option<(&str, u64)>) {
    put_field(out, b"retry", itoa::Buffer::new().format(retry_ms).as_bytes());
    if let Some((epoch, offset)) = place {
        put_place(out, epoch, offset);
    }
    out.push(b'\n');
}

/// Appends what ends a stream: why, for people, and after how long the client comes back, if that is not for it to choose.
pub fn put_end(out: &mut Vec<u8>, code: u16, reason: &str, retry_ms: Option<u64>) {
    if let Some(retry_ms) = retry_ms {
        put_field(out, b"retry", itoa::Buffer::new().format(retry_ms).as_bytes());
    }
    let mut buffer = itoa::Buffer::new();
    put_field(out, b"", [buffer.format(code), reason].join(" ").as_bytes());
    out.push(b'\n');
}

/// Appends a comment that says nothing, which clients leave out.
pub fn put_comment(out: &mut Vec<u8>) {
    out.extend_from_slice(b":\n\n");
}

/// The place that a client says it has reached, as it was told it in an `id`; `None` if it was not.
pub fn parse_place(id: &str) -> Option<(&str, u64)> {
    let (epoch, offset) = id.rsplit_once(':')?;
    // Not what Rust takes beside digits.
    let is_number = !offset.is_empty() && offset.bytes().all(|byte| byte.is_ascii_digit());
    Some((epoch, offset.parse().ok().filter(|_| is_number)?))
}

fn put_place(out: &mut Vec<u8>, epoch: &str, offset: u64) {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    debug_assert!(epoch.bytes().all(is_plain), "an epoch is plain");
    out.extend_from_slice(b"id: ");
    out.extend_from_slice(epoch.as_bytes());
    out.push(b':');
    out.extend_from_slice(itoa::Buffer::new().format(offset).as_bytes());
    out.push(b'\n');
}

/// Appends a field, of one line for each of its value's.
fn put_field(out: &mut Vec<u8>, name: &[u8], mut value: &[u8]) {
    loop {
        let end = memchr2(b'\r', b'\n', value);
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(&value[..end.unwrap_or(value.len())]);
        out.push(b'\n');
        let Some(end) = end else { return };
        let is_pair = value[end..].starts_with(b"\r\n");
        value = &value[end + if is_pair { 2 } else { 1 }..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An event as a client dispatches it, with the place that it has reached then.
    #[derive(Debug, PartialEq, Eq)]
    struct Dispatched {
        event: String,
        data: String,
        id: String,
    }

    /// What a client hears, read as the standard says (section 9.2.6): what was dispatched, the last id, and the last time to wait.
    fn read(stream: &[u8]) -> (Vec<Dispatched>, String, Option<u64>) {
        let text = std::str::from_utf8(stream).expect("UTF-8");
        let (mut all, mut last_id, mut retry) = (Vec::new(), String::new(), None);
        let (mut event, mut data, mut id) = (String::new(), String::new(), String::new());
        let mut rest = text;
        while let Some(end) = rest.find(['\r', '\n']) {
            let line = &rest[..end];
            rest = &rest[end..];
            rest = rest.strip_prefix("\r\n").unwrap_or_else(|| &rest[1..]);
            if line.is_empty() {
                last_id = id.clone();
                if !data.is_empty() {
                    data.pop();
                    let (event, data) = (std::mem::take(&mut event), std::mem::take(&mut data));
                    all.push(Dispatched { event, data, id: last_id.clone() });
                }
                (event, data) = (String::new(), String::new());
                continue;
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "event" => event = value.to_owned(),
                "data" => data += &format!("{value}\n"),
                "id" if !value.contains('\0') => id = value.to_owned(),
                "retry" => retry = value.parse().ok().or(retry),
                _ => {}
            }
        }
        assert_eq!(rest, "", "a line without an end");
        (all, last_id, retry)
    }

    #[test]
    fn a_stream_reads_as_it_was_written() {
        let mut out = Vec::new();
        put_beginning(&mut out, 2500, Some(("ab", 3)));
        let (events, id, retry) = read(&out);
        assert_eq!((events.len(), id.as_str(), retry), (0, "ab:3", Some(2500)));
        put_event(&mut out, "message", "ab", 4, b"{}");
        put_comment(&mut out);
        put_event(&mut out, "message", "ab", 5, b"{}");
        put_end(&mut out, 4300, "draining", Some(70));
        let (events, id, retry) = read(&out);
        let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
        assert_eq!((ids, id.as_str(), retry), (vec!["ab:4", "ab:5"], "ab:5", Some(70)));
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "retry: 2500\nid: ab:3\n\nevent: message\nid: ab:4\ndata: {}\n\n:\n\nevent: message\nid: ab:5\ndata: {}\n\n\
             retry: 70\n: 4300 draining\n\n"
        );
    }

    #[test]
    fn a_client_that_knows_its_place_keeps_it() {
        let mut out = b"id: ab:9\n\n".to_vec();
        put_beginning(&mut out, 1, None);
        put_end(&mut out, 4201, "slow_consumer", None);
        assert_eq!(read(&out), (vec![], "ab:9".to_owned(), Some(1)));
    }

    #[test]
    fn only_places_are_places() {
        assert_eq!(parse_place("9f3c:41"), Some(("9f3c", 41)));
        assert_eq!(parse_place("a:b:7"), Some(("a:b", 7)));
        assert_eq!(parse_place(":0"), Some(("", 0)));
        assert_eq!(parse_place("a:18446744073709551615"), Some(("a", u64::MAX)));
        for none in ["", "a", "a:", ":", "a:x", "a:-1", "a:+1", "a: 1", "a:1 ", "a:18446744073709551616"] {
            assert_eq!(parse_place(none), None, "{none:?}");
        }
    }

    /// Text of what could break a line, and of anything else.
    fn text() -> impl Strategy<Value = String> {
        let unit = prop_oneof![
            Just("\n"),
            Just("\r"),
            Just("\r\n"),
            Just("\0"),
            Just("\u{2028}"),
            Just("\u{85}"),
            Just("\u{feff}"),
            Just("data: x"),
            Just("id: evil:1"),
            Just(":"),
            Just(" "),
        ];
        let unit = prop_oneof![unit.prop_map(str::to_owned), any::<String>()];
        proptest::collection::vec(unit, 0..12).prop_map(|units| units.concat())
    }

    proptest! {
        #[test]
        fn no_data_breaks_a_stream(contents in proptest::collection::vec(text(), 1..6), first in 1..1000_u64) {
            let mut out = Vec::new();
            for (content, offset) in contents.iter().zip(first..) {
                put_event(&mut out, "message", "e-1", offset, content.as_bytes());
                put_comment(&mut out);
            }
            let (events, ..) = read(&out);
            prop_assert_eq!(events.len(), contents.len());
            for ((event, content), offset) in events.iter().zip(&contents).zip(first..) {
                let data = content.replace("\r\n", "\n").replace('\r', "\n");
                prop_assert_eq!((&*event.event, &event.data, &event.id), ("message", &data, &format!("e-1:{offset}")));
            }
        }

        #[test]
        fn the_json_of_a_message_is_one_line_of_data(content in text(), sender in text(), offset in 1..u64::MAX) {
            let message = crate::proto::wire::Event::Message {
                room: "den", sender: &sender, content: &content, offset, timestamp: 7,
            };
            let (mut json, mut out) = (Vec::new(), Vec::new());
            crate::proto::json::write(&message, &mut json);
            put_event(&mut out, "message", "e", offset, &json);
            let lines = out.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
            prop_assert_eq!(lines, 4, "a message is three fields and an empty line");
            let (events, ..) = read(&out);
            let read: serde_json::Value = serde_json::from_str(&events[0].data).unwrap();
            prop_assert_eq!(read["content"].as_str(), Some(&*content));
        }

        #[test]
        fn places_come_back(epoch in "[A-Za-z0-9_-]{1,20}", offset: u64) {
            let id = format!("{epoch}:{offset}");
            prop_assert_eq!(parse_place(&id), Some((&*epoch, offset)));
        }
    }
}
