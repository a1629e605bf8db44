//! The server under more than it was made for: those who are there do not notice, those who cannot be served are told,
//! and when it is over everything is as before.

#![cfg(target_os = "linux")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use common::{Client, DEADLINE, Server, until};

/// These tests need much of what this process may have, so that one runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How long a storm may take.
const STORM_MAX: Duration = Duration::from_secs(20);

/// Who comes in a storm, and from how many places at a time.
const NEWCOMERS: usize = 6000;
const PLACES: usize = 8;

/// What of its open-file limit a core does not use for clients who may stay: see `server.rs`.
const RESERVE: usize = 64;

/// What newcomers have been told so far.
#[derive(Default)]
struct Fates {
    served: Vec<TcpStream>,
    refused: Vec<TcpStream>,
    waiting: Vec<TcpStream>,
}

/// Connects as fast as it goes, from several threads, and keeps every connection.
fn storm(address: SocketAddr) -> Vec<TcpStream> {
    let next = AtomicUsize::new(0);
    let connect_some = || {
        let mut connected = Vec::new();
        while next.fetch_add(1, SeqCst) < NEWCOMERS {
            // The kernel lets those wait for whom the server has not yet had time, and turns nobody away.
            let mut stream = TcpStream::connect_timeout(&address, STORM_MAX).unwrap();
            stream.write_all(b"/help\n").unwrap();
            connected.push(stream);
        }
        connected
    };
    std::thread::scope(|scope| {
        let places: Vec<_> = (0..PLACES).map(|_| scope.spawn(connect_some)).collect();
        places.into_iter().flat_map(|place| place.join().unwrap()).collect()
    })
}

