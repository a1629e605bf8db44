//! WebSocket's frames, with compression and without.

use starling::proto::websocket::{Decoder, Inflater, Item, Window};

use super::codec::{Codec, told_alike};

const MESSAGE_LIMIT: usize = 4096;
const FRAGMENTS_LIMIT: u32 = 8;

/// A message that cannot be compressed may be longer when it is compressed all the same.
const KEPT_MAX: usize = 4 * MESSAGE_LIMIT;

impl Codec for Decoder {
    fn step(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), String> {
        let (taken, item) = self.decode(input).map_err(|violation| format!("{violation:?}"))?;
        Ok((taken, item.map(|item| format!("{item:?}"))))
    }

    fn release(&mut self) {
        self.release();
    }

    fn kept_bytes(&self) -> usize {
        self.kept_bytes()
    }
}

/// A decoder with what inflates its messages.
struct Compressed {
    decoder: Decoder,
    inflater: Inflater,
    window: Window,
    failure: Option<String>,
}

impl Codec for Compressed {
    fn step(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), String> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let (taken, item) = self.decoder.decode(input).map_err(|violation| format!("{violation:?}"))?;
        let item = match item {
            Some(Item::Deflated { is_text, payload }) => {
                let inflated = self.inflater.inflate(is_text, payload, Some(&mut self.window), MESSAGE_LIMIT);
                let inflated = inflated.map(|item| {
                    check(&item);
                    format!("inflated {item:?}")
                });
                match inflated {
                    Ok(item) => Some(item),
                    Err(violation) => {
                        self.failure = Some(format!("{violation:?}"));
                        return Err(format!("{violation:?}"));
                    }
                }
            }
            item => item.map(|item| {
                check(&item);
                format!("{item:?}")
            }),
        };
        Ok((taken, item))
    }

    fn release(&mut self) {
        self.decoder.release();
        self.inflater.release();
    }

    fn kept_bytes(&self) -> usize {
        self.decoder.kept_bytes()
    }
}

/// What is told keeps to the protocol's bounds, and to ours.
fn check(item: &Item<'_>) {
    match item {
        Item::Text(text) => assert!(text.len() <= MESSAGE_LIMIT),
        Item::Binary(bytes) => assert!(bytes.len() <= MESSAGE_LIMIT),
        Item::Deflated { .. } => panic!("a message stays compressed"),
        Item::Ping(bytes) | Item::Pong(bytes) => assert!(bytes.len() <= 125),
        Item::Close { code, reason } => {
            assert!(reason.len() <= 123);
            assert!(code.is_some() || reason.is_empty());
            assert!(code.is_none_or(|code| (1000..5000).contains(&code)), "{code:?} must not be sent");
        }
    }
}

/// With compression and without, the same is told however the frames are cut, within all bounds; and bytes in which no bit for
/// compression is set are told alike by both decoders.
pub fn run(input: &[u8]) {
    let plain = told_alike(|| Decoder::new(MESSAGE_LIMIT, FRAGMENTS_LIMIT), input, KEPT_MAX);
    let compressed = || Compressed {
        decoder: Decoder::new(MESSAGE_LIMIT, FRAGMENTS_LIMIT).with_deflate(),
        inflater: Inflater::default(),
        window: Window::new(15),
        failure: None,
    };
    let compressed = told_alike(compressed, input, KEPT_MAX);
    let is_refused = plain.last().is_some_and(|last| last.contains("reserved bits"));
    assert!(is_refused || plain == compressed, "{plain:?} and {compressed:?}");
}
