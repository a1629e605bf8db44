//! `starling store` from outside, beside an open store and without one.

mod program;

use std::io::Read as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use program::{assert_failed, assert_ok, assert_wrong, publish, starling, text};
use starling::store::FILE;
use starling::store::engine::Engine;

fn store(directory: &Path, arguments: &[&str]) -> Output {
    starling(&["store"]).args(arguments).arg("--data-dir").arg(directory).output().unwrap()
}

fn opened(directory: &Path) -> Engine {
    Engine::open(&directory.join(FILE)).unwrap()
}

/// Runs something while a store is written to.
fn while_busy<T: Send>(engine: &mut Engine, first: u64, body: impl FnOnce() -> T + Send) -> T {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let done = body();
            is_done.store(true, Relaxed);
            done
        });
        let mut next = first;
        while !is_done.load(Relaxed) && !running.is_finished() {
            publish(engine, 1, "Lobby", next, 7);
            next += 7;
        }
        running.join().unwrap()
    })
}

#[test]
fn numbers_for_people_and_programs() {
    let directory = tempfile::tempdir().unwrap();
    let mut engine = opened(directory.path());
    publish(&mut engine, 1, "Lobby", 1, 120);
    publish(&mut engine, 2, "ops", 1, 3);
    let schema: u32 = engine.connection().query_row("PRAGMA user_version", (), |row| row.get(0)).unwrap();
    let schema = format!("schema    version {schema}\n");
    for is_open in [true, false] {
        let stats = store(directory.path(), &["stats"]);
        let stats = assert_ok(&stats);
        for part in [schema.as_str(), "rooms     2\n", "messages  123, ", "120           120  Lobby\n"] {
            assert!(stats.contains(part), "{part:?} in {stats}");
        }
        let json = store(directory.path(), &["stats", "--json"]);
        let json: serde_json::Value = serde_json::from_str(assert_ok(&json)).unwrap();
        assert_eq!((json["rooms"].as_u64(), json["messages"].as_u64()), (Some(2), Some(123)));
        assert_eq!(json["largest_rooms"][0]["room"].as_str(), Some("Lobby"));
        assert!(json["file_bytes"].as_u64() > Some(0), "{json}");
        if is_open {
            assert!(json["wal_bytes"].as_u64() > Some(0), "{json}");
            // The first process that finds it so is a reader.
            drop(std::mem::replace(&mut engine, Engine::in_memory()));
        }
    }
}

#[test]
fn a_whole_store_passes_and_a_damaged_one_is_told_line_by_line() {
    let directory = tempfile::tempdir().unwrap();
    let mut engine = opened(directory.path());
    publish(&mut engine, 1, "Lobby", 1, 50);
    let checked = while_busy(&mut engine, 51, || store(directory.path(), &["check"]));
    assert!(assert_ok(&checked).ends_with("nothing is wrong\n"));
    engine
        .connection()
        .execute_batch("DELETE FROM messages WHERE offset = 7; UPDATE rooms SET state_version = -1")
        .unwrap();
    drop(engine);
    let checked = store(directory.path(), &["check"]);
    assert_failed(&checked, "findings");
    let found = text(&checked.stdout);
    assert!(found.lines().count() >= 2 && found.contains("the first that is missing is 7"), "{found}");
}

#[test]
fn a_damaged_store_is_not_copied_in_silence_and_one_of_a_newer_server_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join(FILE);
    let mut engine = opened(directory.path());
    publish(&mut engine, 1, "Lobby", 1, 5000);
    drop(engine);
    let path = directory.path().join(FILE);
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    let middle = (damaged.len() / 2) & !4095;
    damaged[middle..middle + 4096].fill(0xa5);
    std::fs::write(&path, damaged).unwrap();
    assert_failed(&store(directory.path(), &["backup", copy.to_str().unwrap()]), "damaged");
    assert!(!copy.exists());
    std::fs::write(&path, whole).unwrap();
    assert_ok(&store(directory.path(), &["backup", copy.to_str().unwrap()]));
    let newer = starling::store::connection::connect(&path, true).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    for command in [&["export", "--room", "Lobby"][..], &["stats"], &["check"]] {
        assert_failed(&store(directory.path(), command), "use a newer one");
    }
}

