//! What cores do, step by step: shards without an event loop, whose sockets, clock, mail, store and backplane are played by the test. So
//! every test is exact: what is asked, what is counted, what is told to whom, and when.

mod carriers;
mod closing;
mod commands;
mod connection_log;
mod cores;
mod encode;
mod fanout;
mod input;
mod limits;
mod lines;
mod reading;
mod reconfigure;
mod rooms;
mod security;
mod timers;
mod turn;
