//! Compressed WebSocket messages (RFC 7692) against their contract: however they were compressed, cut into fragments and into
//! what is read at a time, the same is told; and what is compressed here is read by the plain streams of the library.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use proptest::collection::vec;
use proptest::prelude::*;
use starling::proto::websocket::{self, Deflater, Inflater, Item, Opcode, Window};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};

const MESSAGE_LIMIT: usize = 3000;
const FRAGMENTS_LIMIT: u32 = 50;
const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];

/// A message: its bytes, whether it goes compressed, where it is cut into fragments, and whether a ping comes between them.
#[derive(Debug, Clone)]
struct Sent {
    bytes: Vec<u8>,
    is_compressed: bool,
    cuts: Vec<prop::sample::Index>,
    has_ping: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    let bytes = prop_oneof![
        vec(any::<u8>(), 0..300),
        vec(prop::sample::select(&b"ab"[..]), 0..2500),
        (any::<u8>(), 0..MESSAGE_LIMIT).prop_map(|(byte, count)| vec![byte; count]),
    ];
    (bytes, prop::bool::weighted(0.8), vec(any::<prop::sample::Index>(), 0..4), any::<bool>())
        .prop_map(|(bytes, is_compressed, cuts, has_ping)| Sent { bytes, is_compressed, cuts, has_ping })
}

/// A client's compression, with the library's own stream.
struct Client {
    stream: Compress,
    keeps_context: bool,
    ends_streams: bool,
}

impl Client {
    fn compress(&mut self, message: &[u8]) -> Vec<u8> {
        if !self.keeps_context {
            self.stream.reset();
        }
        let mut payload = Vec::with_capacity(2 * message.len() + 100);
        if self.ends_streams {
            // A block that is the last, and then the byte of an empty one (7.2.3.4).
            let status = self.stream.compress_vec(message, &mut payload, FlushCompress::Finish);
            assert_eq!(status.expect("no failure"), Status::StreamEnd);
            self.stream.reset();
            payload.push(0);
            return payload;
        }
        self.stream.compress_vec(message, &mut payload, FlushCompress::Sync).expect("no failure");
        if payload.ends_with(&TAIL) {
            payload.truncate(payload.len() - TAIL.len());
        } // or nothing is left to flush, of an empty message after another
        payload
    }

    fn send(&mut self, sent: &Sent, out: &mut Vec<u8>) {
        let payload = if sent.is_compressed { self.compress(&sent.bytes) } else { sent.bytes.clone() };
        let mut cuts: Vec<usize> = sent.cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(payload.len());
        let mut from = 0;
        for (at, to) in cuts.iter().enumerate() {
            let header = FrameHeader {
                is_final: at + 1 == cuts.len(),
                rsv1: sent.is_compressed && at == 0,
                opcode: OpCode::Data(if at == 0 { Data::Binary } else { Data::Continue }),
                mask: Some([1, 20, 255, at as u8]),
                ..FrameHeader::default()
            };
            put(out, header, &payload[from..*to]);
            if sent.has_ping && at + 1 < cuts.len() {
                let opcode = OpCode::Control(Control::Ping);
                put(out, FrameHeader { opcode, mask: Some([9; 4]), ..FrameHeader::default() }, b"ping");
            }
            from = *to;
        }
    }
}

fn put(out: &mut Vec<u8>, header: FrameHeader, payload: &[u8]) {
    Frame::from_payload(header, payload.to_vec().into()).format(out).expect("a vector takes everything");
}

