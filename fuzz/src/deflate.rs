//! permessage-deflate: any bytes as compressed messages, and any bytes as messages to be compressed.

use starling::proto::websocket::{Deflater, Inflater, Item, Window, header_bytes, put_binary};

const MESSAGE_LIMIT: usize = 16_384;

/// The first byte says how messages are compressed, and how many there are in the rest, cut at 0xFF 0x00.
///
/// What is inflated is bounded, and the same by an inflater that has seen other things; what is compressed comes back, with and without what
/// was said before, by an inflater that has the window that was agreed on.
pub fn run(input: &[u8]) {
    let Some((how, rest)) = input.split_first() else { return };
    let (level, bits, keeps_context) = (1 + u32::from(how % 9), 9 + (how >> 4) % 7, how & 8 != 0);

    let mut inflater = Inflater::default();
    let (mut window, mut other_window) = (Window::new(bits), Window::new(bits));
    for payload in messages(rest) {
        let told = told(&mut inflater, payload, &mut window);
        let fresh = self::told(&mut Inflater::default(), payload, &mut other_window);
        assert_eq!(told, fresh, "an inflater remembers what it should not");
        if told.is_err() {
            break;
        }
    }

    let mut deflater = Deflater::new(level, bits, keeps_context);
    let mut inflater = Inflater::default();
    let mut window = Window::new(bits);
    let mut buffer = Vec::new();
    for message in messages(rest) {
        let mut frame = Vec::new();
        put_binary(&mut frame, message);
        let before = frame.clone();
        let Some((length, compressed)) = deflater.compress_last(&mut frame, 0, 1, &mut buffer) else {
            assert_eq!(frame, before, "what is not compressed stays as it is");
            continue;
        };
        assert_eq!(length, message.len());
        assert_eq!(frame[0] & 0x40, 0x40, "the bit that says that it is compressed");
        let payload = &frame[header_bytes(compressed)..];
        assert_eq!(payload.len(), compressed);
        let window = keeps_context.then_some(&mut window);
        let Ok(Item::Binary(back)) = inflater.inflate(false, payload, window, message.len()) else {
            panic!("what was compressed cannot be inflated");
        };
        assert_eq!(back, message, "a message has changed on its way");
    }
}

fn told(inflater: &mut Inflater, payload: &[u8], window: &mut Window) -> Result<Vec<u8>, String> {
    match inflater.inflate(false, payload, Some(window), MESSAGE_LIMIT) {
        Ok(Item::Binary(bytes)) => {
            assert!(bytes.len() <= MESSAGE_LIMIT, "{} bytes are inflated", bytes.len());
            Ok(bytes.to_vec())
        }
        Ok(item) => panic!("{item:?} is not binary"),
        Err(violation) => Err(format!("{violation:?}")),
    }
}

fn messages(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Some(at) = rest.windows(2).position(|two| two == [0xFF, 0]) {
        messages.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    messages.push(rest);
    messages
}
