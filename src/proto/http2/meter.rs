//! Counts the frames of a peer that carry nothing, so that a flood of them ends; and looks at their lengths.
//!
//! Each costs the peer nine bytes and us a look, and some an answer: PING (CVE-2019-9512), SETTINGS (CVE-2019-9515),
//! PRIORITY (CVE-2019-9513), empty DATA (CVE-2019-9518), RST_STREAM (CVE-2023-44487), CONTINUATION (CVE-2024-27316), and kinds
//! that nobody knows, which are to be ignored. A peer that takes much sends many WINDOW_UPDATEs: those count that are more than what was
//! written to it can be the reason of. What h2 bounds of these by itself it bounds first.
//!
//! So do the RST_STREAMs that a peer has us write, by streams beyond those that it may have and by frames that a stream cannot have (CVE-2025-8671).
//! h2 would count them over the whole life of a connection, and some come without anybody's fault: a call that is refused at once has
//! perhaps said something that is still on its way, and of many such streams h2 knows no more that they have been.
//!
//! Of frames that cannot be read h2 says PROTOCOL_ERROR, whatever is wrong with them, and it takes any frame for the first. What RFC
//! 9113 wants is found here, before h2 sees it: FRAME_SIZE_ERROR for those of a length that their kind cannot have (4.2 and 6), and
//! that the preface ends with SETTINGS (3.4).

use h2::Reason;

/// The window of time in which frames are counted, in milliseconds.
const WINDOW_MS: u64 = 10_000;

/// The client's preface (RFC 9113, 3.4), which comes before any frame.
const PREFACE_BYTES: usize = 24;

const HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// Bytes that are written for one WINDOW_UPDATE that does not count. A frame with a byte of data has ten, for which there may be one of its
/// stream and one of the connection.
const UPDATE_BYTES: usize = 5;

/// The flag of SETTINGS that acknowledge ours.
const ACK: u8 = 1;

/// The peer sends too many frames that carry nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flood;

/// What was found in bytes of the peer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Whether some of them are what a stream says.
    pub has_data: bool,
    /// A frame that ends the connection: how many of the bytes come before the end of its header, and for what reason.
    pub fault: Option<(usize, Reason)>,
}

/// Finds the headers of frames in bytes that may be cut anywhere.
#[derive(Debug, Default)]
struct Headers {
    /// How many bytes of the preface or of a payload are still to come.
    skip: usize,
    header: [u8; HEADER_BYTES],
    /// How many bytes of the header have come.
    known: usize,
}

impl Headers {
    /// The kind and the flags of the next frame of which the header ends in these bytes, which are taken up to there. Its payload is what
    /// is to be skipped then.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<(u8, u8)> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        *bytes = &bytes[skipped..];
        let taken = (HEADER_BYTES - self.known).min(bytes.len());
        self.header[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
        self.known += taken;
        *bytes = &bytes[taken..];
        if self.known < HEADER_BYTES {
            return None;
        }
        self.known = 0;
        let [high, middle, low, kind, flags, ..] = self.header;
        self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
        Some((kind, flags))
    }
}

#[derive(Debug)]
pub(super) struct Meter {
    heard: Headers,
    written: Headers,
    /// Whether the payload that is still to come is what a stream says.
    is_data: bool,
    /// Whether the frame that comes next is the first.
    is_first: bool,
    count: u32,
    count_max: u32,
    since_ms: u64,
    /// WINDOW_UPDATEs for which there is a reason.
    updates: u32,
}

impl Meter {
    pub fn new(count_max: u32) -> Self {
        Meter {
            heard: Headers { skip: PREFACE_BYTES, ..Headers::default() },
            written: Headers::default(),
            is_data: false,
            is_first: true,
            count: 0,
            count_max,
            since_ms: 0,
            updates: 0,
        }
    }