impl Fates {
    /// Looks again at those who have been told nothing.
    fn look(&mut self) {
        for mut stream in std::mem::take(&mut self.waiting) {
            stream.set_nonblocking(true).unwrap();
            let mut answer = [0; 64];
            match stream.read(&mut answer) {
                Ok(length) => {
                    let answer = String::from_utf8_lossy(&answer[..length]);
                    if answer.starts_with("! 4105 too_many_connections") {
                        self.refused.push(stream);
                    } else {
                        assert!(answer.starts_with("* "), "{answer:?}");
                        self.served.push(stream);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.waiting.push(stream),
                Err(error) => panic!("neither served nor told: {error}"),
            }
        }
    }
}

/// Two who were there before talk until they are told to stop: each message is answered by the next.
fn talk(mut birds: [Client; 2], is_over: &AtomicBool) -> (usize, Duration) {
    let (mut said, mut slowest) = (0, Duration::ZERO);
    while !is_over.load(SeqCst) {
        let begin = Instant::now();
        for sender in 0..birds.len() {
            said += 1;
            birds[sender].say(&format!(r#"{{"type":"message","room":"tree","content":"number {said}"}}"#));
            // Each hears its own too; what comes next is the very next offset.
            for bird in &mut birds {
                let message = bird.expect(r#""type":"message""#);
                assert!(message.contains(&format!("\"number {said}\"")), "{message}");
                assert!(message.contains(&format!("\"offset\":{said},")), "{message}");
            }
        }
        slowest = slowest.max(begin.elapsed());
    }
    (said, slowest)
}

fn survives_a_storm(cores: &str, files: usize) {
    let _alone = alone();
    let server = Server::with_files(files, &["--cores", cores]);
    if cores != "1" && !server.has_own_tables() {
        println!("not tested: the cores share a table here");
        return;
    }
    let birds = ["bird", "mate"].map(|nickname| Client::program(server.line, nickname, "tree"));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let talk = scope.spawn(|| talk(birds, &is_over));
        let begin = Instant::now();
        let mut fates = Fates { waiting: storm(server.line), ..Fates::default() };
        let took = begin.elapsed();
        assert!(took < STORM_MAX, "{took:?}");
        // The two who talk have places too.
        let places = (files - RESERVE) * cores.parse::<usize>().unwrap() - 2;
        until("somebody is refused", || {
            fates.look();
            (!fates.refused.is_empty()).then_some(())
        });
        let Fates { served, refused, waiting } = &fates;
        let (served, refused, waiting) = (served.len(), refused.len(), waiting.len());
        println!(
            "{cores} cores, {places} places: {served} served, {refused} refused, {waiting} wait; in {took:?}"
        );
        assert!(served > 0 && served <= places);
        drop(fates);
        // They have gone, and the places are there again. Nobody had to restart anything.
        let back: Vec<Client> = (0..places / 2)
            .map(|n| {
                until("a place after the storm", || {
                    let mut client = Client::connect(server.line).unwrap();
                    client.say(&format!("back{n}"));
                    let line = client.next_line().ok().flatten()?;
                    line.starts_with("* welcome").then_some(client)
                })
            })
            .collect();
        is_over.store(true, SeqCst);
        let (said, slowest) = talk.join().unwrap();
        println!("meanwhile {said} messages, the slowest exchange of two in {slowest:?}");
        assert!(said > 0 && slowest < DEADLINE);
        drop(back);
    });
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_storm_of_connections_on_one_core() {
    survives_a_storm("1", 2000);
}

#[test]
fn a_storm_of_connections_on_four_cores() {
    survives_a_storm("4", 1000);
}

/// One of many readers stops reading while a room is busy.
fn one_reader_stops(cores: &str) {
    const READERS: usize = 12;
    const MESSAGES: usize = 1200;
    const CONTENT_BYTES: usize = 8192;
    /// How far the publisher runs ahead of the slowest of those who read: it is the server that is tested for readers
    /// who stop, not this machine for readers who are slow.
    const AHEAD: usize = 32;
    /// What the server may need besides: one queue at its limit, buffers that have grown, and what the allocator keeps.
    const GROWTH_MAX_KIB: usize = 48 * 1024;

    let _alone = alone();
    let server = Server::start(&["--cores", cores]);
    let mut publisher = Client::program(server.line, "publisher", "other");
    publisher.say(r#"{"type":"join","room":"busy","echo":false}"#);
    publisher.expect(r#""type":"joined""#);
    let narrow = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    narrow.set_recv_buffer_size(4096).unwrap();
    narrow.connect(&server.line.into()).unwrap();
    let mut stopped = Client::from_stream(narrow.into()).unwrap().into_program("stopped", "busy");
    let (progress, progressed) = mpsc::channel();
    let readers: Vec<_> = (0..READERS)
        .map(|n| {
            let mut reader = Client::program(server.line, &format!("reader{n}"), "busy");
            let progress = progress.clone();
            std::thread::spawn(move || {
                let mut away = None;
                let mut offset = 0;
                while offset < MESSAGES || away.is_none() {
                    let line = reader.line();
                    if line.contains(r#""type":"message""#) {
                        offset += 1;
                        assert!(line.contains(&format!("\"offset\":{offset},")), "{}", &line[..100]);
                        let _ = progress.send(n);
                    } else if line.contains(r#""event":"away""#) {
                        away = Some(line);
                    }
                }
                away.expect("the loop waits for it")
            })
        })
        .collect();
    let before_kib = server.resident_kib();
    let mut largest_kib = 0;
    let content = "x".repeat(CONTENT_BYTES);
    let mut read = [0; READERS];
    for n in 0..MESSAGES {
        while n >= read.iter().min().unwrap() + AHEAD {
            read[progressed.recv_timeout(DEADLINE).expect("every reader goes on")] += 1;
        }
        publisher.say(&format!(r#"{{"type":"message","room":"busy","content":"{content}"}}"#));
        if n % 100 == 0 {
            largest_kib = largest_kib.max(server.resident_kib());
        }
    }
    for reader in readers {
        let away = reader.join().unwrap();
        assert!(away.contains("\"stopped\""), "{away}");
    }
    let growth_kib = largest_kib.max(server.resident_kib()).saturating_sub(before_kib);
    println!("{cores} cores: {growth_kib} KiB more than {before_kib} KiB");
    assert!(growth_kib < GROWTH_MAX_KIB, "{growth_kib} KiB");
    // What it reads now ends with the reason, after whole messages without a gap.
    let mut next = 1;
    loop {
        match stopped.next_line() {
            Ok(Some(line)) if line.contains(r#""type":"message""#) => {
                assert!(line.contains(&format!("\"offset\":{next},")), "{}", &line[..100]);
                next += 1;
            }
            Ok(Some(line)) if line.contains(r#""type":"bye""#) => {
                assert!(line.contains("\"code\":4201"), "{line}");
                break;
            }
            Ok(Some(line)) => assert!(line.contains(r#""type":"presence""#), "{line}"),
            // It did not read for longer than the last words are kept.
            Ok(None) => break,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(next <= MESSAGES, "it was not behind");
    drop((publisher, stopped));
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_reader_that_stops_harms_nobody_on_one_core() {
    one_reader_stops("1");
}

#[test]
fn a_reader_that_stops_harms_nobody_on_four_cores() {
    one_reader_stops("4");
}

/// Many publish to one room at once, and all members hear it all, in one order.
fn everybody_publishes(cores: &str) {
    const PUBLISHERS: usize = 64;
    const EACH: usize = 100;
    let _alone = alone();
    let server = Server::start(&["--cores", cores]);
    let mut watcher = Client::program(server.line, "watcher", "busy");
    let mut publishers: Vec<Client> =
        (0..PUBLISHERS).map(|n| Client::program(server.line, &format!("publisher{n}"), "busy")).collect();
    let pipelined = |publisher: usize| -> Arc<str> {
        let line =
            |n| format!("{{\"type\":\"message\",\"room\":\"busy\",\"content\":\"{publisher}:{n}\"}}\n");
        (0..EACH).map(line).collect::<String>().into()
    };
    for (n, publisher) in publishers.iter_mut().enumerate() {
        publisher.send(pipelined(n).as_bytes());
    }
    let messages = |client: &mut Client| -> Vec<String> {
        (0..PUBLISHERS * EACH).map(|_| client.expect(r#""type":"message""#)).collect()
    };
    let order = messages(&mut watcher);
    let mut next = [0; PUBLISHERS];
    for (index, message) in order.iter().enumerate() {
        assert!(message.contains(&format!("\"offset\":{},", index + 1)), "{message}");
        let content = message.split("\"content\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let (publisher, n) = content.split_once(':').unwrap();
        let next = &mut next[publisher.parse::<usize>().unwrap()];
        assert_eq!(n.parse(), Ok(*next), "{publisher} is heard in its own order");
        *next += 1;
    }
    assert_eq!(next, [EACH; PUBLISHERS]);
    for publisher in &mut publishers {
        assert!(messages(publisher) == order, "another order");
    }
    drop((watcher, publishers));
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn many_publishers_are_heard_in_one_order_on_one_core() {
    everybody_publishes("1");
}

#[test]
fn many_publishers_are_heard_in_one_order_on_four_cores() {
    everybody_publishes("4");
}

/// The states of the server's connections on `port`, as /proc/net/tcp has them: "01" is established, "04" waits for a
/// peer to take what was written before the close.
fn states(port: u16) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let of = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[1].ends_with(&format!(":{port:04X}")) && fields[3] != "0A").then(|| fields[3].to_owned())
    };
    table.lines().skip(1).filter_map(of).collect()
}

#[test]
fn the_kernel_keeps_nothing_for_a_reader_that_was_given_up() {
    let _alone = alone();
    let server = Server::start(&["--cores", "1", "--set", "limits.close_ms=100"]);
    let stopped = Client::program(server.line, "stopped", "busy");
    let mut publisher = Client::program(server.line, "publisher", "busy");
    let message = format!(r#"{{"type":"message","room":"busy","content":"{}"}}"#, "x".repeat(60_000));
    let mut is_left = false;
    while !is_left {
        publisher.say(&message);
        loop {
            let line = publisher.line();
            is_left |= line.contains("\"event\":\"away\"");
            if line.contains(r#""type":"message""#) {
                break;
            }
        }
    }
    let deadline = std::time::Instant::now() + DEADLINE;
    loop {
        let left = states(server.line.port());
        if left == ["01"] {
            break; // the publisher
        }
        assert!(std::time::Instant::now() < deadline, "{left:?}");
        std::thread::sleep(std::time::Duration::from_millis(10)); // the table cannot be waited for
    }
    drop((stopped, publisher));
    assert_eq!(server.stop().code(), Some(0));
}
