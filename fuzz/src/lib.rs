//! The bodies of the fuzz targets: each takes any bytes and must come back. `fuzz_targets` calls them with what the fuzzer makes up,
//! and `tests/fuzz_corpus.rs`, which builds this very file, with what is kept in `corpus` and `regressions`.

pub mod backplane;
pub mod client;
pub mod client_journal;
mod codec;
pub mod commands;
pub mod database;
pub mod deflate;
pub mod frames;
pub mod http1;
pub mod http2;
pub mod journal;
mod kernel;
pub mod lines;
pub mod proxy;
pub mod session;
pub mod tokens;
pub mod websocket;

/// A target: its name, which is also that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets but the simulator's, which is one with the simulator.
pub const TARGETS: &[Target] = &[
    ("backplane", backplane::run),
    ("client", client::run),
    ("client_journal", client_journal::run),
    ("commands", commands::run),
    ("database", database::run),
    ("deflate", deflate::run),
    ("frames", frames::run),
    ("http1", http1::run),
    ("http2", http2::run),
    ("journal", journal::run),
    ("lines", lines::run),
    ("proxy", proxy::run),
    ("session", session::run),
    ("tokens", tokens::run),
    ("websocket", websocket::run),
];
