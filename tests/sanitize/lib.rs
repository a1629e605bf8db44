//! The server's own sources, as `scripts/sanitize` builds them: each file with unsafe code, and all that cores share.

#![allow(dead_code, missing_docs)]

pub mod base;
pub mod reactor;
pub mod sys;
