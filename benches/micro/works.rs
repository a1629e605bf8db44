//! The works, by name.

use criterion::Throughput::{self, Bytes, Elements};

use crate::{codecs, mailbox, turn, wheel};

/// Something whose cost is of interest.
pub struct Work {
    /// What it is, from the general to the particular.
    pub name: &'static str,
    /// How often it is done for its instructions to be counted: enough that one more or less shows, few enough for an
    /// emulator. 0 if they are not: where threads wait for each other they say nothing.
    pub counted_calls: u64,
    /// How much is done by doing it once.
    pub throughput: Throughput,
    /// Makes all that it needs.
    pub make: fn() -> Run,
}

/// Does a work so many times.
pub type Run = Box<dyn FnMut(u64)>;

/// A work of which `once` does it once. The loop is here, next to what it calls: a virtual call each time would cost as
/// much as the smallest of the works.
pub fn repeat(mut once: impl FnMut() + 'static) -> Run {
    Box::new(move |calls| (0..calls).for_each(|_| once()))
}

/// How long what is said in a work is, in bytes, where its name says nothing else.
pub const CONTENT_BYTES: usize = 128;

/// Words to say: `bytes` of plain ASCII with nothing in it that must be escaped.
pub fn words(bytes: usize) -> String {
    "the quick brown fox jumps over the lazy dog ".chars().cycle().take(bytes).collect()
}

/// The same in no order that repeats itself, as people talk: for compression, which would make little of the other.
pub fn prose(bytes: usize) -> String {
    const WORDS: [&str; 40] = [
        "the", "of", "and", "to", "in", "is", "you", "that", "it", "was", "for", "on", "are", "with", "they",
        "be", "at", "one", "have", "this", "from", "had", "hot", "word", "but", "what", "some", "we", "can",
        "out", "other", "were", "all", "there", "when", "up", "use", "your", "how", "said",
    ];
    let mut rng = starling::base::rng::Rng::new(1);
    let mut text = String::new();
    while text.len() < bytes {
        text.push_str(WORDS[rng.below(WORDS.len() as u64) as usize]);
        text.push(' ');
    }
    text.truncate(bytes);
    text
}

const fn codec(name: &'static str, bytes: u64, make: fn() -> Run) -> Work {
    Work { name, counted_calls: 1000, throughput: Bytes(bytes), make }
}

const fn other(name: &'static str, counted_calls: u64, elements: u64, make: fn() -> Run) -> Work {
    Work { name, counted_calls, throughput: Elements(elements), make }
}

/// One that is only timed: how many instructions compression takes depends on the processor that it finds.
const fn timed(name: &'static str, throughput: Throughput, make: fn() -> Run) -> Work {
    Work { name, counted_calls: 0, throughput, make }
}

const CONTENT: u64 = CONTENT_BYTES as u64;

/// All of them. The throughput of codecs counts the bytes of content, whatever the encoding adds to them.
pub const WORKS: &[Work] = &[
    codec("codec/websocket/decode/128B", 128, || codecs::websocket_decode(128)),
    codec("codec/websocket/decode/16KiB", 16 << 10, || codecs::websocket_decode(16 << 10)),
    codec("codec/websocket/encode/128B", 128, || codecs::websocket_encode(128)),
    codec("codec/websocket/encode/16KiB", 16 << 10, || codecs::websocket_encode(16 << 10)),
    timed("codec/websocket/deflate/131B", Bytes(131), || codecs::websocket_deflate(131)),
    timed("codec/websocket/deflate/256B", Bytes(256), || codecs::websocket_deflate(256)),
    timed("codec/websocket/deflate/1KiB", Bytes(1 << 10), || codecs::websocket_deflate(1 << 10)),
    timed("codec/websocket/deflate/8KiB", Bytes(8 << 10), || codecs::websocket_deflate(8 << 10)),
    timed("codec/websocket/inflate/131B", Bytes(131), || codecs::websocket_inflate(131)),
    timed("codec/websocket/inflate/1KiB", Bytes(1 << 10), || codecs::websocket_inflate(1 << 10)),
    timed("codec/websocket/inflate/8KiB", Bytes(8 << 10), || codecs::websocket_inflate(8 << 10)),
    codec("codec/json/parse/message", CONTENT, codecs::json_parse_message),
    codec("codec/json/write/message", CONTENT, codecs::json_write_message),
    other("codec/json/write/ack", 1000, 1, codecs::json_write_ack),
    codec("codec/protobuf/parse/message", CONTENT, codecs::protobuf_parse_message),
    codec("codec/protobuf/write/message", CONTENT, codecs::protobuf_write_message),
    other("codec/protobuf/write/ack", 1000, 1, codecs::protobuf_write_ack),
    codec("codec/text/parse/say", CONTENT, codecs::text_parse_say),
    codec("codec/text/parse/msg", CONTENT, codecs::text_parse_msg),
    codec("codec/text/write/message", CONTENT, codecs::text_write_message),
    codec("codec/line/decode/128B", 128, || codecs::line_decode(128)),
    codec("codec/frame/decode/128B", 128, || codecs::frame_decode(128)),
    codec("codec/frame/encode/128B", 128, || codecs::frame_encode(128)),
    codec("codec/http1/head/curl", codecs::CURL.len() as u64, || codecs::http1_head(codecs::CURL)),
    codec("codec/http1/head/browser", codecs::BROWSER.len() as u64, || codecs::http1_head(codecs::BROWSER)),
    other("codec/http1/upgrade", 1000, 1, codecs::websocket_upgrade),
    other("wheel/insert+cancel", 1000, 1, wheel::insert_and_cancel),
    other("wheel/insert+expire", 1000, 1, wheel::insert_and_expire),
    other("wheel/advance/idle", 1000, 1, wheel::advance_idle),
    other("wheel/advance/all", 10, wheel::TIMERS, wheel::advance_over_all),
    other("mailbox/push+pop/1", 1000, 1, || mailbox::push_and_pop(1)),
    other("mailbox/push+pop/64", 100, 64, || mailbox::push_and_pop(64)),
    other("mailbox/threads", 0, 1, mailbox::across_threads),
    other("turn/empty/1", 100, 1, || turn::empty(1)),
    other("turn/empty/1000", 100, 1, || turn::empty(1000)),
    other("turn/ping", 100, 1, turn::ping),
    other("turn/echo/128B", 100, 1, || turn::echo(128)),
    other("fanout/1", 100, 1, || turn::fan_out(1)),
    other("fanout/10", 100, 10, || turn::fan_out(10)),
    other("fanout/1000", 10, 1000, || turn::fan_out(1000)),
    other("fanout/1000/mixed", 10, 1000, || turn::fan_out_mixed(1000)),
    other("fanout/1000/2-cores", 10, 1000, || turn::fan_out_across(1000)),
    timed("fanout/1000/1KiB", Elements(1000), || turn::fan_out_long(1000, false)),
    timed("fanout/1000/1KiB/deflated", Elements(1000), || turn::fan_out_long(1000, true)),
    other("fanout/1000x10", 2, 10_000, || turn::fan_out_of_rooms(1000, 10)),
];
