//! chat

pub mod name;
pub mod refusal;
