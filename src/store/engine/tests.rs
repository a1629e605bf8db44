//! The engine against what it should come to.

use super::*;
use crate::record::HistoryPage;
use crate::store::load::load;
use crate::store::read::read_page;

const KEEP_ALL: Retention = Retention { count: 1_000_000, bytes: 0, age_ms: 0 };

fn room(number: u64, name: &'static str, retention: Retention) -> Record<'static> {
    Record::Room { room: number, name, epoch: "e", retention }
}

fn message(room: u64, offset: u64) -> Record<'static> {
    Record::Message {
        room,
        offset,
        timestamp_ms: offset * 10,
        sender: "alice",
        content: "hello",
        command: None,
    }
}

fn apply(engine: &mut Engine, records: &[Record], end: u64) -> Result<(), StoreError> {
    let mut frame = Vec::new();
    Frame::begin(&mut frame);
    records.iter().for_each(|record| record.put(&mut frame));
    engine.apply(&[Part { ring: 3, frames: &[frame], end }], true)
}

fn offsets(engine: &Engine, room: u64) -> Vec<u64> {
    let page = HistoryPage {
        room,
        after: 0,
        before: u64::MAX,
        is_ascending: true,
        limit: 10_000,
        bytes_max: usize::MAX,
    };
    read_page(engine.connection(), &page).unwrap().iter().map(|entry| entry.offset).collect()
}

#[test]
fn what_was_applied_is_loaded_again() {
    let mut engine = Engine::in_memory();
    let records = [
        room(7, "Den", KEEP_ALL),
        message(7, 1),
        message(7, 2),
        Record::State { room: 7, key: "topic", value: Some("1"), version: 1 },
        Record::State { room: 7, key: "topic", value: None, version: 2 },
        Record::Rules { room: 7, rules: "{}" },
        Record::Session { number: u64::MAX, revision: 2, body: r#"{"nickname":"alice","rooms":[]}"# },
        Record::Session { number: u64::MAX, revision: 1, body: "an older one, which comes late" },
        Record::Kept {
            owner: Owner::Session(u64::MAX),
            offset: 4,
            sender: "bob",
            target: "alice",
            content: "psst",
            timestamp_ms: 1,
        },
    ];
    apply(&mut engine, &records, 99).unwrap();
    let restored = load(&mut engine, 0, 10).unwrap();
    let room = &restored.rooms[0];
    assert_eq!((room.number, room.name.as_str(), &*room.epoch), (7, "Den", "e"));
    assert_eq!((room.offset, room.timestamp_ms, room.first_kept, room.state_version), (2, 20, 1, 2));
    assert!(room.state.is_empty());
    let session = &restored.sessions[0];
    assert_eq!((session.number, session.revision), (u64::MAX, 2));
    assert_eq!((session.inbox.last_offset, session.inbox.items.len()), (4, 1));
    assert_eq!(crate::store::load::positions(engine.connection()).unwrap()[&3], 99);
    assert_eq!(engine.rejected(), 0);
}

/// A fault: a position that had been written already was written again, which SQLite takes for nothing to commit, and nothing was synced.
#[test]
fn a_sync_without_frames_writes_something_to_be_synced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("starling.db");
    let mut engine = Engine::open(&path).unwrap();
    let mut frame = Vec::new();
    Frame::begin(&mut frame);
    room(7, "Den", KEEP_ALL).put(&mut frame);
    engine.apply(&[Part { ring: 3, frames: &[frame], end: 5 }], false).unwrap();
    let log_bytes = || crate::sys::files::beside(&path, "-wal").metadata().unwrap().len();
    for _ in 0..3 {
        let before = log_bytes();
        engine.apply(&[Part { ring: 3, frames: &[], end: 5 }], false).unwrap();
        assert_eq!(log_bytes(), before, "there is nothing to write");
        engine.apply(&[Part { ring: 3, frames: &[], end: 5 }], true).unwrap();
        assert!(log_bytes() > before, "what came before is to be synced");
    }
}

