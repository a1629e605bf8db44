//! Standard input as lines that can be sent.

use std::io::{self, Read};
use std::thread;

use starling_client::crossbeam_channel::{Receiver, Sender, bounded};

/// The longest content that a server takes, by its default.
pub const CONTENT_MAX: usize = 65_536;

/// How many lines wait to be looked at: what has no place stays in the pipe.
const WAITING: usize = 64;

/// How much is read at a time.
const CHUNK: usize = 64 * 1024;

/// What has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A line, without its end, and its number from 1.
    Line(u64, String),
    /// A line that cannot be sent, and why.
    Wrong(u64, String),
    /// There is no more.
    End,
    /// It cannot be read.
    Failed(String),
}

/// Reads on a thread of its own, as it comes.
///
/// # Errors
/// When there can be no thread.
pub fn read(input: impl Read + Send + 'static) -> io::Result<Receiver<Input>> {
    let (tell, heard) = bounded(WAITING);
    thread::Builder::new().name("stdin".to_owned()).spawn(move || split(input, &tell))?;
    Ok(heard)
}

fn split(mut input: impl Read, tell: &Sender<Input>) {
    let mut chunk = vec![0; CHUNK];
    let mut line = Lines::default();
    loop {
        let count = match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let _ = tell.send(Input::Failed(error.to_string()));
                return;
            }
        };
        let mut rest = &chunk[..count];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            line.add(&rest[..end]);
            rest = &rest[end + 1..];
            // Nobody listens any more: it has ended.
            if line.finish().is_some_and(|line| tell.send(line).is_err()) {
                return;
            }
        }
        line.add(rest);
    }
    if line.length > 0 && line.finish().is_some_and(|line| tell.send(line).is_err()) {
        return;
    }
    let _ = tell.send(Input::End);
}

/// The line that is being read.
#[derive(Debug, Default)]
struct Lines {
    number: u64,
    /// As much of it as may be sent, and a bit more.
    bytes: Vec<u8>,
    length: usize,
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        let place = (CONTENT_MAX + 2).saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(place)]);
        self.length += bytes.len();
    }

    /// The line, unless it is empty: there is nothing in it to be said.
    fn finish(&mut self) -> Option<Input> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let mut length = std::mem::take(&mut self.length);
        self.number += 1;
        if length == bytes.len() && bytes.last() == Some(&b'\r') {
            bytes.pop();
            length -= 1;
        }
        if length > CONTENT_MAX {
            return Some(Input::Wrong(
                self.number,
                format!("it has {length} bytes, more than {CONTENT_MAX}"),
            ));
        }
        match String::from_utf8(bytes) {
            Ok(line) if line.is_empty() => None,
            Ok(line) => Some(Input::Line(self.number, line)),
            Err(error) => {
                let at = error.utf8_error().valid_up_to() + 1;
                Some(Input::Wrong(self.number, format!("its byte {at} is no UTF-8")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8]) -> Vec<Input> {
        // As pipes give it: a few bytes at a time.
        struct Slow(Vec<u8>);
        impl Read for Slow {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let count = self.0.len().min(7).min(into.len());
                into[..count].copy_from_slice(&self.0[..count]);
                self.0.drain(..count);
                Ok(count)
            }
        }
        read(Slow(input.to_vec())).unwrap().iter().collect()
    }

    fn line(number: u64, text: &str) -> Input {
        Input::Line(number, text.to_owned())
    }

    #[test]
    fn lines_end_as_they_like() {
        assert_eq!(
            lines(b"one\ntwo\r\n\n/three"),
            [line(1, "one"), line(2, "two"), line(4, "/three"), Input::End]
        );
        assert_eq!(lines("李明李明李明\n".as_bytes()), [line(1, "李明李明李明"), Input::End]);
        assert_eq!(lines(b""), [Input::End]);
    }

    #[test]
    fn what_cannot_be_sent_is_told_and_skipped() {
        let long = [vec![b'a'; CONTENT_MAX + 1], b"\nb\n\xff\nc".to_vec()].concat();
        let [Input::Wrong(1, why), rest @ ..] = &lines(&long)[..] else { panic!("the line is too long") };
        assert!(why.contains("65537 bytes"), "{why}");
        assert_eq!(rest[0], line(2, "b"));
        assert!(matches!(rest[1], Input::Wrong(3, _)));
        assert_eq!(rest[2..], [line(4, "c"), Input::End]);
        let fits = [vec![b'a'; CONTENT_MAX], b"\r\n".to_vec()].concat();
        assert!(matches!(&lines(&fits)[0], Input::Line(1, line) if line.len() == CONTENT_MAX));
    }
}
