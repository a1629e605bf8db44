//! What cores do, step by step: shards without an event loop, whose sockets, clock, mail, store and backplane are played by the test. So
//! every test is exact: what is asked, what is counted, what is told to whom, and when.

mod carriers;
mod closing;
mod commands;
mod connection_log;
mod cores;
mod doubt;
mod encode;
mod fanout;
mod home;
mod input;
mod journal;
mod limits;
mod lines;
mod reading;
mod reconfigure;
mod registered;
mod restore;
mod resume;
mod rooms;
mod security;
mod session;
mod sockets;
mod takeover;
mod timers;
mod turn;