#[test]
fn an_ended_session_is_not_brought_back_by_a_late_record() {
    let mut engine = Engine::in_memory();
    let body = r#"{"nickname":"alice","rooms":[]}"#;
    apply(&mut engine, &[Record::Session { number: 5, revision: 1, body }], 1).unwrap();
    apply(&mut engine, &[Record::SessionEnded { number: 5, revision: 3 }], 2).unwrap();
    apply(&mut engine, &[Record::Session { number: 5, revision: 2, body }], 3).unwrap();
    assert!(load(&mut engine, 0, 10).unwrap().sessions.is_empty());
}

#[test]
fn a_group_that_fails_leaves_nothing_behind_and_can_be_tried_again() {
    let mut engine = Engine::in_memory();
    apply(&mut engine, &[room(1, "den", KEEP_ALL), message(1, 1)], 1).unwrap();
    let pages: i64 = engine.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    engine.connection.pragma_update(None, "max_page_count", pages).unwrap(); // the disk is full
    let group: Vec<Record> =
        (2..500).map(|offset| message(1, offset)).chain([room(2, "new", KEEP_ALL)]).collect();
    let error = apply(&mut engine, &group, 2).unwrap_err();
    assert_eq!(error.message, "the disk is full");
    assert_eq!(offsets(&engine, 1), [1]);
    assert_eq!((engine.rooms[&1].offset, engine.rooms[&1].bytes, engine.rooms.len()), (1, 5, 1));
    engine.connection.pragma_update(None, "max_page_count", 1_000_000).unwrap();
    apply(&mut engine, &group, 2).unwrap();
    assert_eq!(offsets(&engine, 1).len(), 499);
    assert_eq!((engine.rooms[&1].offset, engine.rooms[&1].bytes), (499, 499 * 5));
}

#[test]
fn a_record_that_contradicts_what_is_there_is_left_out_and_counted() {
    let mut engine = Engine::in_memory();
    apply(
        &mut engine,
        &[room(1, "den", KEEP_ALL), message(1, 1), message(1, 1), message(9, 1), message(1, 2)],
        1,
    )
    .unwrap();
    assert_eq!((offsets(&engine, 1), engine.rejected()), (vec![1, 2], 2));
}

#[test]
fn rooms_are_trimmed_in_small_steps_to_their_bounds() {
    let mut engine = Engine::in_memory();
    let retention = |count, bytes| Retention { count, bytes, age_ms: 0 };
    apply(&mut engine, &[room(1, "a", KEEP_ALL), room(2, "b", KEEP_ALL), room(3, "c", retention(0, 0))], 1)
        .unwrap();
    let all: Vec<Record> = (1..=200).flat_map(|offset| [1, 2, 3].map(|room| message(room, offset))).collect();
    apply(&mut engine, &all, 2).unwrap();
    let narrowed = [room(1, "a", retention(10, 0)), room(2, "b", retention(1000, 5 * 101))];
    apply(&mut engine, &narrowed, 3).unwrap();
    let mut steps = 0;
    while engine.has_to_trim() {
        let before: usize = [1, 2].map(|room| offsets(&engine, room).len()).iter().sum();
        engine.trim(16, 0).unwrap();
        let after: usize = [1, 2].map(|room| offsets(&engine, room).len()).iter().sum();
        assert!(before - after <= 16);
        steps += 1;
    }
    assert!(steps > 20, "{steps}");
    assert_eq!(offsets(&engine, 1), (191..=200).collect::<Vec<_>>());
    assert_eq!(offsets(&engine, 2), (196..=200).collect::<Vec<_>>());
    assert!(offsets(&engine, 3).is_empty());
    let restored = load(&mut engine, 0, 0).unwrap();
    let places: Vec<_> = restored.rooms.iter().map(|room| (room.first_kept, room.offset)).collect();
    assert_eq!(places, [(191, 200), (196, 200), (201, 200)]);
}

