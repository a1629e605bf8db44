//! What an idle client takes of this process's memory, from the sizes of what is kept for it.

use super::connection::{Connection, TextLines};
use super::event_streams::{Audience, EventStream};
use super::http::Http;
use super::session::Session;
use super::timers::Timer;
use crate::base::slots::Slots;
use crate::base::wheel::Wheel;
use crate::chat::user::{Registry, SessionRef};

/// A nickname as short as most are: one string for both of its forms, with its two counts.
const NICKNAME_BYTES: usize = allocated(2 * size_of::<usize>() + 12);

/// What the allocator takes for so many bytes: a word more, in steps of 16.
const fn allocated(bytes: usize) -> usize {
    (bytes + size_of::<usize>()).next_multiple_of(16)
}

/// What one entry takes of a hash table that is as full as it gets: 7 of 8 places, each with a byte of control.
const fn hashed(bytes: usize) -> usize {
    (bytes + 1) * 8 / 7
}

/// What a place in the table of connections takes, with its timer. `link_bytes` is what the loop has for its socket.
pub const fn connection_bytes(link_bytes: usize) -> usize {
    Slots::<Connection>::PLACE_BYTES + Wheel::<Timer>::ENTRY_BYTES + link_bytes
}

/// What a place in the table of sessions takes, with its nickname and where that and its number are found.
pub const fn session_bytes() -> usize {
    Slots::<Session>::PLACE_BYTES
        + hashed(size_of::<(u64, SessionRef)>())
        + hashed(Registry::ENTRY_BYTES)
        + NICKNAME_BYTES
}

/// Bytes of memory of a client that is idle after its hello, or its request, by how it speaks. `link_bytes` is what the loop has for its
/// socket. Each table counts as if it were full: one that has just grown has as much again for those who will come. Not in it are what
/// the kernel has for the socket, rooms and history, what TLS keeps, and compression.
pub const fn idle_bytes(link_bytes: usize) -> [(&'static str, usize); 6] {
    let connection = connection_bytes(link_bytes);
    let member = connection + session_bytes();
    let listener = allocated(size_of::<EventStream>()) + Audience::ENTRY_BYTES;
    [
        ("websocket", member),
        ("json_lines", member),
        ("text_lines", member + allocated(size_of::<TextLines>())),
        ("frames", member),
        ("event_stream", connection + listener),
        ("http", connection + allocated(size_of::<Http>())),
    ]
}
