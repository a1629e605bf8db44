//! What concerns rooms and what is heard in them, and private messages.

use super::*;

#[test]
fn messages_come_once_and_a_hole_is_filled() {
    let mut bench = Bench::in_room(4);
    bench.message(5);
    bench.message(5);
    bench.message(3);
    assert_eq!(bench.told(), [(5, 5)]);
    bench.message(9);
    bench.message(10);
    bench.message(12);
    assert!(bench.told().is_empty());
    let question = bench.written("history");
    assert_eq!((&question["after"], &question["limit"]), (&json!(5), &json!(3)));
    bench.answers(&question, history([6, 7]));
    assert_eq!(bench.told(), [(6, 6), (7, 7)]);
    let question = bench.written("history");
    assert_eq!(question["after"], 7);
    bench.answers(&question, history([8, 9]));
    assert_eq!(bench.told(), [(8, 8), (9, 9), (10, 10)]);
    let question = bench.written("history");
    assert_eq!(question["after"], 10);
    bench.answers(&question, history([11, 12]));
    assert_eq!(bench.told(), [(11, 11), (12, 12)]);
    bench.silent();
}

#[test]
fn a_hole_that_cannot_be_filled_is_told() {
    let mut bench = Bench::in_room(0);
    bench.message(6);
    let question = bench.written("history");
    bench.answers(&question, history([3, 4]));
    assert_eq!(bench.told(), [(1, 2), (3, 3), (4, 4)]);
    let question = bench.written("history");
    bench.answers(&question, history([]));
    assert_eq!(bench.told(), [(5, 5), (6, 6)]);
    bench.message(8);
    let question = bench.written("history");
    bench.answers(&question, error(503, "backplane_down", true));
    assert_eq!(bench.told(), [(7, 7), (8, 8)]);
    let mut bench = Bench::online_with(|config| config.fill_gaps = false);
    bench.join("den", 0);
    bench.message(3);
    assert_eq!(bench.told(), [(1, 2), (3, 3)]);
    bench.silent();
}

#[test]
fn more_than_can_be_held_behind_a_hole_is_not() {
    let mut bench = Bench::in_room(0);
    for offset in 2..4100 {
        bench.message(offset);
    }
    let told = bench.told();
    assert_eq!((told[0], told[1], told.len()), ((1, 1), (2, 2), 4099));
    // The answer comes when nobody waits for it any more.
    let question = bench.written("history");
    bench.message(4101);
    bench.answers(&question, history([1]));
    assert!(bench.told().is_empty());
    let question = bench.written("history");
    bench.answers(&question, history([4100]));
    assert_eq!(bench.told(), [(4100, 4100), (4101, 4101)]);
}

#[test]
fn a_gap_that_the_server_tells_is_filled() {
    let mut bench = Bench::in_room(0);
    bench.hears(json!({"type": "gap", "room": "den", "epoch": "e", "from": 1, "to": 2}));
    bench.message(3);
    let question = bench.written("history");
    bench.answers(&question, history([1, 2]));
    assert_eq!(bench.told(), [(1, 1), (2, 2), (3, 3)]);
}

#[test]
fn a_connection_that_is_lost_while_a_hole_is_filled_begins_at_the_hole() {
    let mut bench = Bench::in_room(0);
    bench.message(3);
    bench.written("history");
    bench.reconnect(true);
    assert_eq!(bench.written("join")["since"]["offset"], 0);
}

#[test]
fn what_could_not_be_recovered_is_asked_for_or_told() {
    let mut bench = Bench::in_room(2);
    bench.reconnect(true);
    let join = bench.written("join");
    bench.answers(
        &join,
        json!({"type": "joined", "room": "den", "epoch": "e", "offset": 9, "recovered": false}),
    );
    bench.event();
    let question = bench.written("history");
    assert_eq!((&question["after"], &question["limit"]), (&json!(2), &json!(7)));
    bench.message(10);
    bench.answers(&question, history([8, 9]));
    assert_eq!(bench.told(), [(3, 7), (8, 8), (9, 9), (10, 10)]);
    // Another history, and one that has lost its end.
    for (epoch, offset) in [("f", 3), ("f", 1)] {
        bench.reconnect(true);
        let join = bench.written("join");
        bench.answers(
            &join,
            json!({"type": "joined", "room": "den", "epoch": epoch, "offset": offset, "recovered": false}),
        );
        bench.event();
        assert_eq!(
            bench.event(),
            Event::Restarted { room: "den".to_owned(), epoch: epoch.to_owned(), offset }
        );
        bench.silent();
        bench.message(offset + 1);
        assert!(matches!(bench.event(), Event::Message(message) if message.epoch == epoch));
    }
}

