//! What the server tells about itself.

mod format;
pub mod logging;
mod writer;

pub use format::{date, push_time};
