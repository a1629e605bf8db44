//! starling: a chat and realtime message server with one pinned, hand-written event loop a core.

pub mod base;
pub mod chat;
pub mod cli;
pub mod config;
pub mod observe;
pub mod proto;
pub mod reactor;
pub mod server;
pub mod shard;
pub mod sys;
pub mod web;