#[test]
fn who_does_not_hear_himself_sees_no_holes() {
    let mut bench = Bench::online();
    bench.machine.join(bench.now, "den", JoinOptions::default().no_echo()).unwrap();
    let join = bench.written("join");
    assert_eq!(join["echo"], false);
    bench.answers(&join, json!({"type": "joined", "room": "den", "epoch": "e", "offset": 0}));
    bench.events.clear();
    bench.send("mine");
    let sent = bench.written("message");
    bench.answers(&sent, json!({"type": "ack", "room": "den", "epoch": "e", "offset": 2}));
    bench.events.clear();
    bench.message(1);
    bench.message(3);
    assert_eq!(bench.told(), [(1, 1), (3, 3)]);
    // A resume brings all, one's own too: they are known.
    bench.send("mine");
    let sent = bench.written("message");
    bench.answers(&sent, json!({"type": "ack", "room": "den", "epoch": "e", "offset": 4}));
    bench.events.clear();
    bench.reconnect(true);
    let join = bench.written("join");
    assert_eq!(join["since"]["offset"], 3);
    bench.answers(
        &join,
        json!({"type": "joined", "room": "den", "epoch": "e", "offset": 5, "recovered": true}),
    );
    bench.event();
    bench.message(4);
    bench.message(5);
    assert_eq!(bench.told(), [(5, 5)]);
}

#[test]
fn who_is_put_out_is_told_and_does_not_come_back() {
    let mut bench = Bench::in_room(0);
    bench.send("one");
    let two = bench.send("two");
    bench.written("message");
    bench.event();
    bench.hears(json!({"type": "left", "room": "den", "reason": "kicked"}));
    assert_eq!(bench.event(), delivery(two, Delivery::Failed(Failure::Left)));
    assert!(matches!(bench.event(), Event::Left(Left { reason, .. }) if reason == "kicked"));
    // What was under way may be in the room all the same.
    assert_eq!(bench.machine.unanswered(), 1);
    bench.reconnect(true);
    let again = bench.written("message");
    assert_eq!(again["content"], "one");
    bench.event();
    bench.answers(&again, error(403, "not_a_member", false));
    assert!(matches!(bench.event(), Event::Delivery { delivery: Delivery::Failed(Failure::Unsure), .. }));
    bench.silent();
}

#[test]
fn a_room_that_does_not_take_one_back_is_left() {
    let mut bench = Bench::in_room(0);
    bench.reconnect(true);
    let join = bench.written("join");
    bench.answers(&join, error(503, "store_down", true));
    bench.silent();
    bench.now = bench.machine.deadline().unwrap();
    bench.tick();
    let join = bench.written("join");
    bench.answers(&join, error(403, "banned", false));
    assert!(matches!(bench.event(), Event::Left(Left { reason, .. }) if reason == "banned"));
    bench.reconnect(true);
    bench.silent();
    let ticket = bench.machine.join(bench.now, "den", JoinOptions::default()).unwrap();
    let join = bench.written("join");
    bench.answers(&join, error(403, "banned", false));
    let Event::Reply { ticket: of, reply: Err(Failure::Refused(_)) } = bench.event() else { panic!() };
    assert_eq!(of, ticket);
}

#[test]
fn a_room_is_known_by_the_name_that_the_server_writes_too() {
    let mut bench = Bench::online();
    bench.machine.join(bench.now, "DEN", JoinOptions::default()).unwrap();
    let join = bench.written("join");
    bench.answers(&join, json!({"type": "joined", "room": "den", "epoch": "e", "offset": 0}));
    bench.events.clear();
    bench.message(1);
    assert_eq!(bench.told(), [(1, 1)]);
    bench.send("by one name");
    bench.machine.send(bench.now, "DEN", "by the other", None).unwrap();
    assert_eq!(bench.machine.rooms().collect::<Vec<_>>(), ["den"]);
    bench.machine.leave(bench.now, "den").unwrap();
    assert_eq!(bench.machine.rooms().count(), 0);
}

