//! What HTTP requests read, what an admin says to all, and whom it puts out.

use serde_json::{Value, json};
use starling::chat::name::RoomName;
use starling::config::{Config, ListenKind};
use starling::shard::backplane::{BackplaneNews, BackplaneRequest, ClaimOutcome};
use starling::shard::mail::Mail;

use crate::answers::{Answer, ask, browser, request};
use crate::cores::{Cores, programs};
use crate::tokens::{self, admin_key, claims, token};

const ADMIN: &str = "X-API-Key: ops\r\n";

fn keys(config: &mut Config) {
    config.auth.api_keys = programs(&["ci"]);
    config.auth.api_keys.push(admin_key("ops"));
}

fn get(cores: &mut Cores, core: usize, target: &str) -> Answer {
    ask(cores, core, &format!("GET /api/rooms{target}"), "")
}

/// A request to say this to all, with a key.
fn broadcast(key: &str, content: &str) -> String {
    let body = json!({ "content": content }).to_string();
    request("POST /api/broadcast", &format!("{key}Content-Length: {}\r\n", body.len())) + &body
}

#[test]
fn what_a_room_remembers_is_read_by_places() {
    let mut cores = Cores::of(2, |_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    for content in ["one", "two", "three", "four"] {
        cores.speak(alice, "den", content);
    }
    let whole = get(&mut cores, 1, "/DEN/history").json();
    let message = |content: &str, offset: u64| json!({ "sender": "alice", "content": content, "offset": offset, "timestamp": 1_700_000_001_000_u64 });
    let all = [message("one", 1), message("two", 2), message("three", 3), message("four", 4)];
    let epoch = &whole["epoch"];
    assert_eq!(whole, json!({ "type": "history", "room": "den", "epoch": epoch, "messages": all }));
    let mut offsets = |query: &str| {
        let page = get(&mut cores, 0, &format!("/den/history{query}")).json();
        let messages = page["messages"].as_array().unwrap_or_else(|| panic!("{page}")).iter();
        messages.map(|message| message["offset"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(offsets("?limit=2"), [3, 4]);
    assert_eq!(offsets("?before=3"), [1, 2]);
    assert_eq!(offsets("?after=1&limit=2"), [2, 3]);
    assert_eq!(offsets("?after=0&before=3"), [1, 2]);
    assert_eq!(offsets("?limit=0"), [4], "one at least");
    assert_eq!(get(&mut cores, 0, "/hall/history").error(), (404, "no_such_room".to_owned()));
}

#[test]
fn lists_are_read_a_page_at_a_time_in_the_order_of_their_names() {
    let mut cores = Cores::made(3, |_| {}, tokens::arrange);
    let names = ["Ann", "ben", "Cleo", "dan"];
    let rooms: Vec<String> = (0..9).map(|number| format!("Room-{number}")).collect();
    for (core, name) in names.iter().enumerate() {
        cores.enter(core % 3, name, &["Room-4"]);
    }
    let alice = cores.enter(0, "alice", &rooms.iter().map(String::as_str).collect::<Vec<_>>());
    cores.speak(alice, "Room-4", "x");
    let first = get(&mut cores, 1, "/room-4/members?limit=2").json();
    let member = |name: &str| {
        json!({ "nickname": name, "role": if name == "Ann" { "host" } else { "member" }, "connected": true,
                "last_active": 1_700_000_001_000_u64 })
    };
    let members = [member("alice"), member("Ann")];
    assert_eq!(first, json!({ "type": "members", "room": "Room-4", "total": 5, "members": members }));
    let second = get(&mut cores, 2, "/room-4/members?limit=2&after=Ann").json();
    assert_eq!(second["members"], json!([member("ben"), member("Cleo")]));
    let mut found = |core: usize, query: &str, fields: &str| {
        let page = ask(&mut cores, core, &format!("GET /api/rooms{query}"), fields).json();
        page["rooms"].as_array().unwrap_or_else(|| panic!("{page}")).clone()
    };
    let entry = |number: usize| {
        let (members, offset) = if number == 4 { (5, 1) } else { (1, 0) };
        json!({ "room": format!("Room-{number}"), "members": members, "offset": offset })
    };
    let entries = |range: std::ops::Range<usize>| range.map(entry).collect::<Vec<Value>>();
    for core in 0..3 {
        assert_eq!(found(core, "", ""), entries(0..9));
        assert_eq!(found(core, "?limit=4", ""), entries(0..4));
        assert_eq!(found(core, "?limit=4&after=ROOM-3", ""), entries(4..8));
        assert_eq!(found(core, "?after=Room-7&limit=4", ""), entries(8..9));
    }
    let rooms = Some(vec!["*-2".to_owned(), "room-7".to_owned()]);
    let dora = token(&starling::auth::Claims { rooms, ..claims("dora") });
    let found = found(0, "", &format!("Authorization: Bearer {dora}\r\n"));
    assert_eq!(found, [entry(2), entry(7)]);
}

#[test]
fn what_a_query_says_beside_its_parameters_is_refused() {
    let mut cores = Cores::new(|_| {});
    cores.enter(0, "alice", &["den"]);
    let bad = (400, "bad_request".to_owned());
    for query in [
        "/den/history?limit=x",
        "/den/history?limit=-1",
        "/den/history?limit=1&limit=1",
        "/den/history?before=x",
        "/den/history?after=",
        "/den/history?before=1&before=2",
        "/den/history?after=1&after=2",
        "/den/history?room=den",
        "/den/history?limit=%zz",
        "/den/members?before=1",
        "/den/members?after=a&after=b",
        "?before=1",
        "?x=1",
    ] {
        assert_eq!(get(&mut cores, 0, query).error(), bad, "{query}");
    }
    assert_eq!(get(&mut cores, 0, "/den/members?after=&limit=1").status, 200);
}

#[test]
fn what_an_admin_says_to_all_is_heard_on_every_core() {
    let mut cores = Cores::of(3, keys);
    let everybody = [(0, "ann"), (1, "ben"), (2, "cleo"), (2, "dan")];
    let clients = everybody.map(|(core, name)| cores.enter(core, name, &[]));
    let say = |cores: &mut Cores, key: &str| Answer::of(&cores.http(1, &broadcast(key, "hear")));
    assert_eq!(say(&mut cores, "X-API-Key: ci\r\n").error(), (403, "forbidden".to_owned()));
    let heard = say(&mut cores, ADMIN);
    assert_eq!((heard.status, heard.body.as_str()), (200, r#"{"sessions":4}"#));
    assert_eq!(heard.field("Content-Type"), Some("application/json"));
    let system =
        json!({ "type": "system", "content": "hear", "sender": "ops", "timestamp": 1_700_000_001_000_u64 });
    for client in clients {
        assert_eq!(cores.events(client), std::slice::from_ref(&system));
    }
    let empty = Answer::of(&cores.http(0, &broadcast(ADMIN, "")));
    assert_eq!(empty.error(), (400, "bad_request".to_owned()));
}

#[test]
fn who_is_put_out_is_gone_on_every_core() {
    let mut cores = Cores::made(3, keys, tokens::arrange);
    let dora = token(&claims("Dora"));
    let enter = |cores: &mut Cores, core: usize, room: &str| {
        let client = cores.connect(core, ListenKind::Line);
        cores.say(client, &format!(r#"{{"type":"hello","token":"{dora}"}}"#));
        cores.say(client, &format!(r#"{{"type":"join","room":"{room}"}}"#));
        cores.events(client);
        client
    };
    let alice = cores.enter(0, "alice", &["den"]);
    let there = [0, 1, 2, 2].map(|core| enter(&mut cores, core, "den"));
    let away = enter(&mut cores, 1, "hall");
    cores.broken(away);
    let stream = browser(
        &mut cores,
        2,
        &request("GET /api/rooms/den/stream", &format!("Authorization: Bearer {dora}\r\n")),
    );
    cores.events(alice);
    let put_out = |cores: &mut Cores, name: &str, key: &str| {
        ask(cores, 1, &format!("DELETE /api/sessions/{name}"), key)
    };
    assert_eq!(put_out(&mut cores, "dora", "X-API-Key: ci\r\n").error(), (403, "forbidden".to_owned()));
    assert_eq!(put_out(&mut cores, "do%20ra", ADMIN).error(), (400, "bad_name".to_owned()));
    assert_eq!(put_out(&mut cores, "do%zz", ADMIN).error(), (400, "bad_name".to_owned()));
    let done = put_out(&mut cores, "DORA", ADMIN);
    assert_eq!((done.status, done.body.as_str()), (204, ""));
    for client in there {
        assert_eq!(cores.told(client, "bye", "code"), [4107]);
        assert!(cores.is_over(client));
    }
    assert!(cores.is_over(stream) && !cores.is_over(alice));
    assert_eq!(cores.total(|counters| &counters.put_out), 5);
    let left = cores.events(alice);
    assert_eq!((left.len(), &left[0]["event"], &left[0]["reason"]), (1, &json!("leave"), &json!("lost")));
    assert_eq!(put_out(&mut cores, "dora", ADMIN).error(), (404, "no_such_user".to_owned()));
    assert_eq!(put_out(&mut cores, "alice", ADMIN).status, 204, "who has a session and no stream");
}

#[test]
fn what_a_program_publishes_waits_for_place_in_the_journal() {
    let mut cores = Cores::stored(1, keys);
    cores.enter(0, "alice", &["den"]);
    let reserve = Config::default().store.queue_bytes / 4;
    cores.journal_bytes = reserve + 1000;
    cores.turn();
    assert_eq!(cores.publish(0, "ci", "den", "short", "").0, 200);
    let body = json!({ "content": "x".repeat(2000) }).to_string();
    let fields = format!("X-API-Key: ci\r\nContent-Length: {}\r\n", body.len());
    let client = browser(&mut cores, 0, &(request("POST /api/rooms/den/messages", &fields) + &body));
    assert_eq!(cores.heard(client), "");
    assert_eq!(cores.total(|counters| &counters.journal_waits), 1);
    cores.journal_bytes = reserve + 8000;
    cores.turn();
    cores.pass(1000);
    assert_eq!(Answer::of(&cores.heard(client)).json()["offset"], 2);
}

/// What the backplane has been asked lately.
fn asked(cores: &mut Cores) -> Vec<BackplaneRequest> {
    let requests = std::mem::take(&mut cores.asked).into_iter().filter_map(|(_, mail)| match mail {
        Mail::BackplaneRequest { request, .. } => Some(request),
        _ => None,
    });
    requests.collect()
}

fn tell(cores: &mut Cores, news: BackplaneNews) {
    cores.mail(0, Mail::Backplane(news));
}

fn down(cores: &mut Cores) {
    tell(cores, BackplaneNews::Down(Some("no answer".into())));
}

#[test]
fn a_node_that_does_not_have_a_room_asks_for_it() {
    let nothing = |cores: &mut Cores| {
        let outcome = Ok(None);
        tell(cores, BackplaneNews::Opened { room: "den".into(), outcome, is_catch_up: false });
    };
    let opens = |cores: &mut Cores| {
        let requests = asked(cores);
        let [BackplaneRequest::Open { room, make }] = &requests[..] else { panic!("{requests:?}") };
        assert_eq!(room.as_str(), "den");
        make.is_some()
    };
    let no_such_room = (404, "no_such_room".to_owned());
    let body = r#"{"content":"x"}"#;
    let fields = format!("X-API-Key: ci\r\nContent-Length: {}\r\n", body.len());
    let publish = request("POST /api/rooms/den/messages", &fields) + body;
    for maker in [publish, request("GET /api/rooms/den/stream", "")] {
        let mut cores = Cores::node(keys);
        let readers = ["members", "history"]
            .map(|what| browser(&mut cores, 0, &request(&format!("GET /api/rooms/den/{what}"), "")));
        assert!(!opens(&mut cores), "who reads makes no room");
        // Who wants it to be made comes while that is asked.
        let client = browser(&mut cores, 0, &maker);
        assert_eq!(asked(&mut cores).len(), 0);
        nothing(&mut cores);
        for reader in readers {
            assert_eq!(Answer::of(&cores.heard(reader)).error(), no_such_room);
        }
        assert!(opens(&mut cores));
        assert_eq!(cores.heard(client), "");
        nothing(&mut cores);
        assert_eq!(Answer::of(&cores.heard(client)).error(), no_such_room);
    }
}

#[test]
fn the_rooms_of_a_cluster_are_those_that_the_backplane_has() {
    let mut cores = Cores::node(keys);
    let client = browser(&mut cores, 0, &request("GET /api/rooms?after=Attic&limit=2", ""));
    let requests = asked(&mut cores);
    let [BackplaneRequest::Rooms { wait, after, limit: 2 }] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!(after.as_deref(), Some("attic"));
    let room = |name: &str| RoomName::parse(name).expect("a name");
    let rooms = Some(vec![(room("Den"), 3, 7), (room("hall"), 0, 1)]);
    tell(&mut cores, BackplaneNews::Rooms { wait: *wait, rooms });
    let rooms =
        json!([{ "room": "Den", "members": 3, "offset": 7 }, { "room": "hall", "members": 0, "offset": 1 }]);
    assert_eq!(Answer::of(&cores.heard(client)).json(), json!({ "type": "rooms", "rooms": rooms }));
}

#[test]
fn an_admin_of_a_node_that_is_alone_is_told_so_before_anything_is_done() {
    let mut cores = Cores::node(keys);
    let alice = cores.connect(0, ListenKind::Line);
    cores.say(alice, r#"{"type":"hello","nickname":"alice"}"#);
    let claim = asked(&mut cores).into_iter().find_map(|request| match request {
        BackplaneRequest::Claim { wait, nickname, session, .. } => Some((wait, nickname, session)),
        _ => None,
    });
    let (wait, nickname, session) = claim.expect("the nickname is asked for");
    let outcome = Ok(ClaimOutcome::Granted);
    tell(&mut cores, BackplaneNews::Claimed { wait, nickname, session, outcome });
    assert_eq!(cores.told(alice, "welcome", "nickname"), ["alice"]);
    down(&mut cores);
    asked(&mut cores);
    let backplane_down = (503, "backplane_down".to_owned());
    let said = Answer::of(&cores.http(0, &broadcast(ADMIN, "hear")));
    assert_eq!(said.error(), backplane_down);
    let put_out = ask(&mut cores, 0, "DELETE /api/sessions/alice", ADMIN);
    assert_eq!(put_out.error(), backplane_down);
    assert_eq!(cores.events(alice), [json!(null); 0]);
    assert!(!cores.is_over(alice));
    assert_eq!(ask(&mut cores, 0, "GET /api/rooms", "").error(), backplane_down);
}

#[test]
fn what_an_admin_has_begun_is_done_by_all_cores() {
    let mut cores = Cores::made(2, keys, |flock| (flock.node, flock.has_backplane) = (1, true));
    cores.mail(1, Mail::Backplane(BackplaneNews::Down(Some("only this core has heard of it".into()))));
    let said = Answer::of(&cores.http(0, &broadcast(ADMIN, "hear")));
    assert_eq!((said.status, said.body.as_str()), (200, r#"{"sessions":0}"#));
}
