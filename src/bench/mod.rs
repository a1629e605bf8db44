//! The load generator, `starling bench`: many connections on the loop that the server runs on, and an audit of everything
//! that comes back.
//!
//! | module | what |
//! |---|---|
//! | [`plan`], [`cast`] | what a run is to do, and who does it |
//! | [`target`] | protocols as bytes to messages and back |
//! | [`generator`] | a thread's world, driven by the loop |
//! | [`schedule`], [`marker`] | when messages are due, and how they say so |
//! | [`audit`] | gaps, repeats, reorderings, missing messages |
//! | [`mod@run`] | threads, phases, sums |
//! | [`subject`], [`syscalls`], [`child`] | the target's processes seen from outside; a server of one's own |
//! | [`report`], [`table`], [`plot`], [`fingerprint`] | what is told at the end |
//! | [`search`] | the highest rate that holds |

pub mod audit;
pub mod cast;
pub mod child;
pub mod fingerprint;
pub mod generator;
pub mod marker;
pub mod plan;
pub mod plot;
pub mod progress;
pub mod report;
pub mod run;
pub mod schedule;
pub mod search;
pub mod shared;
pub mod subject;
pub mod syscalls;
pub mod table;
pub mod tally;
pub mod target;
pub mod zipf;
