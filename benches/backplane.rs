//! How fast the link between a node and Redis is: `cargo bench --bench backplane`, or benches/backplane.sh beside redis-benchmark. Starts
//! redis-servers of its own.
#![allow(dead_code, missing_docs)] // the node and the server are those of the tests, which use more of them

#[path = "../tests/backplane/node.rs"]
mod node;
#[path = "../tests/backplane/server.rs"]
mod server;

use std::time::Instant;

use starling::shard::backplane::{BackplaneNews, BackplaneRequest};

use node::{Node, at, config, say};
use server::Server;

fn speed_of_publishing() {
    for under_way in [1, 16, 128, 512] {
        let server = Server::start(&[]);
        let mut node = Node::start(&config(&[server.url()]));
        node.open("r", "e").unwrap();
        // What is heard is another matter, and would only pile up here.
        node.ask(0, BackplaneRequest::Close { room: "r".into() });
        let start = at("r", "e", 0, 0);
        let many: u64 = if under_way == 1 { 20_000 } else { 200_000 };
        let started = Instant::now();
        let mut asked = 0;
        for done in 0..many {
            while asked < many && asked < done + under_way {
                asked += 1;
                node.ask(0, say(&start, node.id, "a message of some length, as people say it", asked));
            }
            node.published(done + 1).unwrap();
        }
        let took = started.elapsed();
        println!("{under_way} under way: {:.0} a second", many as f64 / took.as_secs_f64());
    }
}

fn speed_of_hearing() {
    const MANY: u64 = 200_000;
    let server = Server::start(&[]);
    let mut node = Node::start(&config(&[server.url()]));
    let mut other = Node::start(&config(&[server.url()]));
    node.open("r", "e").unwrap();
    node.ask(0, BackplaneRequest::Close { room: "r".into() });
    other.open("r", "e").unwrap();
    other.looked_at("r");
    let start = at("r", "e", 0, 0);
    let started = Instant::now();
    let (mut asked, mut heard) = (0, 0);
    while heard < MANY {
        while asked < MANY && asked < heard + 512 {
            asked += 1;
            node.ask(0, say(&start, node.id, "a message of some length, as people say it", asked));
        }
        node.take(0);
        other.entries("r");
        heard += 1
            + other.take(0).iter().filter(|news| matches!(news, BackplaneNews::Entries { .. })).count()
                as u64;
    }
    println!("heard by another node: {:.0} a second", MANY as f64 / started.elapsed().as_secs_f64());
}

fn main() {
    speed_of_publishing();
    speed_of_hearing();
}
