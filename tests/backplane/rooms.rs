//! Rooms.

use starling::chat::name::RoomName;
use starling::record::HistoryPage;
use starling::shard::backplane::{
    Append, BackplaneNews, BackplaneRequest, Failed, Keep, LogEntry, Placed, Position, Publish, Utterance,
};

use super::node::{Node, at, config, join_of, nickname, said, say, short};
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
    node.looked_at("lobby");

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
    assert_eq!(node.catch_up(&start).unwrap(), heard);
    assert_eq!(node.catch_up(&at("lobby", "e1", 1, 1)).unwrap(), heard[2..]);
    assert_eq!(node.catch_up(&at("lobby", "e1", 1, 2)).unwrap(), []);
    // With the last that was seen of either, by which it is known again.
    assert_eq!(node.catch_up_from(&at("lobby", "e1", 1, 1)).unwrap(), heard);
    assert_eq!(node.catch_up_from(&at("lobby", "e1", 1, 2)).unwrap(), heard[1..]);
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

#[test]
fn what_is_asked_at_once_is_done_and_answered_in_order() {
    const MANY: u64 = 3000;
    let server = Server::start(&[]);
    let mut node = Node::start(&config(&[server.url()]));
    let make = Some("e".into());
    let (room, start) = (RoomName::parse("r").unwrap(), at("r", "e", 0, 0));
    let mut requests = vec![BackplaneRequest::Open { room, make }];
    for tag in 1..=MANY {
        requests.push(match tag % 3 {
            0 => {
                let ops = vec![join_of(node.session(tag as u32), "ann")];
                BackplaneRequest::Append(Box::new(Append { at: start.clone(), ops, tag, is_guard: false }))
            }
            _ => say(&start, node.id, "x", tag),
        });
    }
    node.ask_all(0, requests);
    node.opened("r").unwrap().unwrap();
    for tag in 1..=MANY {
        // The very next of its kind.
        let next = node.expect(0, |news| match news {
            BackplaneNews::Published { tag, outcome, .. } => Some((*tag, outcome.as_ref().unwrap().offset)),
            BackplaneNews::Appended { tag, outcome, .. } => Some((*tag, outcome.unwrap().change)),
            _ => None,
        });
        assert_eq!(next, (tag, if tag % 3 == 0 { tag / 3 } else { tag - tag / 3 }));
    }
    // In as many answers as it takes, all of it, each once, in order.
    let mut seen = Position::default();
    let mut entries = Vec::new();
    loop {
        let more = node.catch_up(&at("r", "e", seen.change, seen.offset)).unwrap();
        if more.is_empty() {
            break;
        }
        for entry in more {
            match &entry {
                LogEntry::Message { position, .. } => seen.offset = position.offset,
                LogEntry::Change { position, .. } => seen.change = position.change,
            }
            entries.push(entry);
        }
    }
    let tags = entries.iter().map(|entry| match entry {
        LogEntry::Message { message, .. } => message.tag,
        LogEntry::Change { tag, .. } => *tag,
    });
    assert!(tags.eq(1..=MANY));
}

#[test]
fn a_message_that_comes_again_has_the_place_that_it_had() {
    let server = Server::start(&[]);
    let mut node = Node::start(&config(&[server.url()]));
    node.open("r", "e").unwrap();
    let keyed = |node: &Node, tag: u64, change: u64| {
        let (at, message) = (at("r", "e", change, 0), said(node.id, "x", tag));
        let key = Some(Publish::key(7, "{braces} \r\n"));
        BackplaneRequest::Publish(Box::new(Publish { at, message, kept: 1000, key }))
    };
    node.ask(0, keyed(&node, 1, 0));
    let first = node.published(1).unwrap();
    node.append(&at("r", "e", 0, 0), join_of(node.session(1), "ann"), 1, true).unwrap();
    // Although its copy has not seen the guard: that it was taken is what is asked for.
    node.ask(0, keyed(&node, 2, 0));
    let again = node.published(2).unwrap();
    assert_eq!(again, Placed { is_repeated: true, ..first });
}

