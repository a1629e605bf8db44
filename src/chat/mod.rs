//! What the service means: names, rooms, users, presence, refusals. Pure: no protocol, no clock, no socket; time comes in
//! as an argument and what happened goes out as a value.

pub mod history;
pub mod idempotency;
pub mod inbox;
pub mod name;
pub mod pattern;
pub mod presence;
pub mod refusal;
pub mod room;
pub mod user;