#[test]
fn a_step_makes_up_for_what_has_been_put_in() {
    let mut engine = Engine::in_memory();
    let rooms: Vec<u64> = (1..=20).collect();
    let bounds = |room| match room {
        // Rooms by count, by bytes, and some that are ended in the middle.
        1..=10 => Retention { count: 100, bytes: 0, age_ms: 0 },
        _ => Retention { count: 1_000_000, bytes: 20_000, age_ms: 0 },
    };
    let begun: Vec<Record> = rooms
        .iter()
        .map(|number| {
            let name = [
                "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r",
                "s", "t",
            ][*number as usize - 1];
            room(*number, name, bounds(*number))
        })
        .collect();
    apply(&mut engine, &begun, 1).unwrap();
    let long = "x".repeat(5000);
    for turn in 0..20 {
        let mut said = Vec::new();
        for offset in turn * 300 + 1..=turn * 300 + 300 {
            for room in &rooms {
                // Small ones first, so that each of the large ones takes the place of many.
                let content = if turn < 10 || offset % 50 > 0 { "hello" } else { &long };
                said.push(Record::Message {
                    room: *room,
                    offset,
                    timestamp_ms: offset,
                    sender: "alice",
                    content,
                    command: None,
                });
            }
        }
        apply(&mut engine, &said, turn + 2).unwrap();
        engine.trim(1, 0).unwrap();
        for room in &rooms {
            let over = engine.rooms[room].excess(0);
            assert!(over <= TRIM_SLACK, "room {room}, turn {turn}: {over} over");
        }
    }
}

#[test]
fn rooms_that_are_over_their_bounds_all_at_once_do_not_stay_so() {
    const ROOMS: u64 = 500;
    let mut engine = Engine::in_memory();
    let names: Vec<String> = (1..=ROOMS).map(|number| format!("room{number}")).collect();
    let retention = Retention { count: 10, bytes: 0, age_ms: 0 };
    let begun: Vec<Record> = names
        .iter()
        .zip(1..)
        .map(|(name, room)| Record::Room { room, name, epoch: "e", retention })
        .collect();
    apply(&mut engine, &begun, 1).unwrap();
    let mut has_caught_up = false;
    for offset in 1..=200 {
        apply(&mut engine, &(1..=ROOMS).map(|room| message(room, offset)).collect::<Vec<_>>(), offset + 1)
            .unwrap();
        if engine.has_to_trim() {
            engine.trim(1, 0).unwrap();
            has_caught_up |= !engine.has_to_trim();
        }
        let over = engine.rooms.values().map(|facts| facts.excess(0)).max().unwrap();
        assert!(over <= 2 * TRIM_SLACK + 1, "{over} over after {offset}");
    }
    assert!(has_caught_up);
}

#[test]
fn a_step_is_small_though_much_has_come_before() {
    let mut engine = Engine::in_memory();
    apply(&mut engine, &[room(1, "a", KEEP_ALL)], 1).unwrap();
    for turn in 0..10 {
        let said: Vec<Record> = (1..=100).map(|n| message(1, turn * 100 + n)).collect();
        apply(&mut engine, &said, turn + 2).unwrap();
    }
    apply(&mut engine, &[room(1, "a", Retention { count: 10, bytes: 0, age_ms: 0 })], 20).unwrap();
    engine.trim(16, 0).unwrap();
    assert_eq!(offsets(&engine, 1).len(), 1000 - 16);
}

#[test]
fn rooms_that_end_one_after_the_other_leave_nothing_behind_that_grows() {
    let mut engine = Engine::in_memory();
    for number in 1..=50 {
        let mut records = vec![room(number, "den", KEEP_ALL)];
        records.extend((1..=1000).map(|offset| message(number, offset)));
        records.push(Record::RoomEnded { room: number });
        apply(&mut engine, &records, number).unwrap();
        engine.trim(1, 0).unwrap();
        let rows: i64 =
            engine.connection.query_row("SELECT count(*) FROM messages", [], |row| row.get(0)).unwrap();
        assert_eq!((rows, engine.rooms.len()), (0, 0), "after room {number}");
    }
}