#[test]
fn changes_are_forgotten_when_what_they_lead_to_is_kept() {
    const CHANGES: u64 = 600;
    let server = Server::start(&[]);
    let mut node = Node::start(&config(&[server.url()]));
    node.open("r", "e").unwrap();
    let start = at("r", "e", 0, 0);
    for tag in 1..=CHANGES {
        node.append(&start, join_of(node.session(tag as u32), "ann"), tag, false).unwrap();
    }
    node.publish(&start, "x", 1).unwrap();
    let keep = |node: &Node, change: u64, snapshot: &str| {
        let (at, snapshot) = (at("r", "e", change, 0), snapshot.to_owned());
        node.ask(0, BackplaneRequest::Keep(Box::new(Keep { at, snapshot: Some(snapshot), members: 7 })));
    };
    keep(&node, 599, "late");
    keep(&node, 598, "early");
    keep(&node, 9999, "never");
    let opened = node.open("r", "").unwrap().unwrap();
    assert_eq!(opened.snapshot, Some((599, "late".to_owned())));
    assert_eq!(short(&opened.entries), ["c600", "m1 x"]);
    assert_eq!(node.rooms(None, 10), [("r".to_owned(), 7, 1)]);
    // A copy that is a little late finds the changes; one that is later does not.
    assert_eq!(node.catch_up(&at("r", "e", 400, 0)).unwrap().len(), 201);
    node.ask(0, BackplaneRequest::CatchUp(at("r", "e", 100, 0)));
    assert_eq!(node.opened("r").unwrap().unwrap().position, Position { change: 600, offset: 1 });
    // Without the changes that follow it what is kept is of no use.
    let _: u64 = server.ask("XTRIM starling:{r}:changes MAXLEN 0");
    assert_eq!(node.open("r", "").unwrap_err(), Failed::Lost);
}

