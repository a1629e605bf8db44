//! Event streams.

use starling::auth::Claims;
use starling::chat::name::RoomName;
use starling::config::ListenKind;
use starling::record::AccountState;
use starling::shard::backplane::{BackplaneNews, OpenedRoom, Position};
use starling::shard::mail::Mail;
use starling::shard::reading::StoreNews;

use crate::answers::{Answer, ask, browser, request};
use crate::cores::{Client, Cores, programs};
use crate::tokens::{self, account_token, admin_key, claims, nickname, token};

/// Somebody listens to a room, with these fields.
fn listen(cores: &mut Cores, target: &str, fields: &str) -> Client {
    browser(cores, 0, &request(&format!("GET /api/rooms/{target}"), fields))
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// The ids of the events and the beginning in what was heard.
fn ids(heard: &str) -> Vec<u64> {
    let ids = heard.lines().filter_map(|line| line.strip_prefix("id: "));
    ids.map(|id| id.rsplit_once(':').expect("a place").1.parse().expect("an offset")).collect()
}

/// The comment that says why a stream has ended.
fn why(cores: &mut Cores, client: Client) -> Option<String> {
    let heard = cores.heard(client);
    let comment = heard.lines().find_map(|line| line.strip_prefix(": ")).map(str::to_owned);
    assert_eq!(comment.is_some(), cores.is_over(client), "{heard}");
    comment
}

#[test]
fn a_stream_begins_with_a_head_when_to_come_back_and_where_it_is() {
    let mut cores = Cores::new(|config| config.web.allowed_origins = vec!["https://a".to_owned()]);
    let alice = cores.enter(0, "alice", &["den"]);
    let epoch = cores.call(alice, r#"{"type":"history","room":"den"}"#)["epoch"].as_str().unwrap().to_owned();
    cores.speak(alice, "den", "one");
    let mut retries = Vec::new();
    for version in ["1.0", "1.1"] {
        for _ in 0..20 {
            let said = format!(
                "GET /api/rooms/den/stream HTTP/{version}\r\nHost: b\r\nOrigin: https://a\r\nX-Request-Id: r1\r\n\
                 Connection: keep-alive\r\n\r\n"
            );
            let client = browser(&mut cores, 0, &said);
            let answer = Answer::of(&cores.heard(client));
            let fields: Vec<(&str, &str)> =
                answer.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let expected = [
                ("Date", "Tue, 14 Nov 2023 22:13:21 GMT"),
                ("Content-Type", "text/event-stream"),
                ("Connection", "close"),
                ("X-Request-Id", "r1"),
                ("Cache-Control", "no-store"),
                ("X-Accel-Buffering", "no"),
                ("Access-Control-Allow-Origin", "https://a"),
                ("Vary", "Origin"),
            ];
            assert_eq!((answer.status, &fields[..]), (200, &expected[..]));
            let (retry, rest) = answer.body.split_once('\n').expect("a line");
            assert_eq!(rest, format!("id: {epoch}:1\n\n"));
            retries.push(retry.strip_prefix("retry: ").unwrap().parse::<u64>().unwrap());
        }
    }
    assert!(retries.iter().all(|ms| (1000..4000).contains(ms)), "{retries:?}");
    retries.sort_unstable();
    retries.dedup();
    assert!(retries.len() > 30, "each its own: {retries:?}");
    assert_eq!(cores.total(|counters| &counters.event_streams), 40);
    let other = listen(&mut cores, "den/stream", "");
    assert_eq!(Answer::of(&cores.heard(other)).field("Vary"), None);
}

#[test]
fn a_page_may_say_in_the_query_what_it_can_give_no_field_for() {
    let mut cores = Cores::made(1, |_| {}, tokens::arrange);
    let alice = cores.enter(0, "alice", &["den", "hall"]);
    for content in ["one", "two", "three"] {
        cores.speak(alice, "den", content);
    }
    let begin = listen(&mut cores, "den/stream", "");
    let heard = cores.heard(begin);
    let place = heard.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let (epoch, _) = place.split_once(':').unwrap();
    let mut hears = |target: &str, fields: &str| {
        let client = listen(&mut cores, target, fields);
        ids(&cores.heard(client))
    };
    assert_eq!(hears(&format!("den/stream?last_event_id={epoch}:1"), ""), [2, 3]);
    assert_eq!(hears(&format!("den/stream?last_event_id={epoch}%3a3"), ""), [0; 0], "there is no more");
    let field = format!("Last-Event-ID: {epoch}:2\r\n");
    assert_eq!(hears(&format!("den/stream?last_event_id={epoch}:1"), &field), [3], "the field counts");
    assert_eq!(hears("den/stream?last_event_id=", ""), [3], "none");
    assert_eq!(hears("den/stream?last_event_id=nonsense", ""), [3], "no place");
    assert_eq!(cores.total(|counters| &counters.event_stream_resets), 1);
    assert_eq!(cores.total(|counters| &counters.event_streams_recovered), 3);

    let patterns = Some(vec!["den".to_owned()]);
    let of_den = token(&Claims { rooms: patterns, ..claims("dora") });
    let mut answer = |target: &str| ask(&mut cores, 0, &format!("GET /api/rooms/{target}"), "");
    assert_eq!(answer(&format!("den/stream?token={of_den}")).status, 200);
    assert_eq!(answer(&format!("hall/stream?token={of_den}")).error(), (403, "forbidden".to_owned()));
    assert_eq!(answer("den/stream?token=nonsense").error(), (401, "bad_token".to_owned()));
    let bad = (400, "bad_request".to_owned());
    for query in ["room=den", "token=a&token=b", "last_event_id=a&last_event_id=b", "token=%zz"] {
        assert_eq!(answer(&format!("den/stream?{query}")).error(), bad, "{query}");
    }
}

#[test]
fn who_has_missed_much_is_sent_a_page_at_a_time() {
    let mut cores = Cores::new(|config| {
        config.limits.replay_page_bytes = 1 << 20;
        config.limits.send_queue_bytes = 8192;
    });
    let alice = cores.enter(0, "alice", &["den"]);
    for number in 0..40 {
        cores.speak(alice, "den", &format!("{number:0300}"));
    }
    let first = listen(&mut cores, "den/stream", "");
    let heard = cores.heard(first);
    let epoch = heard.split_once("id: ").and_then(|(_, id)| id.split_once(':')).expect("a place").0;
    let late = cores.connect(0, ListenKind::Web);
    cores.stall(late, true);
    let said = request("GET /api/rooms/den/stream", &format!("Last-Event-ID: {epoch}:0\r\n"));
    cores.receive(late, said.as_bytes());
    // Half of what may wait for it, and the head before.
    let queued = cores.shards[0].inventory().queued_bytes_max;
    assert!((3500..4600).contains(&queued), "{queued}");
    cores.stall(late, false);
    assert_eq!(ids(&cores.heard(late)), (1..=40).collect::<Vec<_>>());
}

#[test]
fn what_streams_hear_is_counted_by_message_and_listener() {
    let mut cores = Cores::new(|_| {});
    let alice = cores.enter(0, "alice", &[]);
    cores.say(alice, r#"{"type":"join","room":"den","echo":false}"#);
    let listeners = [(); 2].map(|()| listen(&mut cores, "den/stream", ""));
    let before = cores.total(|counters| &counters.deliveries);
    let line = "{\"type\":\"message\",\"room\":\"den\",\"content\":\"x\"}\n";
    cores.receive(alice, line.repeat(3).as_bytes());
    assert_eq!(cores.total(|counters| &counters.deliveries) - before, 6);
    for client in listeners {
        assert_eq!(ids(&cores.heard(client)), [0, 1, 2, 3]);
    }
}

#[test]
fn who_is_put_out_of_a_room_does_not_hear_it_and_others_do() {
    let mut cores = Cores::new(|config| {
        config.auth.api_keys = programs(&["ci", "bot"]);
        config.auth.api_keys.push(admin_key("ops"));
    });
    let alice = cores.enter(0, "alice", &["den"]);
    for name in ["ci", "ops"] {
        cores.say(alice, &format!(r#"{{"type":"ban","room":"den","target":"{name}"}}"#));
    }
    let banned = ask(&mut cores, 0, "GET /api/rooms/den/stream", "X-API-Key: ci\r\n");
    assert_eq!(banned.error(), (403, "banned".to_owned()));
    let admin = ask(&mut cores, 0, "GET /api/rooms/den/stream", "X-API-Key: ops\r\n");
    assert_eq!(admin.status, 200, "nobody bans an admin");
    cores.say(alice, r#"{"type":"unban","room":"den","target":"ci"}"#);

    let key = |name: &str| format!("X-API-Key: {name}\r\n");
    let mut streams = |name: &str| {
        let fields = if name.is_empty() { String::new() } else { key(name) };
        ["den", "hall"].map(|room| listen(&mut cores, &format!("{room}/stream"), &fields))
    };
    let (ci, bot, nobody) = (streams("ci"), streams("bot"), streams(""));
    let member = cores.enter(0, "ci", &["den"]);
    cores.say(alice, r#"{"type":"kick","room":"den","target":"CI"}"#);
    cores.say(member, r#"{"type":"quit"}"#);
    assert_eq!(ci.map(|client| why(&mut cores, client)), [Some("4107 kicked".to_owned()), None]);
    cores.say(alice, r#"{"type":"ban","room":"den","target":"bot"}"#);
    assert_eq!(bot.map(|client| why(&mut cores, client)), [Some("4102 banned".to_owned()), None]);

    let mut put_out =
        |name: &str| ask(&mut cores, 0, &format!("DELETE /api/sessions/{name}"), &key("ops")).status;
    assert_eq!(put_out("CI"), 204, "there was a stream");
    assert_eq!(put_out("ci"), 404, "there is none any more");
    assert_eq!(why(&mut cores, ci[1]), Some("4107 kicked".to_owned()));
    assert_eq!(cores.total(|counters| &counters.put_out), 0, "no session");
    for client in [bot[1], nobody[0], nobody[1]] {
        assert_eq!(why(&mut cores, client), None);
    }
    cores.speak(alice, "den", "x");
    assert_eq!(ids(&cores.heard(nobody[0])), [1]);
}

/// Who listens with which right, in a configuration where guests may.
struct Listeners {
    guest: Client,
    by_key: [Client; 2],
    user: Client,
    accounts: [Client; 2],
}

impl Listeners {
    fn of(cores: &mut Cores, unix_ms: u64) -> Listeners {
        for name in ["ann", "ben"] {
            register(cores, name, unix_ms - 1000);
        }
        let mut listen = |fields: &str| listen(cores, "den/stream", fields);
        Listeners {
            guest: listen(""),
            by_key: ["ci", "bot"].map(|name| listen(&format!("X-API-Key: {name}\r\n"))),
            user: listen(&bearer(&token(&claims("dora")))),
            accounts: ["ann", "ben"].map(|name| listen(&bearer(&account_token(name, unix_ms)))),
        }
    }

    /// Why those have ended that have, in the order above.
    fn why(&self, cores: &mut Cores) -> [Option<String>; 6] {
        let Listeners { guest, by_key: [ci, bot], user, accounts: [ann, ben] } = *self;
        [guest, ci, bot, user, ann, ben].map(|client| {
            let heard = cores.heard(client);
            heard.lines().find_map(|line| line.strip_prefix(": ")).map(str::to_owned)
        })
    }
}

fn register(cores: &mut Cores, name: &str, since_ms: u64) {
    let account = AccountState { since_ms, is_disabled: false };
    cores.tell(0, StoreNews::Users(vec![(nickname(name), Some(account))]));
}

#[test]
fn who_may_not_listen_any_more_is_told_and_nobody_else_is() {
    const VOID: &str = "4101 unauthenticated";
    let made = || Cores::made(1, |config| config.auth.api_keys = programs(&["ci", "bot"]), tokens::arrange);
    let now_ms = made().unix_ms();
    let void = |which: &[usize]| {
        let mut all = [const { None }; 6];
        which.iter().for_each(|place| all[*place] = Some(VOID.to_owned()));
        all
    };
    let mut cores = made();
    let listeners = Listeners::of(&mut cores, now_ms);
    assert_eq!(listeners.why(&mut cores), void(&[]));
    register(&mut cores, "ann", now_ms);
    assert_eq!(listeners.why(&mut cores), void(&[]), "the token is not older than that");
    register(&mut cores, "Ann", now_ms + 1000);
    assert_eq!(listeners.why(&mut cores), void(&[4]));
    cores.tell(0, StoreNews::Users(vec![(nickname("ben"), None)]));
    assert_eq!(listeners.why(&mut cores), void(&[5]));

    let mut cores = made();
    let listeners = Listeners::of(&mut cores, now_ms);
    tokens::reconfigure(&mut cores, |config| config.auth.api_keys = programs(&["bot"]));
    assert_eq!(listeners.why(&mut cores), void(&[1]));
    tokens::reconfigure(&mut cores, |config| {
        config.auth.api_keys = programs(&["bot"]);
        config.auth.guests = false;
    });
    assert_eq!(listeners.why(&mut cores), void(&[0]));
    assert_eq!(cores.total(|counters| &counters.event_streams), 4);
}

#[test]
fn a_core_that_was_held_up_goes_on_in_time() {
    let mut cores = Cores::new(|_| {});
    let client = listen(&mut cores, "den/stream", "");
    cores.heard(client);
    // To the first comment.
    while cores.heard(client).is_empty() {
        cores.pass(1);
    }
    cores.held_up(32_000);
    assert_eq!(cores.heard(client), ":\n\n");
    cores.pass(12_999);
    assert_eq!(cores.heard(client), "");
    cores.pass(1);
    assert_eq!(cores.heard(client), ":\n\n", "a multiple of 15 s after the first");
}

#[test]
fn a_stream_ends_with_its_token_or_the_server() {
    let mut cores = Cores::made(1, |config| config.drain.spread_ms = 5_000, tokens::arrange);
    let expires_at_ms = Some(cores.unix_ms() + 7_000);
    let fields = bearer(&token(&Claims { expires_at_ms, ..claims("dora") }));
    let dora = listen(&mut cores, "den/stream", &fields);
    let guest = listen(&mut cores, "den/stream", "");
    cores.pass(6_999);
    assert_eq!(why(&mut cores, dora), None);
    cores.pass(1);
    assert_eq!(why(&mut cores, dora).as_deref(), Some("4205 expired_token"));
    assert_eq!(cores.total(|counters| &counters.expired_tokens), 1);
    cores.heard(guest);
    cores.shards[0].drain();
    cores.settle();
    let ends = |said: &str| {
        let (retry, comment) =
            said.strip_prefix("retry: ").and_then(|said| said.split_once('\n')).expect("when");
        assert_eq!(comment, ": 4300 draining\n\n");
        retry.parse::<u64>().unwrap() < 5_000
    };
    assert!(ends(&cores.heard(guest)) && cores.is_over(guest));
    let late = listen(&mut cores, "den/stream", "X-Request-Id: r1\r\n");
    let answer = Answer::of(&cores.heard(late));
    let fields = ["Content-Type", "Cache-Control", "Content-Length", "Connection", "X-Request-Id"];
    let expected = [Some("text/event-stream"), Some("no-store"), None, Some("close"), Some("r1")];
    assert_eq!((answer.status, fields.map(|name| answer.field(name))), (200, expected));
    assert!(ends(&answer.body) && cores.is_over(late));
}

#[test]
fn the_streams_of_a_room_that_begins_anew_end() {
    let mut cores = Cores::node(|_| {});
    let opened = |cores: &mut Cores, epoch: &str, is_catch_up: bool| {
        let room = OpenedRoom {
            room: RoomName::parse("den").expect("a name"),
            epoch: epoch.into(),
            position: Position::default(),
            timestamp_ms: 0,
            first_kept: 1,
            snapshot: None,
            entries: Vec::new(),
            is_doubtful: false,
        };
        let outcome = Ok(Some(Box::new(room)));
        cores.mail(0, Mail::Backplane(BackplaneNews::Opened { room: "den".into(), outcome, is_catch_up }));
    };
    let streams = [(); 2].map(|()| listen(&mut cores, "den/stream", ""));
    opened(&mut cores, "one", false);
    for client in streams {
        assert!(cores.heard(client).ends_with("\nid: one:0\n\n"));
    }
    let at = Some(("two".into(), Position::default()));
    cores.mail(0, Mail::Backplane(BackplaneNews::At { room: "den".into(), at, is_doubtful: false }));
    opened(&mut cores, "two", true);
    for client in streams {
        assert_eq!(why(&mut cores, client).as_deref(), Some("4200 internal"));
    }
    assert_eq!(cores.total(|counters| &counters.interrupted), 2);
}

#[test]
fn nothing_is_left_of_streams_that_have_ended() {
    let mut cores = Cores::of(2, |_| {});
    let rooms = [cores.name_at(0, "den"), cores.name_at(1, "den")];
    let counts = |cores: &Cores| {
        let inventory = cores.shards[0].inventory();
        let audience: usize = cores.shards.iter().map(|shard| shard.inventory().audience).sum();
        (inventory.event_streams, inventory.streamed_rooms, audience)
    };
    let clients: Vec<Client> =
        [0, 1, 0, 1, 0].map(|room: usize| listen(&mut cores, &format!("{}/stream", rooms[room]), "")).into();
    assert_eq!(counts(&cores), (5, 2, 5));
    cores.ends(clients[0]);
    assert!(cores.is_over(clients[0]), "who says no more has ended its stream");
    for (client, left) in [(0, (4, 2, 4)), (4, (3, 2, 3)), (2, (2, 1, 2)), (1, (1, 1, 1)), (3, (0, 0, 0))] {
        cores.broken(clients[client]);
        assert_eq!(counts(&cores), left);
    }
    assert_eq!(cores.total(|counters| &counters.event_streams), 0);
    assert_eq!(cores.total(|counters| &counters.rooms), 0, "nobody keeps them");
}