#[test]
fn a_room_that_cannot_be_trimmed_does_not_keep_the_others_from_it() {
    let mut engine = Engine::in_memory();
    let sql = "CREATE TRIGGER no_end BEFORE DELETE ON messages WHEN old.room = 2
               BEGIN SELECT raise(ABORT, 'damaged'); END";
    engine.connection.execute_batch(sql).unwrap();
    let retention = Retention { count: 10, bytes: 0, age_ms: 0 };
    let names = ["a", "b", "c", "d"];
    let begun: Vec<Record> = (1..=4).map(|n| room(n, names[n as usize - 1], retention)).collect();
    apply(&mut engine, &begun, 1).unwrap();
    let said: Vec<Record> = (1..=100).flat_map(|offset| [1, 2, 3, 4].map(|n| message(n, offset))).collect();
    apply(&mut engine, &said, 2).unwrap();
    let mut failed = 0;
    for _ in 0..10 {
        failed += u32::from(engine.trim(512, 0).is_err());
    }
    let kept = [1, 2, 3, 4].map(|room| offsets(&engine, room).len());
    assert_eq!(kept, [10, 100, 10, 10]);
    assert!(failed > 0 && engine.has_to_trim(), "it is tried again");
    engine.connection.execute_batch("DROP TRIGGER no_end").unwrap();
    engine.trim(512, 0).unwrap();
    assert_eq!((offsets(&engine, 2).len(), engine.has_to_trim()), (10, false));
}

#[test]
fn as_many_answers_are_forgotten_as_are_noted() {
    let mut engine = Engine::in_memory();
    let count = |engine: &Engine| -> i64 {
        engine.connection.query_row("SELECT count(*) FROM places", [], |row| row.get(0)).unwrap()
    };
    apply(&mut engine, &[room(1, "a", Retention { count: 10, bytes: 0, age_ms: 0 })], 1).unwrap();
    for turn in 0..10 {
        let ids: Vec<String> = (1..=5000).map(|n| format!("{}", turn * 5000 + n)).collect();
        let said: Vec<Record> = ids
            .iter()
            .zip(turn * 5000 + 1..)
            .map(|(id, offset)| Record::Message {
                room: 1,
                offset,
                timestamp_ms: turn,
                sender: "alice",
                content: "hello",
                command: Some(CommandKey { session: 7, id }),
            })
            .collect();
        apply(&mut engine, &said, turn + 2).unwrap();
        engine.trim(1, 0).unwrap();
        assert!(engine.has_noted_many());
        // Those of two turns are to be known.
        engine.forget(turn.saturating_sub(1)).unwrap();
        assert!(count(&engine) <= 10_000, "{} in turn {turn}", count(&engine));
    }
    assert!(!engine.has_noted_many());
}

#[test]
fn of_sessions_that_have_ended_nothing_is_counted() {
    let mut engine = Engine::in_memory();
    let said = |offset| Record::Message {
        room: 1,
        offset,
        timestamp_ms: 2,
        sender: "alice",
        content: "hello",
        command: Some(CommandKey { session: 7, id: "1" }),
    };
    // Its end comes with its command, and another command, by another journal, after that.
    let end = Record::SessionEnded { number: 7, revision: 2 };
    apply(&mut engine, &[room(1, "a", KEEP_ALL), said(1), end], 1).unwrap();
    apply(&mut engine, &[said(2)], 2).unwrap();
    assert_eq!(engine.counted.len(), 1);
    engine.end_pass();
    assert!(engine.forget(0).unwrap());
    assert!(engine.counted.is_empty());
}

