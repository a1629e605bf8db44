//! How far a text can be copied as it is.

/// How many bytes are looked at together: a few vector registers.
pub(super) const CHUNK_BYTES: usize = 32;

/// How many bytes there are before the first that is `special`.
pub(super) fn plain_bytes(bytes: &[u8], is_special: impl Fn(u8) -> bool) -> usize {
    let mut plain = 0;
    // Without a branch a byte, so that the compiler makes vector instructions of it.
    for chunk in bytes.chunks_exact(CHUNK_BYTES) {
        if chunk.iter().fold(false, |found, &byte| found | is_special(byte)) {
            break;
        }
        plain += CHUNK_BYTES;
    }
    let rest = &bytes[plain..];
    plain + rest.iter().position(|&byte| is_special(byte)).unwrap_or(rest.len())
}
