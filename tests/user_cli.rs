//! `starling user` from outside: what it says, does and refuses, with and without somebody else in the store.

mod program;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use program::{assert_failed, assert_ok, assert_wrong, starling, text};
use starling::auth::password::PASSWORD_BYTES_MAX;
use starling::chat::name::Nickname;
use starling::store::engine::Engine;
use starling::store::{FILE, accounts};

/// Runs `starling user` on a data directory, with this as standard input.
fn user(directory: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = starling(&["user"])
        .args(arguments)
        .arg("--data-dir")
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn find(engine: &Engine, name: &str) -> Option<accounts::Account> {
    accounts::find(engine.connection(), &Nickname::parse(name).unwrap()).unwrap()
}

fn opened(directory: &Path) -> Engine {
    Engine::open(&directory.join(FILE)).unwrap()
}

#[test]
fn a_user_comes_changes_and_goes() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("data");
    let added = user(&directory, &["add", "Zoë", "--password-stdin"], "correct horse\n");
    assert_eq!(assert_ok(&added), "Zoë is registered\n");
    let hash = find(&opened(&directory), "zoë").unwrap().password;
    assert!(accounts::verify_password("correct horse", Some(&hash)));

    assert_failed(
        &user(&directory, &["add", "ZOË", "--password-stdin"], "another one\n"),
        "starling user passwd Zoë",
    );
    let changed = user(&directory, &["passwd", "zoë", "--password-stdin"], "battery staple");
    assert_eq!(assert_ok(&changed), "zoë has another password\n");
    let hash = find(&opened(&directory), "zoë").unwrap().password;
    assert!(accounts::verify_password("battery staple", Some(&hash)));

    assert_eq!(assert_ok(&user(&directory, &["disable", "zoë"], "")), "zoë is disabled\n");
    assert!(find(&opened(&directory), "zoë").unwrap().state.is_disabled);
    assert_eq!(assert_ok(&user(&directory, &["enable", "zoë"], "")), "zoë is enabled\n");
    assert!(!find(&opened(&directory), "zoë").unwrap().state.is_disabled);
    assert_eq!(assert_ok(&user(&directory, &["remove", "zoë"], "")), "zoë is removed\n");
    assert!(find(&opened(&directory), "zoë").is_none());
    for command in ["disable", "enable", "remove"] {
        assert_failed(&user(&directory, &[command, "zoë"], ""), "starling user list");
    }
    assert_failed(
        &user(&directory, &["passwd", "zoë", "--password-stdin"], "battery staple"),
        "nobody is registered",
    );
}

#[test]
fn lists_are_for_people_and_for_programs() {
    let directory = tempfile::tempdir().unwrap();
    let engine = opened(directory.path());
    for (name, at) in [("bob", 1_800_000_000_123), ("Alice", 5)] {
        accounts::add(engine.connection(), &Nickname::parse(name).unwrap(), "hash", at).unwrap();
    }
    accounts::set_disabled(engine.connection(), &Nickname::parse("bob").unwrap(), true).unwrap();
    let list = user(directory.path(), &["list"], "");
    let lines: Vec<Vec<&str>> =
        assert_ok(&list).lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NICKNAME", "REGISTERED", "LOGIN", "WAITING"]);
    assert_eq!(lines[1], ["Alice", "1970-01-01T00:00:00.005Z", "enabled", "0"]);
    assert_eq!(lines[2], ["bob", "2027-01-15T08:00:00.123Z", "disabled", "0"]);
    let list = user(directory.path(), &["list", "--json"], "");
    let objects: Vec<serde_json::Value> =
        assert_ok(&list).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 2);
    let bob =
        serde_json::json!({"nickname":"bob","registered":1_800_000_000_123_u64,"disabled":true,"waiting":0});
    assert_eq!(objects[1], bob);
    assert!(!text(&list.stdout).contains("hash"));
}

#[test]
fn it_works_beside_somebody_who_writes_all_the_time() {
    let directory = tempfile::tempdir().unwrap();
    let mut engine = opened(directory.path());
    let path = directory.path().to_owned();
    let adding =
        std::thread::spawn(move || user(&path, &["add", "bob", "--password-stdin"], "correct horse"));
    let mut position = 0;
    while !adding.is_finished() {
        position += 1;
        program::publish(&mut engine, 1, "lobby", position, 1);
    }
    assert_ok(&adding.join().unwrap());
    assert!(find(&engine, "bob").is_some());
}