#[test]
fn of_a_session_that_gives_many_commands_the_newest_are_known() {
    let mut engine = Engine::in_memory();
    engine.bound_commands(100);
    apply(&mut engine, &[room(1, "a", Retention { count: 10, bytes: 0, age_ms: 0 })], 1).unwrap();
    for turn in 0..50 {
        let ids: Vec<String> = (1..=70).map(|n| format!("{}", turn * 70 + n)).collect();
        let said: Vec<Record> = ids
            .iter()
            .zip(turn * 70 + 1..)
            .map(|(id, offset)| {
                let command = Some(CommandKey { session: if offset % 10 == 0 { 8 } else { 7 }, id });
                let (sender, content) = ("alice", "hello");
                Record::Message { room: 1, offset, timestamp_ms: offset, sender, content, command }
            })
            .collect();
        // A group that fails and comes again counts once.
        engine.connection.execute_batch("PRAGMA query_only = 1").unwrap();
        apply(&mut engine, &said, turn + 2).unwrap_err();
        engine.connection.execute_batch("PRAGMA query_only = 0").unwrap();
        apply(&mut engine, &said, turn + 2).unwrap();
        engine.trim(1, 0).unwrap();
        engine.forget(0).unwrap();
        let through = turn * 70 + 70;
        for session in [7, 8] {
            let known: Vec<u64> = engine
                .connection
                .prepare(
                    "SELECT offset FROM places WHERE session = ?1
                     UNION SELECT offset FROM messages WHERE session = ?1 ORDER BY offset",
                )
                .unwrap()
                .query_map([session], |row| row.get::<_, i64>(0))
                .unwrap()
                .map(|offset| offset.unwrap() as u64)
                .collect();
            let is_of = |offset: &u64| offset.is_multiple_of(10) == (session == 8);
            let given: Vec<u64> = (1..=through).filter(is_of).collect();
            let newest = &given[given.len().saturating_sub(100)..];
            assert!(known.ends_with(newest), "session {session}, turn {turn}: {known:?}");
            assert!(known.len() <= 300, "session {session}, turn {turn}: {} are kept", known.len());
        }
    }
}

#[test]
fn old_messages_go_by_their_age() {
    let mut engine = Engine::in_memory();
    apply(&mut engine, &[room(1, "a", Retention { count: 100, bytes: 0, age_ms: 50 })], 1).unwrap();
    apply(&mut engine, &(1..=10).map(|offset| message(1, offset)).collect::<Vec<_>>(), 2).unwrap();
    apply(&mut engine, &[], 3).unwrap(); // they have come a while ago
    assert!(engine.sweep(110, 10).unwrap() && engine.has_to_trim());
    assert_eq!(offsets(&engine, 1).len(), 10, "nothing is deleted but in steps");
    engine.trim(4, 0).unwrap();
    assert_eq!(offsets(&engine, 1), [5, 6, 7, 8, 9, 10]);
    let trimmed = engine.trim(4, 0).unwrap();
    assert_eq!(trimmed, [Trimmed { room: 1, ring: Some(3), first_kept: 7 }]);
    assert!(!engine.has_to_trim());
    assert_eq!(offsets(&engine, 1), [7, 8, 9, 10]);
    assert!(engine.sweep(1000, 10).unwrap());
    engine.trim(100, 0).unwrap();
    assert!(offsets(&engine, 1).is_empty());
}

#[test]
fn what_is_left_of_ended_sessions_goes_in_steps_and_not_at_once() {
    let mut engine = Engine::in_memory();
    let ended: Vec<Record> = (1..=2500).map(|number| Record::SessionEnded { number, revision: 2 }).collect();
    apply(&mut engine, &ended, 1).unwrap();
    let left = |engine: &Engine| -> i64 {
        engine.connection.query_row("SELECT count(*) FROM sessions", [], |row| row.get(0)).unwrap()
    };
    for _ in 0..2 {
        assert!(engine.forget(0).unwrap(), "nothing has waited for long enough");
    }
    assert_eq!(left(&engine), 2500);
    engine.end_pass();
    let mut steps = Vec::new();
    while !engine.forget(0).unwrap() {
        steps.push(left(&engine));
    }
    assert_eq!((steps, left(&engine)), (vec![1500, 500], 0));
}

