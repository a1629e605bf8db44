//! Counts the frames of a peer that carry nothing, so that a flood of them ends.
//!
//! Each costs the peer nine bytes and us a look, and some an answer: PING (CVE-2019-9512), SETTINGS (CVE-2019-9515),
//! PRIORITY (CVE-2019-9513), empty DATA (CVE-2019-9518), RST_STREAM (CVE-2023-44487), CONTINUATION (CVE-2024-27316), and kinds
//! that nobody knows, which are to be ignored. WINDOW_UPDATE is not counted: a peer that takes much sends many. What h2 bounds of
//! these by itself it bounds first.

/// The window of time in which frames are counted, in milliseconds.
const WINDOW_MS: u64 = 10_000;

/// The client's preface (RFC 9113, 3.4), which comes before any frame.
const PREFACE_BYTES: usize = 24;

const HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;

/// The peer sends too many frames that carry nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flood;

#[derive(Debug)]
pub(super) struct Meter {
    /// How many bytes of the preface or of a payload are still to come.
    skip: usize,
    header: [u8; HEADER_BYTES],
    /// How many bytes of the header have come.
    known: usize,
    /// Whether the payload that is still to come is what a stream says.
    is_data: bool,
    count: u32,
    count_max: u32,
    since_ms: u64,
}

impl Meter {
    pub fn new(count_max: u32) -> Self {
        Meter {
            skip: PREFACE_BYTES,
            header: [0; HEADER_BYTES],
            known: 0,
            is_data: false,
            count: 0,
            count_max,
            since_ms: 0,
        }
    }

    /// Looks at bytes of the peer, which may be cut anywhere. Says whether some of them are what a stream says.
    pub fn count(&mut self, mut bytes: &[u8], now_ms: u64) -> Result<bool, Flood> {
        let mut has_data = self.is_data && self.skip > 0 && !bytes.is_empty();
        if now_ms.saturating_sub(self.since_ms) >= WINDOW_MS {
            (self.count, self.since_ms) = (0, now_ms);
        }
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEADER_BYTES - self.known).min(bytes.len());
            self.header[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
            self.known += taken;
            bytes = &bytes[taken..];
            if self.known < HEADER_BYTES {
                continue;
            }
            self.known = 0;
            let [high, middle, low, kind, ..] = self.header;
            self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
            let carries = match kind {
                DATA => self.skip > 0,
                HEADERS | WINDOW_UPDATE => true,
                _ => false,
            };
            self.is_data = kind == DATA && carries;
            has_data |= self.is_data;
            self.count += u32::from(!carries);
            if self.count > self.count_max {
                return Err(Flood);
            }
        }
        Ok(has_data)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0, 0, 0, 0, 1]);
        bytes.resize(HEADER_BYTES + length, 0xAA);
        bytes
    }

    proptest! {
        #[test]
        fn any_chunking_counts_alike(
            frames in prop::collection::vec((0u8..12, 0usize..40), 0..60),
            chunk in 1usize..50,
        ) {
            let expected = frames.iter().filter(|(kind, length)| match *kind {
                DATA => *length == 0,
                HEADERS | WINDOW_UPDATE => false,
                _ => true,
            });
            let expected = expected.count() as u32;
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            frames.iter().for_each(|(kind, length)| bytes.extend(frame(*kind, *length)));
            let mut meter = Meter::new(expected);
            for part in bytes.chunks(chunk) {
                prop_assert!(meter.count(part, 0).is_ok());
            }
            prop_assert_eq!(meter.count, expected);
            prop_assert_eq!(meter.count(&frame(6, 0), 0), Err(Flood));
        }
    }

    #[test]
    fn what_a_stream_says_is_told_from_other_frames() {
        let mut meter = Meter::new(10);
        meter.skip = 0;
        assert_eq!(meter.count(&frame(6, 8), 0), Ok(false));
        let data = frame(DATA, 5);
        assert_eq!(meter.count(&data[..8], 0), Ok(false));
        assert_eq!(meter.count(&data[8..10], 0), Ok(true));
        assert_eq!(meter.count(&data[10..12], 0), Ok(true));
        assert_eq!(meter.count(&data[12..], 0), Ok(true));
        assert_eq!(meter.count(&frame(DATA, 0), 0), Ok(false));
        assert_eq!(meter.count(&frame(WINDOW_UPDATE, 4), 0), Ok(false));
    }

    #[test]
    fn a_window_of_time_ends() {
        let mut meter = Meter::new(1);
        meter.skip = 0;
        assert_eq!(meter.count(&frame(6, 8), 0), Ok(false));
        assert_eq!(meter.count(&frame(6, 8), WINDOW_MS), Ok(false));
        assert_eq!(meter.count(&frame(6, 8), WINDOW_MS + 1), Err(Flood));
    }
}