#[test]
fn wrong_arguments_are_exit_code_2() {
    let directory = tempfile::tempdir().unwrap();
    assert_wrong(
        &user(directory.path(), &["add", "a b", "--password-stdin"], "correct horse"),
        "is no nickname",
    );
    assert_wrong(&user(directory.path(), &["disable", ""], ""), "is no nickname");
    assert_wrong(&user(directory.path(), &["add", "bob"], "correct horse"), "--password-stdin");
    assert_wrong(&user(directory.path(), &["list", "--config", "/does/not/exist.toml"], ""), "exist.toml");
    // A password as an argument is not even understood.
    let refused = user(directory.path(), &["add", "bob", "correct horse"], "");
    assert_eq!(refused.status.code(), Some(2));
    for help in [&["user", "--help"][..], &["user", "add", "--help"]] {
        let help = starling(help).output().unwrap();
        assert!(assert_ok(&help).contains("--data-dir"), "{}", text(&help.stdout));
    }
}

#[test]
fn without_a_store_it_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["list"][..], &["disable", "bob"], &["passwd", "bob", "--password-stdin"]] {
        assert_failed(&user(directory.path(), arguments, "correct horse"), "starling user add");
    }
    assert!(!directory.path().join(FILE).exists());
    std::fs::write(directory.path().join(FILE), "this is no database, however long it is").unwrap();
    assert_failed(&user(directory.path(), &["list"], ""), FILE);
    assert_failed(&user(directory.path(), &["add", "bob", "--password-stdin"], "correct horse"), FILE);
}

#[test]
fn passwords_that_cannot_be_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let add = |password: &str| user(directory.path(), &["add", "bob", "--password-stdin"], password);
    assert_failed(&add("seven77\n"), "at least 8 bytes");
    assert_failed(&add(""), "at least 8 bytes");
    assert_failed(&add(&"x".repeat(PASSWORD_BYTES_MAX + 1)), "at most 1024 bytes");
    assert_failed(&add(&"x".repeat(100_000)), "at most 1024 bytes");
    assert_failed(&add("correct horse\nbattery staple\n"), "more than one line");
    assert_ok(&add(&format!("{}\r\n", "x".repeat(PASSWORD_BYTES_MAX))));
    let longer = starling(&["user", "passwd", "bob", "--password-stdin", "--data-dir"])
        .arg(directory.path())
        .env("STARLING_AUTH_PASSWORD_BYTES_MIN", "12")
        .output()
        .unwrap();
    assert_failed(&longer, "at least 12 bytes");
}

/// A terminal: its other end, and what the program has as its standard input.
fn terminal() -> (File, OwnedFd) {
    let (mut ours, mut theirs) = (0, 0);
    // SAFETY: both numbers are written to, and nothing else is asked for; each descriptor is owned once.
    unsafe {
        let null = std::ptr::null_mut();
        assert_eq!(libc::openpty(&mut ours, &mut theirs, null, null.cast(), null.cast()), 0);
        libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(ours, libc::F_SETFL, libc::O_NONBLOCK);
        (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
    }
}

/// Types an answer at each prompt; returns the exit code, what the program said on standard error, and what the terminal has shown.
fn typed(directory: &Path, answers: &[&str]) -> (Option<i32>, String, String) {
    let (mut ours, theirs) = terminal();
    let shows = theirs.try_clone().unwrap();
    let mut child = starling(&["user", "add", "bob", "--data-dir"])
        .arg(directory)
        .stdin(theirs)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let (mut said, mut byte) = (String::new(), [0]);
    for answer in answers {
        while !said.ends_with(": ") && stderr.read(&mut byte).unwrap() == 1 {
            said.push(byte[0] as char);
        }
        ours.write_all(answer.as_bytes()).unwrap();
        said.push('|');
    }
    stderr.read_to_string(&mut said).unwrap();
    let code = child.wait().unwrap().code();
    let mut shown = Vec::new();
    let _ = ours.read_to_end(&mut shown); // ends with "would block"
    drop(shows);
    (code, said, String::from_utf8(shown).unwrap())
}

#[test]
fn at_a_terminal_a_password_is_asked_for_twice_and_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let (code, said, shown) =
        typed(directory.path(), &["correct hosre\u{7f}\u{7f}\u{7f}rse\r", "correct horse\r"]);
    assert_eq!((code, &*said, &*shown), (Some(0), "Password: |\nThe same again: |\n", ""));
    let hash = find(&opened(directory.path()), "bob").unwrap().password;
    assert!(accounts::verify_password("correct horse", Some(&hash)));

    let directory = tempfile::tempdir().unwrap();
    let (code, said, _) = typed(directory.path(), &["correct horse\r", "battery staple\r"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("two passwords"), "{said}");
    let (code, said, _) = typed(directory.path(), &["short\r"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("at least 8 bytes"), "{said}");
    let began = Instant::now();
    let (code, said, shown) = typed(directory.path(), &["correct horse\u{3}"]);
    assert_eq!((code, &*said, &*shown), (Some(130), "Password: |\n", ""));
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(find(&opened(directory.path()), "bob").is_none());
}
