//! Rooms.

use starling::shard::backplane::{Failed, LogEntry, Placed, Position};

use super::node::{Node, at, config, join_of, short};
use super::server::Server;

#[test]
fn a_room_is_opened_written_and_read() {
    let server = Server::start(&[]);
    let mut node = Node::start(&config(&[server.url()]));
    assert!(node.open("Lobby", "").unwrap().is_none(), "it is not there, and not to be made");
    let opened = node.open("Lobby", "e1").unwrap().unwrap();
    assert_eq!((opened.room.as_str(), &*opened.epoch, opened.first_kept), ("Lobby", "e1", 1));
    assert_eq!(
        (opened.position, &opened.snapshot, &opened.entries[..]),
        (Position::default(), &None, &[][..])
    );
    node.heard_from_now("lobby");

    let start = at("lobby", "e1", 0, 0);
    let placed = node.publish(&start, "one", 1).unwrap();
    assert_eq!((placed.offset, placed.is_repeated, &*placed.epoch), (1, false, "e1"));
    assert!(placed.timestamp_ms > 1_600_000_000_000);
    let session = node.session(1);
    let change = node.append(&at("lobby", "e1", 0, 1), join_of(session, "Ann"), 7, true).unwrap();
    assert_eq!(change, Position { change: 1, offset: 1 });
    // It has not seen the guard.
    assert_eq!(node.publish(&at("lobby", "e1", 0, 1), "two", 2), Err(Failed::Behind));
    assert!(matches!(node.publish(&at("lobby", "e1", 1, 1), "two", 3), Ok(Placed { offset: 2, .. })));
    // The same change again has the place that it had.
    assert_eq!(node.append(&at("lobby", "e1", 1, 2), join_of(session, "Ann"), 7, true), Ok(change));

    // What was announced, in order.
    let mut heard = Vec::new();
    while heard.len() < 3 {
        heard.extend(node.entries("lobby"));
    }
    assert_eq!(short(&heard), ["m1 one", "c1", "m2 two"]);
    let LogEntry::Change { node: by, tag, ops, .. } = &heard[1] else { panic!() };
    assert_eq!((*by, *tag, &ops[..]), (node.id, 7, &[join_of(session, "Ann")][..]));
    // What is asked for is the same.
    assert_eq!(node.catch_up(&start), heard);
    assert_eq!(node.catch_up(&at("lobby", "e1", 1, 1)), heard[2..]);
    assert_eq!(node.catch_up(&at("lobby", "e1", 1, 2)), []);
    // So it is to somebody who comes later.
    let mut other = Node::start(&config(&[server.url()]));
    let opened = other.open("LOBBY", "e2").unwrap().unwrap();
    assert_eq!((opened.room.as_str(), &*opened.epoch), ("Lobby", "e1"));
    assert_eq!((opened.entries, opened.first_kept), (heard, 1));
    assert_eq!(opened.position, Position { change: 1, offset: 2 });

    // Another epoch, or more than there is: something was lost.
    for lost in
        [at("lobby", "e0", 1, 2), at("lobby", "e1", 2, 2), at("lobby", "e1", 1, 3), at("nowhere", "e", 0, 0)]
    {
        assert_eq!(node.publish(&lost, "three", 9), Err(Failed::Lost), "{lost:?}");
        assert_eq!(node.append(&lost, join_of(session, "Ann"), 9, false), Err(Failed::Lost), "{lost:?}");
    }
}