    /// These bytes are written to the peer.
    pub fn wrote(&mut self, mut bytes: &[u8]) {
        let updates = u32::try_from(bytes.len().div_ceil(UPDATE_BYTES)).unwrap_or(u32::MAX);
        self.updates = self.updates.saturating_add(updates);
        while let Some((kind, _)) = self.written.next(&mut bytes) {
            self.count = self.count.saturating_add(u32::from(kind == RST_STREAM));
        }
    }

    /// Looks at bytes of the peer, which may be cut anywhere. Behind a fault it is not to be asked any more.
    pub fn count(&mut self, bytes: &[u8], now_ms: u64) -> Result<Found, Flood> {
        let mut found =
            Found { has_data: self.is_data && self.heard.skip > 0 && !bytes.is_empty(), fault: None };
        if now_ms.saturating_sub(self.since_ms) >= WINDOW_MS {
            (self.count, self.since_ms) = (0, now_ms);
        }
        let mut rest = bytes;
        while let Some((kind, flags)) = self.heard.next(&mut rest) {
            if let Some(reason) = self.fault(kind, flags) {
                found.fault = Some((bytes.len() - rest.len(), reason));
                break;
            }
            self.is_first = false;
            let carries = match kind {
                DATA => self.heard.skip > 0,
                HEADERS => true,
                WINDOW_UPDATE => {
                    let has_reason = self.updates > 0;
                    self.updates = self.updates.saturating_sub(1);
                    has_reason
                }
                _ => false,
            };
            self.is_data = kind == DATA && carries;
            found.has_data |= self.is_data;
            self.count = self.count.saturating_add(u32::from(!carries));
            if self.count > self.count_max {
                return Err(Flood);
            }
        }
        Ok(found)
    }

