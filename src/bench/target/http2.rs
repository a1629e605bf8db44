//! The client's side of a call of gRPC over HTTP/2 (RFC 9113), as far as a load generator needs it: one call a connection, on
//! stream 1, with the largest windows there are, so that it never has to renew them. They end a run in which one connection
//! hears 2 GiB, and a message that does not fit into the server's window while others are under way ends the connection.

use super::Heard;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const HEADER_BYTES: usize = 9;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// The bytes before each message of gRPC.
const PREFIX_BYTES: usize = 5;
/// The most bytes of a frame that a server must take without having said so.
const FRAME_BYTES_MAX: usize = 16_384;
const STREAM: u32 = 1;
const WINDOW_MAX: u32 = (1 << 31) - 1;
const WINDOW_INITIAL: u32 = 65_535;

/// Appends what a connection begins with, and the call of `path`.
pub fn put_call(path: &str, authority: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    // SETTINGS_HEADER_TABLE_SIZE 0, so that no header refers to another one; SETTINGS_INITIAL_WINDOW_SIZE.
    let mut settings = vec![0, 1, 0, 0, 0, 0, 0, 4];
    settings.extend_from_slice(&WINDOW_MAX.to_be_bytes());
    put(SETTINGS, 0, 0, &settings, out);
    put(WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - WINDOW_INITIAL).to_be_bytes(), out);
    // Of the static table of RFC 7541: `:method POST` and `:scheme http`; the others are literals.
    let mut block = vec![0x83, 0x86];
    for (name, value) in
        [(":path", path), (":authority", authority), ("content-type", "application/grpc"), ("te", "trailers")]
    {
        block.push(0); // without indexing, with a new name
        put_string(name, &mut block);
        put_string(value, &mut block);
    }
    put(HEADERS, END_HEADERS, STREAM, &block, out);
}

/// Appends a message, which `message` appends, in as many frames as it needs.
pub fn put_message(out: &mut Vec<u8>, message: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.resize(begin + HEADER_BYTES + PREFIX_BYTES, 0);
    message(out);
    let length = (out.len() - begin - HEADER_BYTES - PREFIX_BYTES) as u32;
    out[begin + HEADER_BYTES + 1..begin + HEADER_BYTES + PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    if length as usize + PREFIX_BYTES <= FRAME_BYTES_MAX {
        let header = header(DATA, 0, STREAM, length as usize + PREFIX_BYTES);
        return out[begin..begin + HEADER_BYTES].copy_from_slice(&header);
    }
    let whole = out.split_off(begin);
    for part in whole[HEADER_BYTES..].chunks(FRAME_BYTES_MAX) {
        put(DATA, 0, STREAM, part, out);
    }
}

/// Takes whole messages from the frames that `input` begins with, and has `hear` hear each. Returns how many bytes they were:
/// up to the end of a frame that is also the end of a message. What a server wants an answer to is a [`Heard::Ping`] with the
/// frame that is the answer.
pub fn decode(
    input: &[u8],
    heard: &mut Vec<Heard>,
    mut hear: impl FnMut(&[u8], &mut Vec<Heard>) -> Result<(), String>,
) -> Result<usize, String> {
    let (mut at, mut taken, mut heard_by_then) = (0, 0, heard.len());
    let mut partial: Vec<u8> = Vec::new();
    while let Some(frame) = input.get(at..at + HEADER_BYTES) {
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
        let (kind, flags) = (frame[3], frame[4]);
        let Some(payload) = input.get(at + HEADER_BYTES..at + HEADER_BYTES + length) else { break };
        at += HEADER_BYTES + length;
        match kind {
            DATA => {
                let mut rest = payload;
                if !partial.is_empty() {
                    partial.extend_from_slice(payload);
                    rest = &partial;
                }
                while let Some((message, behind)) = split_message(rest) {
                    hear(message, heard)?;
                    rest = behind;
                }
                partial = rest.to_vec();
            }
            SETTINGS if flags & ACK == 0 => heard.push(Heard::Ping(header(SETTINGS, ACK, 0, 0).into())),
            PING if flags & ACK == 0 => {
                let mut answer = header(PING, ACK, 0, payload.len()).to_vec();
                answer.extend_from_slice(payload);
                heard.push(Heard::Ping(answer.into()));
            }
            HEADERS if find(payload, b"grpc-status").is_some() => {
                let reason = String::from_utf8_lossy(payload);
                let readable: String = reason.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
                heard.push(Heard::Bye(readable.into()));
            }
            RST_STREAM => heard.push(Heard::Bye("the call was reset".into())),
            GOAWAY => {
                let why = String::from_utf8_lossy(payload.get(8..).unwrap_or_default());
                heard.push(Heard::Bye(format!("GOAWAY {why}").trim_end().into()));
            }
            _ => {}
        }
        if partial.is_empty() {
            (taken, heard_by_then) = (at, heard.len());
        }
    }
    // What was heard of frames that will come again is heard then.
    heard.truncate(heard_by_then);
    Ok(taken)
}

/// The message that `bytes` begin with, and what is behind it, once it is whole.
fn split_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let [_, a, b, c, d, rest @ ..] = bytes else { return None };
    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    (rest.len() >= length).then(|| rest.split_at(length))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}

