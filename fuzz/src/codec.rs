//! What decoders have in common: they take bytes in any chunks, and tell the same of them however these are cut.

use starling::base::rng::Rng;

/// A decoder, its items told as text.
pub trait Codec {
    /// Takes bytes from the front, up to the end of an item.
    fn step(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), String>;

    /// The input is used up.
    fn release(&mut self);

    /// How many bytes it holds back.
    fn kept_bytes(&self) -> usize;

    /// Whether an error stays the answer for ever.
    fn is_final(&self) -> bool {
        true
    }
}

/// Cuts a stream.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// Not at all.
    Whole,
    /// Into its bytes.
    Bytes,
    /// Anywhere, as follows from the stream.
    Anywhere,
}

pub const CUTS: [Cut; 3] = [Cut::Whole, Cut::Bytes, Cut::Anywhere];

impl Cut {
    /// The chunks of a stream.
    pub fn chunks(self, input: &[u8]) -> Vec<&[u8]> {
        let mut rng = dice(input);
        let mut rest = input;
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            let bytes = match self {
                Cut::Whole => rest.len(),
                Cut::Bytes => 1,
                // Mostly short ones, that cut what is short.
                Cut::Anywhere => 1 + rng.below(1 << (1 + rng.clone().below(7))) as usize,
            };
            let (chunk, behind) = rest.split_at(bytes.min(rest.len()));
            chunks.push(chunk);
            rest = behind;
        }
        chunks
    }
}

/// Choices that follow from the input, but that no byte of it makes: the input stays what a peer would say.
pub fn dice(input: &[u8]) -> Rng {
    // FNV-1a.
    let hash = input.iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    });
    Rng::new(hash)
}

/// All that a decoder tells of a stream. An error is the last thing told. `kept_max` is the most that it may hold back.
pub fn told(mut codec: impl Codec, input: &[u8], cut: Cut, kept_max: usize) -> Vec<String> {
    let mut told = Vec::new();
    for chunk in cut.chunks(input) {
        let mut chunk = chunk.to_vec();
        let mut at = 0;
        while at < chunk.len() {
            match codec.step(&mut chunk[at..]) {
                Ok((taken, item)) => {
                    at += taken;
                    assert!(at <= chunk.len(), "more is taken than there is");
                    assert!(item.is_some() || at == chunk.len(), "without an item all is taken");
                    told.extend(item);
                }
                Err(error) => {
                    codec.release();
                    if codec.is_final() {
                        assert_eq!(codec.step(&mut [b'a'; 9]), Err(error.clone()), "an error is final");
                    }
                    told.push(error);
                    return told;
                }
            }
            assert!(codec.kept_bytes() <= kept_max, "{} bytes are kept", codec.kept_bytes());
        }
        codec.release();
    }
    told
}

/// Checks that the same is told however a stream is cut, and returns it.
pub fn told_alike<C: Codec>(codec: impl Fn() -> C, input: &[u8], kept_max: usize) -> Vec<String> {
    let [whole, others @ ..] = CUTS.map(|cut| told(codec(), input, cut, kept_max));
    for other in others {
        assert_eq!(whole, other, "the stream is told otherwise when it is cut");
    }
    whole
}
