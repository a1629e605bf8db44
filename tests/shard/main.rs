//! What cores do, step by step: shards without an event loop, whose sockets, clock, mail, store and backplane are played by the test. So
//! every test is exact: what is asked, what is counted, what is told to whom, and when.

mod access_log;
mod accounts;
mod answers;
mod api;
mod calls;
mod cores;
mod event_streams;
mod grpc_call;
mod grpc_chat;
mod grpc_mod;
mod grpc_services;
mod http;
mod queries;
mod rooms;
mod tokens;
mod upgrade;
mod watch;