#[test]
fn messages_are_read_in_pages() {
    let server = Server::start(&[]);
    let mut node = Node::start(&config(&[server.url()]));
    node.open("r", "e").unwrap();
    for tag in 1..=9 {
        node.publish(&at("r", "e", 0, 0), "12345", tag).unwrap();
    }
    let all =
        HistoryPage { room: 0, after: 0, before: u64::MAX, is_ascending: true, limit: 100, bytes_max: 1000 };
    assert_eq!(node.page("r", "e", all), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(node.page("r", "e", HistoryPage { after: 2, before: 6, ..all }), [3, 4, 5]);
    assert_eq!(node.page("r", "e", HistoryPage { limit: 2, ..all }), [1, 2]);
    assert_eq!(node.page("r", "e", HistoryPage { limit: 2, is_ascending: false, ..all }), [8, 9]);
    assert_eq!(node.page("r", "e", HistoryPage { bytes_max: 11, ..all }), [1, 2]);
    assert_eq!(node.page("r", "e", HistoryPage { bytes_max: 1, is_ascending: false, ..all }), [9]);
    assert_eq!(node.page("r", "other", all), [0; 0]);
    assert_eq!(node.page("nowhere", "e", all), [0; 0]);
}

#[test]
fn a_room_without_history_keeps_nothing() {
    let server = Server::start(&[]);
    let mut node = Node::start(&config(&[server.url()]));
    node.open("r", "e").unwrap();
    node.looked_at("r");
    for tag in 1..=3 {
        let (at, message) = (at("r", "e", 0, 0), said(node.id, "x", tag));
        node.ask(0, BackplaneRequest::Publish(Box::new(Publish { at, message, kept: 0, key: None })));
        node.published(tag).unwrap();
    }
    assert_eq!(short(&node.entries("r")), ["m1 x"], "it is heard all the same");
    let opened = node.open("r", "").unwrap().unwrap();
    assert_eq!((opened.first_kept, opened.position.offset, &opened.entries[..]), (4, 3, &[][..]));
    node.ask(0, BackplaneRequest::CatchUp(at("r", "e", 0, 1)));
    assert_eq!(node.opened("r").unwrap().unwrap().position.offset, 3, "what was missed is not there");
}

#[test]
fn rooms_are_listed_and_those_that_are_gone_are_not() {
    let server = Server::start(&[]);
    let mut node = Node::start(&config(&[server.url()]));
    let name = |index: u32| format!("Room{index:03}");
    for index in 0..300 {
        node.open(&name(index), "e").unwrap();
    }
    for index in (0..300).filter(|index| index % 3 != 0) {
        let _: u64 = server.ask(&format!("DEL starling:{{room{index:03}}}:meta"));
    }
    let listed: Vec<String> = node.rooms(None, 90).into_iter().map(|(name, _, _)| name).collect();
    assert_eq!(listed, (0..90).map(|index| name(3 * index)).collect::<Vec<_>>());
    let listed: Vec<String> = node.rooms(Some("room267"), 90).into_iter().map(|(name, _, _)| name).collect();
    assert_eq!(listed, (90..100).map(|index| name(3 * index)).collect::<Vec<_>>());
    node.find("nobody"); // answered after they have been taken off the list
    assert_eq!(server.ask::<u64>("ZCARD starling:rooms"), 100, "the others are off the list");
    assert_eq!(node.rooms(Some("zzz"), 10), []);
    assert_eq!(node.open("room001", "e2").unwrap().unwrap().room.as_str(), "room001");
    assert_eq!(node.rooms(Some("room000"), 1), [("room001".to_owned(), 0, 0)]);
}

#[test]
fn whoever_has_closed_a_room_hears_it_no_more() {
    let server = Server::start(&[]);
    let mut node = Node::start(&config(&[server.url()]));
    let mut other = Node::start(&config(&[server.url()]));
    node.open("r", "e").unwrap();
    node.looked_at("r");
    let typing = Utterance::Typing { session: other.session(1), nickname: nickname("ann") };
    other.ask(0, BackplaneRequest::Utter { room: "r".into(), utterance: typing.clone() });
    let heard = node.expect(0, |news| match news {
        BackplaneNews::Uttered { utterance, .. } => Some(utterance.clone()),
        _ => None,
    });
    assert_eq!(heard, typing);
    node.ask(0, BackplaneRequest::Close { room: "r".into() });
    // Opened and closed at once, before the answer is there.
    let make = Some("e".into());
    let second = RoomName::parse("s").unwrap();
    let closed = BackplaneRequest::Close { room: "s".into() };
    node.ask_all(0, vec![BackplaneRequest::Open { room: second, make }, closed]);
    node.opened("s").unwrap();
    for (room, tag) in [("r", 1), ("s", 2)] {
        other.open(room, "e").unwrap();
        other.publish(&at(room, "e", 0, 0), "x", tag).unwrap();
    }
    // What is heard comes in order: nothing has come before this.
    node.open("t", "e").unwrap();
    node.looked_at("t");
    other.open("t", "e").unwrap();
    other.publish(&at("t", "e", 0, 0), "x", 3).unwrap();
    node.entries("t");
    let rest = node.take(0);
    assert!(!rest.iter().any(|news| matches!(news, BackplaneNews::Entries { .. })), "{rest:?}");
    // Opened again, it is heard again.
    node.open("r", "e").unwrap();
    node.looked_at("r");
    other.publish(&at("r", "e", 0, 0), "y", 4).unwrap();
    assert_eq!(short(&node.entries("r")), ["m2 y"]);
}

#[test]
fn what_somebody_else_has_written_leaves_no_gap() {
    let server = Server::start(&[]);
    let mut node = Node::start(&config(&[server.url()]));
    node.open("r", "e").unwrap();
    node.looked_at("r");
    let _: String = server.ask("XADD starling:{r}:messages 1-0 nonsense 1");
    let _: String = server.ask("XADD starling:{r}:changes 1-0 b [{\"op\":\"fly\"}]");
    let _: u64 = server.ask("HSET starling:{r}:meta offset 1 change 1");
    for nonsense in ["nonsense", "m", "m e 1", "c e x y z", "u {}", "q q"] {
        let _: u64 = server.ask_all(&["PUBLISH", "starling:{r}:live", nonsense]);
    }
    let opened = node.open("r", "").unwrap().unwrap();
    let mut read = short(&opened.entries);
    read.sort();
    assert_eq!(read, ["c1", "m1 (unreadable)"]);
    node.publish(&at("r", "e", 1, 1), "x", 1).unwrap();
    assert_eq!(short(&node.entries("r")), ["m2 x"]);
    // A key of another type: refused, for this room alone.
    let _: String = server.ask("SET starling:{s}:meta x");
    assert_eq!(node.open("s", "e").unwrap_err(), Failed::Down);
    node.publish(&at("r", "e", 1, 1), "y", 2).unwrap();
    assert!(!node.take(0).iter().any(|news| matches!(news, BackplaneNews::Down(_))));
}