/// What is heard, in chunks of these sizes, but for the pings; an error is the code.
fn heard(mut window: Option<Window>, input: &[u8], sizes: &[usize]) -> (Vec<String>, Option<u16>) {
    let mut decoder = websocket::Decoder::new(MESSAGE_LIMIT, FRAGMENTS_LIMIT).with_deflate();
    let mut inflater = Inflater::default();
    let mut heard = Vec::new();
    let mut rest = input;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, behind) = rest.split_at((*size).clamp(1, rest.len()));
        let mut chunk = chunk.to_vec();
        let mut at = 0;
        while at < chunk.len() {
            let (taken, item) = match decoder.decode(&mut chunk[at..]) {
                Ok(told) => told,
                Err(violation) => return (heard, Some(violation.code)),
            };
            at += taken;
            let item = match item {
                Some(Item::Deflated { is_text, payload }) => {
                    match inflater.inflate(is_text, payload, window.as_mut(), MESSAGE_LIMIT) {
                        Ok(item) => item,
                        Err(violation) => return (heard, Some(violation.code)),
                    }
                }
                Some(Item::Ping(b"ping")) | None => continue,
                Some(item) => item,
            };
            heard.push(format!("{item:?}"));
        }
        decoder.release();
        rest = behind;
    }
    (heard, None)
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1..8usize, 1..2000usize, Just(usize::MAX)], 1..6)
}

proptest! {
    #[test]
    fn what_clients_compress_is_heard_however_it_is_cut(
        sent in vec(sent(), 1..8), sizes in sizes(),
        level in 0u32..=9, bits in 9u8..=15, keeps_context: bool, ends_streams: bool,
    ) {
        let stream = Compress::new_with_window_bits(Compression::new(level), false, bits);
        let mut client = Client { stream, keeps_context, ends_streams };
        let mut input = Vec::new();
        for message in &sent {
            client.send(message, &mut input);
        }
        let said: Vec<String> = sent.iter().map(|sent| format!("{:?}", Item::Binary(&sent.bytes))).collect();
        prop_assert_eq!(heard(keeps_context.then(|| Window::new(bits)), &input, &sizes), (said, None));
    }

    #[test]
    fn what_is_damaged_is_told_the_same_however_it_is_cut(
        sent in vec(sent(), 1..4), sizes in sizes(), place: prop::sample::Index, bit in 0..8u8,
    ) {
        let stream = Compress::new(Compression::new(6), false);
        let mut client = Client { stream, keeps_context: true, ends_streams: false };
        let mut input = Vec::new();
        for message in &sent {
            client.send(message, &mut input);
        }
        let place = place.index(input.len());
        input[place] ^= 1 << bit;
        let whole = heard(Some(Window::new(15)), &input, &[usize::MAX]);
        prop_assert_eq!(heard(Some(Window::new(15)), &input, &sizes), whole);
    }

    #[test]
    fn what_is_compressed_here_is_read_by_a_plain_stream(
        messages in vec(vec(prop::sample::select(&b"abc"[..]), 0..3000), 1..6),
        level in 1u32..=9, bits in 9u8..=15, keeps_context: bool, min_bytes in 0..100usize,
    ) {
        let mut deflater = Deflater::new(level, bits, keeps_context);
        let mut stream = Decompress::new_with_window_bits(false, bits);
        let (mut out, mut buffer) = (b"before".to_vec(), Vec::new());
        for message in messages {
            let at = out.len();
            websocket::put_frame(&mut out, Opcode::Text, &message);
            let plain = out.clone();
            let Some((before, after)) = deflater.compress_last(&mut out, at, min_bytes, &mut buffer) else {
                prop_assert_eq!(&out, &plain);
                prop_assert!(!keeps_context || message.len() < min_bytes);
                continue;
            };
            prop_assert!(before == message.len() && before >= min_bytes && (keeps_context || after < before));
            prop_assert_eq!(out[at], 0xC1);
            let payload = [&out[out.len() - after..], &TAIL].concat();
            prop_assert_eq!(out.len() - at, websocket::header_bytes(after) + after);
            if !keeps_context {
                stream.reset(false);
            }
            let mut text = Vec::with_capacity(10_000);
            stream.decompress_vec(&payload, &mut text, FlushDecompress::None).expect("compressed data");
            prop_assert_eq!(text, message);
        }
    }
}