#[test]
fn leaving_is_said_again_in_the_same_session() {
    for resumed in [true, false] {
        let mut bench = Bench::in_room(0);
        let ticket = bench.machine.leave(bench.now, "den").unwrap();
        bench.written("leave");
        assert!(matches!(bench.machine.send(bench.now, "den", "hi", None), Err(Error::NotInRoom(_))));
        bench.reconnect(resumed);
        if resumed {
            let leave = bench.written("leave");
            bench.answers(&leave, json!({"type": "left", "room": "den", "reason": "left"}));
        }
        assert!(matches!(bench.event(), Event::Left(_)));
        assert_eq!(bench.event(), Event::Reply { ticket, reply: Ok(Reply::Left("den".to_owned())) });
        bench.silent();
    }
}

#[test]
fn kept_private_messages_are_said_to_have_come_and_come_once() {
    let private = |content: &str, offset: Option<u64>| json!({"type": "private", "sender": "bob", "target": "alice", "content": content, "timestamp": 7, "offset": offset});
    let mut bench = Bench::online();
    bench.hears(private("live", None));
    bench.hears(private("live", None));
    assert_eq!(bench.events.drain(..).count(), 2);
    bench.reconnect(true);
    for (offset, content) in [(1, "live"), (2, "live"), (3, "kept")] {
        bench.hears(private(content, Some(offset)));
    }
    assert!(matches!(bench.event(), Event::Private(private) if private.content == "kept"));
    bench.silent();
    bench.pass(ms(100));
    assert_eq!(bench.written("received")["offset"], 3);
    // That was lost with the connection.
    bench.reconnect(true);
    bench.hears(private("kept", Some(3)));
    bench.hears(private("more", Some(4)));
    assert!(matches!(bench.event(), Event::Private(private) if private.content == "more"));
    bench.pass(ms(100));
    let received = bench.written("received");
    assert_eq!(received["offset"], 4);
    let mut limited = error(429, "rate_limited", true);
    limited["retry_after_ms"] = json!(1000);
    bench.answers(&received, limited);
    bench.pass(ms(1000));
    assert_eq!(bench.written("received")["offset"], 4);
    // A user's inbox outlives the session.
    bench.reconnect(false);
    bench.hears(private("more", Some(4)));
    bench.silent();
}

#[test]
fn a_program_can_say_itself_what_has_come() {
    let mut bench = Bench::online_with(|config| config.manual_received = true);
    bench.hears(json!({"type": "private", "sender": "bob", "content": "kept", "timestamp": 7, "offset": 1}));
    bench.event();
    bench.pass(ms(1000));
    bench.silent();
    bench.machine.received(1);
    assert_eq!(bench.written("received")["offset"], 1);
}

#[test]
fn typing_is_told_at_most_once_a_second() {
    let mut bench = Bench::in_room(0);
    for _ in 0..3 {
        bench.machine.typing(bench.now, "den");
    }
    bench.machine.typing(bench.now, "elsewhere");
    bench.written("typing");
    bench.silent();
    bench.now += ms(1000);
    bench.machine.typing(bench.now, "den");
    bench.written("typing");
}

#[test]
fn the_answer_to_an_earlier_join_or_leave_is_not_that_of_the_last() {
    let mut bench = Bench::online();
    let joined =
        |epoch: &str, offset: u64| json!({"type": "joined", "room": "den", "epoch": epoch, "offset": offset});
    let left = || json!({"type": "left", "room": "den", "reason": "left"});
    let mut asked = Vec::new();
    for _ in 0..2 {
        bench.machine.join(bench.now, "den", JoinOptions::default()).unwrap();
        asked.push(bench.written("join"));
        bench.machine.leave(bench.now, "den").unwrap();
        asked.push(bench.written("leave"));
    }
    let ticket = bench.machine.join(bench.now, "den", JoinOptions::default()).unwrap();
    let last = bench.written("join");
    bench.take();
    bench.events.clear();
    for (index, command) in asked.iter().enumerate() {
        bench.answers(command, if index % 2 == 0 { joined("e", 7) } else { left() });
        bench.silent();
    }
    bench.answers(&last, joined("f", 0));
    assert!(matches!(bench.event(), Event::Joined(joined) if joined.epoch == "f" && joined.offset == 0));
    assert_eq!(bench.event(), Event::Reply { ticket, reply: Ok(Reply::Joined("den".to_owned())) });
    bench.silent();
}

