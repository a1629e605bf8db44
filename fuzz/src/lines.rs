//! Lines of text: telnet's sequences, the cutting into lines, and what people's commands are.

use starling::proto::line::{Decoder, Line, Telnet};
use starling::proto::text;

use super::codec::{CUTS, Codec, told_alike};

const LINE_LIMIT: usize = 64;

/// Room for one line, and for how vectors grow.
const KEPT_MAX: usize = 4 * LINE_LIMIT;

impl Codec for Decoder {
    fn step(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), String> {
        let (taken, line) = self.decode(input);
        Ok((taken, line.map(|line| format!("{line:?}"))))
    }

    fn release(&mut self) {
        self.release();
    }

    fn kept_bytes(&self) -> usize {
        self.kept_bytes()
    }
}

/// Lines are those of the standard library however the bytes are cut; telnet's text is the same, and none of it without its byte; a line
/// has one meaning, which is a part of it; and what is shown of it stays on one line and does nothing to a terminal.
pub fn run(input: &[u8]) {
    let texts = CUTS.map(|cut| {
        let mut telnet = Telnet::default();
        cut.chunks(input).into_iter().fold(Vec::new(), |mut text, chunk| {
            let mut chunk = chunk.to_vec();
            let text_bytes = telnet.filter(&mut chunk);
            text.extend_from_slice(&chunk[..text_bytes]);
            text
        })
    });
    assert!(texts.iter().all(|text| *text == texts[0]), "telnet's text depends on how it is cut");
    let text = &texts[0];
    assert!(input.contains(&255) || text == input, "something is taken out of plain text");

    assert_eq!(told_alike(|| Decoder::new(LINE_LIMIT), text, KEPT_MAX), expected(text));
    for line in text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()) {
        parse(line);
    }
}

/// Lines as the standard library splits them.
fn expected(input: &[u8]) -> Vec<String> {
    let mut lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    let rest = lines.pop().unwrap_or_default();
    fn without_return(line: &[u8]) -> &[u8] {
        line.strip_suffix(b"\r").unwrap_or(line)
    }
    let told = |line: &[u8]| {
        let line = without_return(line);
        format!("{:?}", if line.len() > LINE_LIMIT { Line::TooLong } else { Line::Text(line) })
    };
    let mut told: Vec<_> = lines.into_iter().map(told).collect();
    if without_return(rest).len() > LINE_LIMIT {
        told.push(format!("{:?}", Line::TooLong));
    }
    told
}

fn parse(line: &str) {
    let meaning = text::parse(line);
    assert_eq!(meaning, text::parse(line));
    let parts: &[&str] = match &meaning {
        text::Line::Say(part)
        | text::Line::Nick(part)
        | text::Line::Join(part)
        | text::Line::Kick(part)
        | text::Line::Token(part)
        | text::Line::Unknown(part) => &[part],
        text::Line::Msg { target, text } => &[target, text],
        text::Line::Topic(Some(part)) => &[part],
        _ => &[],
    };
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
    let mut shown = Vec::new();
    text::put_text(&mut shown, line);
    let shown = String::from_utf8(shown).expect("text stays text");
    assert!(!shown.chars().any(char::is_control), "{shown:?} is not plain");
}