fn header(kind: u8, flags: u8, stream: u32, length: usize) -> [u8; HEADER_BYTES] {
    let [_, high, middle, low] = (length as u32).to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    [high, middle, low, kind, flags, a, b, c, d]
}

fn put(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&header(kind, flags, stream, payload.len()));
    out.extend_from_slice(payload);
}

/// A string of HPACK, not compressed. Those here are short.
fn put_string(text: &str, out: &mut Vec<u8>) {
    debug_assert!(text.len() < 127);
    out.push(text.len().min(126) as u8);
    out.extend_from_slice(text.as_bytes().get(..126).unwrap_or(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::http2::{Chunk, Read, Server, Settings, Stream, Turned};

    const SERVER: Settings = Settings {
        streams: 10,
        header_bytes: 16_384,
        stream_window_bytes: 1 << 20,
        connection_window_bytes: 1 << 20,
        send_buffer_bytes: 1 << 20,
        pending_resets: 10,
        control_frames: 1000,
        small_frames: 1000,
    };

    /// The server's stream, once the call has come.
    fn opened(server: &mut Server, input: &[u8]) -> Stream {
        server.receive(input, 0).unwrap();
        let Turned::Opened(request, stream) = server.turn(1 << 20) else { panic!("no call came") };
        assert_eq!(request.uri().path(), "/a/B");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        stream
    }

    #[test]
    fn a_server_reads_the_call_and_its_messages() {
        let mut out = Vec::new();
        put_call("/a/B", "127.0.0.1:1", &mut out);
        put_message(&mut out, |out| out.extend_from_slice(b"short"));
        put_message(&mut out, |out| out.extend_from_slice(&[b'x'; 40_000]));
        let mut server = Server::new(&SERVER);
        let mut stream = opened(&mut server, &out);
        while let Turned::Opened(..) = server.turn(1 << 20) {}
        let mut bytes = Vec::new();
        while let Read::Data(data) = stream.read() {
            bytes.extend_from_slice(&data);
        }
        assert_eq!(bytes.len(), 5 + 5 + 5 + 40_000);
        assert!(bytes.starts_with(b"\0\0\0\0\x05short\0\0\0\x9c\x40x"));
    }

    proptest! {
        #[test]
        fn what_a_server_says_is_heard_alike_in_any_pieces(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20),
            cuts in prop::collection::vec(1usize..50, 1..8),
            pieces in prop::collection::vec(1usize..80, 1..8),
        ) {
            let mut out = Vec::new();
            put_call("/a/B", "127.0.0.1:1", &mut out);
            let mut server = Server::new(&SERVER);
            let mut stream = opened(&mut server, &out);
            stream.begin(crate::proto::grpc::head());
            let mut bytes = Vec::new();
            for message in &messages {
                crate::proto::grpc::put(&mut bytes, |out| out.extend_from_slice(message));
            }
            // Frames that have nothing to do with messages.
            let mut cuts = cuts.iter().copied().cycle();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (part, behind) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                prop_assert_eq!(stream.place_for(part.len()), part.len());
                stream.send(Chunk::Own(bytes::Bytes::copy_from_slice(part)));
                rest = behind;
            }
            while let Turned::Opened(..) = server.turn(1 << 20) {}
            let mut said = Vec::new();
            server.take_output(&mut said);

            let (mut carry, mut heard, mut told) = (Vec::new(), Vec::new(), Vec::new());
            let mut pieces = pieces.iter().copied().cycle();
            let mut rest = &said[..];
            while !rest.is_empty() {
                let (part, behind) = rest.split_at(pieces.next().unwrap().min(rest.len()));
                carry.extend_from_slice(part);
                rest = behind;
                let mut fresh = Vec::new();
                let before = heard.len();
                let taken = decode(&carry, &mut heard, |message, heard| {
                    fresh.push(message.to_vec());
                    heard.push(Heard::Answered);
                    Ok(())
                });
                let counted = heard[before..].iter().filter(|heard| **heard == Heard::Answered).count();
                told.extend(fresh.into_iter().take(counted));
                carry.drain(..taken.unwrap());
            }
            prop_assert!(carry.is_empty());
            prop_assert_eq!(told, messages);
        }
    }
}