    /// What is wrong with a frame whose length is what is to be skipped.
    fn fault(&self, kind: u8, flags: u8) -> Option<Reason> {
        let length = self.heard.skip;
        let has_wrong_length = match kind {
            PRIORITY => length != 5,
            RST_STREAM | WINDOW_UPDATE => length != 4,
            SETTINGS if flags & ACK != 0 => length != 0,
            SETTINGS => !length.is_multiple_of(6),
            PING => length != 8,
            GOAWAY => length < 8,
            _ => false,
        };
        if self.is_first && (kind != SETTINGS || flags & ACK != 0) {
            Some(Reason::PROTOCOL_ERROR)
        } else {
            has_wrong_length.then_some(Reason::FRAME_SIZE_ERROR)
        }
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

    /// A length that frames of a kind may have, about as long as is wished.
    fn right(kind: u8, length: usize) -> usize {
        match kind {
            PRIORITY => 5,
            RST_STREAM | WINDOW_UPDATE => 4,
            SETTINGS => length / 6 * 6,
            PING => 8,
            GOAWAY => 8 + length,
            _ => length,
        }
    }

    /// One behind whose preface SETTINGS have come.
    fn begun(count_max: u32) -> Meter {
        let mut meter = Meter::new(count_max);
        (meter.heard.skip, meter.is_first) = (0, false);
        meter
    }

    fn data(has_data: bool) -> Result<Found, Flood> {
        Ok(Found { has_data, fault: None })
    }

    proptest! {
        #[test]
        fn any_chunking_counts_alike(
            frames in prop::collection::vec((0u8..12, 0usize..40), 0..60),
            chunk in 1usize..50,
        ) {
            let expected = frames.iter().filter(|(kind, length)| match *kind {
                DATA => *length == 0,
                HEADERS => false,
                _ => true,
            });
            // And the SETTINGS of the preface.
            let expected = expected.count() as u32 + 1;
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            bytes.extend(frame(SETTINGS, 0));
            frames.iter().for_each(|(kind, length)| bytes.extend(frame(*kind, right(*kind, *length))));
            let mut meter = Meter::new(expected);
            for part in bytes.chunks(chunk) {
                prop_assert_eq!(meter.count(part, 0).map(|found| found.fault), Ok(None));
            }
            prop_assert_eq!(meter.count, expected);
            prop_assert_eq!(meter.count(&frame(PING, 8), 0), Err(Flood));
        }
    }

    #[test]
    fn what_a_stream_says_is_told_from_other_frames() {
        let mut meter = begun(10);
        assert_eq!(meter.count(&frame(PING, 8), 0), data(false));
        let bytes = frame(DATA, 5);
        assert_eq!(meter.count(&bytes[..8], 0), data(false));
        assert_eq!(meter.count(&bytes[8..10], 0), data(true));
        assert_eq!(meter.count(&bytes[10..12], 0), data(true));
        assert_eq!(meter.count(&bytes[12..], 0), data(true));
        assert_eq!(meter.count(&frame(DATA, 0), 0), data(false));
        assert_eq!(meter.count(&frame(WINDOW_UPDATE, 4), 0), data(false));
    }

    #[test]
    fn a_window_of_time_ends() {
        let mut meter = begun(1);
        assert_eq!(meter.count(&frame(PING, 8), 0), data(false));
        assert_eq!(meter.count(&frame(PING, 8), WINDOW_MS), data(false));
        assert_eq!(meter.count(&frame(PING, 8), WINDOW_MS + 1), Err(Flood));
    }

    #[test]
    fn updates_of_windows_count_without_a_reason() {
        let mut meter = begun(1);
        let update = frame(WINDOW_UPDATE, 4);
        meter.wrote(&[0; 10]);
        for _ in 0..3 {
            assert_eq!(meter.count(&update, 0), data(false));
        }
        assert_eq!(meter.count, 1);
        meter.wrote(&[0; 1]);
        assert_eq!(meter.count(&update, 0), data(false));
        assert_eq!(meter.count(&update, 0), Err(Flood));
    }

    #[test]
    fn resets_that_are_written_count_wherever_they_are_cut() {
        let bytes =
            [frame(SETTINGS, 6), frame(RST_STREAM, 4), frame(DATA, 20), frame(RST_STREAM, 4)].concat();
        for chunk in 1..bytes.len() {
            for (now_ms, counted) in [(WINDOW_MS - 1, Err(Flood)), (WINDOW_MS, data(false))] {
                let mut meter = begun(1);
                bytes.chunks(chunk).for_each(|part| meter.wrote(part));
                assert_eq!(meter.count, 2);
                assert_eq!(meter.count(&frame(HEADERS, 3), now_ms), counted);
            }
        }
    }

    #[test]
    fn a_frame_has_a_length_that_its_kind_can_have() {
        let wrong =
            [(PRIORITY, 4), (RST_STREAM, 5), (SETTINGS, 7), (PING, 0), (GOAWAY, 7), (WINDOW_UPDATE, 8)];
        for (kind, length) in wrong {
            let bytes = [frame(HEADERS, 3), frame(kind, length)].concat();
            let found = begun(10).count(&bytes, 0).expect("no flood");
            assert_eq!(
                found.fault,
                Some((HEADER_BYTES + 3 + HEADER_BYTES, Reason::FRAME_SIZE_ERROR)),
                "{kind}"
            );
        }
        let mut acknowledges_with_more = frame(SETTINGS, 6);
        acknowledges_with_more[4] = ACK;
        let found = begun(10).count(&acknowledges_with_more, 0).expect("no flood");
        assert_eq!(found.fault, Some((HEADER_BYTES, Reason::FRAME_SIZE_ERROR)));
    }

    #[test]
    fn the_first_frame_is_settings() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let mut acknowledges = frame(SETTINGS, 0);
        acknowledges[4] = ACK;
        for first in [frame(PING, 8), frame(HEADERS, 3), frame(200, 0), acknowledges] {
            let found = Meter::new(10).count(&[&preface[..], &first].concat(), 0).expect("no flood");
            assert_eq!(found.fault, Some((PREFACE_BYTES + HEADER_BYTES, Reason::PROTOCOL_ERROR)));
        }
    }
}