#[test]
fn a_backup_is_made_beside_a_busy_store() {
    let directory = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join(FILE);
    let name = copy.to_str().unwrap();
    let mut engine = opened(directory.path());
    publish(&mut engine, 1, "Lobby", 1, 5000);
    let made = while_busy(&mut engine, 5001, || store(directory.path(), &["backup", name]));
    assert!(assert_ok(&made).starts_with(name));
    assert!(assert_ok(&store(copies.path(), &["check"])).ends_with("nothing is wrong\n"));
    assert_failed(&store(directory.path(), &["backup", name]), "--force");
    assert_ok(&store(directory.path(), &["backup", name, "--force"]));
    let own = directory.path().join(FILE);
    assert_failed(
        &store(directory.path(), &["backup", own.to_str().unwrap(), "--force"]),
        "the store itself",
    );
    assert_failed(&store(directory.path(), &["backup", "/does/not/exist.db"]), "/does/not/exist.db");
    // What a server makes of it.
    let mut again = opened(copies.path());
    let kept =
        serde_json::from_str::<serde_json::Value>(assert_ok(&store(copies.path(), &["stats", "--json"])))
            .unwrap();
    let offset = kept["largest_rooms"][0]["offset"].as_u64().unwrap();
    assert!(offset >= 5000);
    publish(&mut again, 1, "Lobby", offset + 1, 1);
    assert_ok(&store(copies.path(), &["check"]));
}

#[test]
fn a_room_comes_out_as_its_members_heard_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut engine = opened(directory.path());
    publish(&mut engine, 1, "Lobby", 1, 2500);
    publish(&mut engine, 2, "ops", 1, 3);
    let export = |more: &[&str]| {
        let mut arguments = vec!["export", "--room", "LOBBY"];
        arguments.extend(more);
        store(directory.path(), &arguments)
    };
    let all = export(&["--format", "jsonl"]);
    let lines: Vec<&str> = assert_ok(&all).lines().collect();
    assert_eq!(lines.len(), 2500);
    assert_eq!(
        lines[0],
        r#"{"type":"message","room":"Lobby","sender":"Alice","content":"message 1: \"hé\"\n","offset":1,"timestamp":1800000000001}"#
    );
    for (index, line) in lines.iter().enumerate() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["offset"].as_u64(), Some(index as u64 + 1));
    }
    let offsets = |output: &Output| -> Vec<u64> {
        assert_ok(output)
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["offset"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(offsets(&export(&["--after", "2497"])), [2498, 2499, 2500]);
    assert_eq!(offsets(&export(&["--before", "3"])), [1, 2]);
    assert_eq!(offsets(&export(&["--after", "5", "--before", "8"])), [6, 7]);
    assert_eq!(offsets(&export(&["--after", "9", "--before", "8"])), [0; 0]);
    assert_eq!(offsets(&export(&["--after", &u64::MAX.to_string()])), [0; 0]);
    assert_failed(&store(directory.path(), &["export", "--room", "nowhere"]), "no room \"nowhere\"");
    assert_wrong(&store(directory.path(), &["export", "--room", "a b"]), "--room");
    let busy = while_busy(&mut engine, 2501, || export(&[]));
    let offsets = offsets(&busy);
    assert!(offsets.iter().copied().eq(1..=offsets.len() as u64) && offsets.len() >= 2500, "no gap");
}

#[test]
fn whoever_has_read_enough_of_an_export_may_go() {
    let directory = tempfile::tempdir().unwrap();
    let mut engine = opened(directory.path());
    publish(&mut engine, 1, "Lobby", 1, 20_000);
    let mut child = starling(&["store", "export", "--room", "lobby", "--data-dir"])
        .arg(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut some = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

#[test]
fn without_a_store_it_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["stats"][..], &["check"], &["backup", "copy.db"], &["export", "--room", "lobby"]] {
        assert_failed(&store(directory.path(), arguments), "--data-dir");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    std::fs::write(directory.path().join(FILE), "this is no database, however long it is").unwrap();
    assert_failed(&store(directory.path(), &["stats"]), FILE);
    let help = starling(&["store", "--help"]).output().unwrap();
    for word in ["stats", "check", "backup", "export", "Examples:", "Exit codes:"] {
        assert!(assert_ok(&help).contains(word), "{word}");
    }
    assert_eq!(starling(&["store"]).output().unwrap().status.code(), Some(2));
}
