//! What a proxy says first (the PROXY protocol).

use starling::proxy::{Decoder, Source};

use super::codec::CUTS;

/// Longer than any header.
const HEADER_MAX: usize = 16 + 4096;

/// The same header is found, and the same bytes behind it, however it is cut; and no more bytes are waited for than a header has.
pub fn run(input: &[u8]) {
    let told = CUTS.map(|cut| {
        let mut decoder = Decoder::default();
        let mut before = 0;
        for chunk in cut.chunks(input) {
            match decoder.decode(chunk) {
                Ok((taken, Some(source))) => {
                    let end = before + taken;
                    assert!(taken <= chunk.len() && end <= HEADER_MAX);
                    if let Source::Client(address) = source {
                        assert!(!address.to_string().is_empty());
                    }
                    return Some((end, source));
                }
                Ok((taken, None)) => assert_eq!(taken, chunk.len(), "without a header all is taken"),
                Err(_) => return None,
            }
            before += chunk.len();
            assert!(before < HEADER_MAX, "{before} bytes are no header, and more are waited for");
        }
        None
    });
    assert!(told.iter().all(|other| *other == told[0]), "{told:?}");
}
