//! Binary frames, and gRPC's messages, which are framed in much the same way.

use starling::proto::{frame, grpc};

use super::codec::{Codec, told_alike};

const PAYLOAD_LIMIT: usize = 512;
const KEPT_MAX: usize = 4 * PAYLOAD_LIMIT;

impl Codec for frame::Decoder {
    fn step(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), String> {
        let (taken, frame) = self.decode(input).map_err(|violation| format!("{violation:?}"))?;
        Ok((taken, frame.map(|frame| format!("{frame:?}"))))
    }

    fn release(&mut self) {
        self.release();
    }

    fn kept_bytes(&self) -> usize {
        self.kept_bytes()
    }
}

/// A decoder of gRPC's messages, whose errors are told once.
struct Messages(grpc::Decoder);

impl Codec for Messages {
    fn step(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), String> {
        let (taken, message) = self.0.decode(input).map_err(|violation| format!("{violation:?}"))?;
        Ok((taken, message.map(|message| format!("{message:?}"))))
    }

    fn release(&mut self) {
        self.0.release();
    }

    fn kept_bytes(&self) -> usize {
        self.0.kept_bytes()
    }

    fn is_final(&self) -> bool {
        false
    }
}

/// Both codecs tell the same however the bytes are cut, and what they tell is written back as the bytes that it was read from.
pub fn run(input: &[u8]) {
    told_alike(|| frame::Decoder::new(PAYLOAD_LIMIT), input, KEPT_MAX);
    told_alike(|| Messages(grpc::Decoder::new(PAYLOAD_LIMIT)), input, KEPT_MAX);

    let mut decoder = frame::Decoder::new(PAYLOAD_LIMIT);
    let (mut at, mut written) = (0, Vec::new());
    while let Ok((taken, Some(frame::Frame { encoding, kind, payload }))) = decoder.decode(&input[at..]) {
        at += taken;
        frame::put(&mut written, encoding, kind, payload);
        assert_eq!(written, input[..at], "a frame is written otherwise than it was read");
    }
    let mut decoder = grpc::Decoder::new(PAYLOAD_LIMIT);
    let (mut at, mut written) = (0, Vec::new());
    while let Ok((taken, Some(message))) = decoder.decode(&input[at..]) {
        at += taken;
        grpc::put(&mut written, |out| out.extend_from_slice(message));
        assert_eq!(written, input[..at], "a message is written otherwise than it was read");
    }
}