#[test]
fn an_ended_room_frees_its_name_at_once_and_its_messages_step_by_step() {
    let mut engine = Engine::in_memory();
    apply(&mut engine, &[room(1, "den", KEEP_ALL)], 1).unwrap();
    apply(&mut engine, &(1..=50).map(|offset| message(1, offset)).collect::<Vec<_>>(), 2).unwrap();
    apply(&mut engine, &[Record::RoomEnded { room: 1 }, room(2, "den", KEEP_ALL), message(2, 1)], 3).unwrap();
    let restored = load(&mut engine, 0, 0).unwrap();
    assert_eq!(restored.rooms.iter().map(|room| room.number).collect::<Vec<_>>(), [2]);
    while engine.has_to_trim() {
        engine.trim(16, 0).unwrap();
    }
    assert_eq!(engine.room_numbers(), HashSet::from([2]));
    assert_eq!((offsets(&engine, 1), offsets(&engine, 2)), (vec![], vec![1]));
}

#[test]
fn rows_that_were_not_brought_up_to_date_are_found_again_from_the_messages() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let mut engine = Engine::open(&path).unwrap();
    apply(&mut engine, &[room(1, "den", KEEP_ALL)], 1).unwrap();
    apply(&mut engine, &(1..=50).map(|offset| message(1, offset)).collect::<Vec<_>>(), 2).unwrap();
    drop(engine); // without a word, as a process that is killed
    let mut engine = Engine::open(&path).unwrap();
    assert_eq!(
        (engine.rooms[&1].offset, engine.rooms[&1].timestamp_ms, engine.rooms[&1].bytes),
        (50, 500, 250)
    );
    let restored = load(&mut engine, 0, 0).unwrap();
    assert_eq!((restored.rooms[0].offset, restored.rooms[0].first_kept), (50, 1));
}

/// What waits for bob, by place and the session that it is for.
fn waiting(engine: &mut Engine) -> Vec<(u64, u64)> {
    let users = load(engine, 0, 10).unwrap().users;
    users.iter().flat_map(|user| &user.waiting).map(|waiting| (waiting.offset, waiting.session)).collect()
}

#[test]
fn an_inbox_is_its_users_and_some_of_it_one_sessions_alone() {
    let bob = crate::chat::name::Nickname::parse("bob").unwrap();
    let kept = |owner, offset| Record::Kept {
        owner,
        offset,
        sender: "alice",
        target: "bob",
        content: "psst",
        timestamp_ms: 1,
    };
    let of = |session| Owner::SessionOf { user: "bob", session };
    let mut engine = Engine::in_memory();
    // Nobody is registered under the name: whoever will be, must not get what was for another.
    apply(&mut engine, &[kept(Owner::User("bob"), 1), kept(of(8), 2)], 10).unwrap();
    crate::store::accounts::add(engine.connection(), &bob, "hash", 5).unwrap();
    assert_eq!(waiting(&mut engine), []);
    let both = [kept(Owner::User("bob"), 1), kept(of(8), 2), kept(of(9), 3), kept(Owner::User("bob"), 4)];
    apply(&mut engine, &both, 20).unwrap();
    assert_eq!(waiting(&mut engine), [(1, 0), (2, 8), (3, 9), (4, 0)]);
    apply(&mut engine, &[Record::Received { owner: of(8), through: 3 }], 30).unwrap();
    assert_eq!(waiting(&mut engine), [(3, 9), (4, 0)], "the other session has not received its own");
    apply(&mut engine, &[Record::SessionEnded { number: 9, revision: 1 }], 40).unwrap();
    assert_eq!(waiting(&mut engine), [(4, 0)]);
    let last = load(&mut engine, 0, 10).unwrap().users[0].last_offset;
    assert_eq!(last, 4, "no place is given twice");
}