#[test]
fn a_leave_that_is_refused_for_a_while_is_said_again() {
    let mut bench = Bench::in_room(4);
    let sent = bench.send("late");
    let said = bench.written("message");
    bench.event();
    let ticket = bench.machine.leave(bench.now, "den").unwrap();
    let leave = bench.written("leave");
    bench.answers(&leave, error(429, "rate_limited", true));
    bench.silent();
    // What was under way is not tried again in a room that one leaves.
    bench.answers(&said, error(429, "rate_limited", true));
    assert_eq!(bench.event(), delivery(sent, Delivery::Failed(Failure::Left)));
    bench.now = bench.machine.deadline().expect("it waits");
    bench.tick();
    let leave = bench.written("leave");
    bench.answers(&leave, json!({"type": "left", "room": "den", "reason": "left"}));
    assert!(matches!(bench.event(), Event::Left(_)));
    assert_eq!(bench.event(), Event::Reply { ticket, reply: Ok(Reply::Left("den".to_owned())) });
    bench.silent();
}

#[test]
fn a_room_that_one_is_in_after_all_is_left_and_joined_anew() {
    let mut bench = Bench::in_room(4);
    bench.machine.leave(bench.now, "den").unwrap();
    let leave = bench.written("leave");
    let ticket = bench.machine.join(bench.now, "den", JoinOptions::default()).unwrap();
    let join = bench.written("join");
    bench.take();
    bench.events.clear();
    bench.answers(&leave, error(429, "rate_limited", true));
    bench.answers(&join, error(409, "already_joined", false));
    bench.written("leave");
    bench.silent();
    bench.now = bench.machine.deadline().expect("it waits");
    bench.tick();
    let join = bench.written("join");
    bench.answers(&join, json!({"type": "joined", "room": "den", "epoch": "e", "offset": 9}));
    assert!(matches!(bench.event(), Event::Joined(_)));
    assert_eq!(bench.event(), Event::Reply { ticket, reply: Ok(Reply::Joined("den".to_owned())) });
}

#[test]
fn a_room_under_another_case_is_the_same_room() {
    let mut bench = Bench::in_room(0);
    let ticket = bench.machine.join(bench.now, "DEN", JoinOptions::default()).unwrap();
    assert_eq!(bench.event(), Event::Reply { ticket, reply: Ok(Reply::Joined("den".to_owned())) });
    bench.silent();
    assert!(bench.machine.rooms().eq(["den"]));
    assert!(bench.machine.position("dEn").is_some());
    bench.machine.send(bench.now, "Den", "hello", None).unwrap();
    bench.written("message");
    bench.events.clear();
    bench.reconnect(true);
    bench.written("join");
    bench.silent();
    bench.machine.leave(bench.now, "DEN").unwrap();
    bench.take();
    assert_eq!(bench.machine.rooms().count(), 0);
    assert!(matches!(bench.machine.send(bench.now, "den", "hello", None), Err(Error::NotInRoom(_))));
}

#[test]
fn a_room_has_the_name_that_the_server_writes() {
    let mut bench = Bench::online();
    bench.machine.join(bench.now, "ΟΔΟΣ", JoinOptions::default()).unwrap();
    let join = bench.written("join");
    assert_eq!(join["room"], "ΟΔΟΣ", "who makes a room says how it is written");
    assert!(bench.machine.rooms().eq(["ΟΔΟΣ"]));
    bench.answers(&join, json!({"type": "joined", "room": "οδος", "epoch": "e", "offset": 0}));
    assert!(bench.machine.rooms().eq(["οδος"]));
    assert!(bench.machine.send(bench.now, "Οδοσ", "hello", None).is_ok());
}
