//! The load generator, end to end: against servers that it starts, and against targets that are wrong on purpose, which it has
//! to notice.

#![cfg(target_os = "linux")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// Runs `starling bench` with these arguments, quietly.
fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"STARLING_") {
            command.env_remove(name);
        }
    }
    command.arg("bench").args(arguments).args(["--quiet"]).stdin(Stdio::null()).output().unwrap()
}

/// The same with its JSON, and its exit code.
#[track_caller]
fn report(arguments: &str) -> (Value, i32) {
    let mut arguments: Vec<&str> = arguments.split_whitespace().collect();
    arguments.extend(["--json", "-"]);
    let output = bench(&arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout);
    let report =
        report.unwrap_or_else(|why| panic!("{why}: {:?} {told}", String::from_utf8_lossy(&output.stdout)));
    (report, output.status.code().unwrap_or_else(|| panic!("{told}")))
}

#[track_caller]
fn assert_ok(arguments: &str) -> Value {
    let (report, code) = report(arguments);
    assert_eq!((&report["verdict"], code), (&Value::from("ok"), 0), "{arguments}: {:#}", report["reasons"]);
    assert_eq!(report["audit"]["sequences"]["missing"], 0);
    report
}

#[track_caller]
fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path} in {report:#}"))
}

/// How many of the times are over a limit, as the curve tells.
fn count_over(report: &Value, limit_ns: f64) -> f64 {
    let count = number(report, "/latency/count");
    let curve = report["latency"]["curve"].as_array().unwrap();
    let over = curve.iter().find(|point| point[1].as_f64().unwrap() > limit_ns);
    over.map_or(0.0, |point| ((1.0 - point[0].as_f64().unwrap()) * count).max(1.0))
}

/// Processes whose parent is this one.
fn children_of(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|children| {
            children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// A bench that runs, and the server that it has started.
fn under_way(arguments: &str) -> (std::process::Child, u32) {
    let bench = Command::new(env!("CARGO_BIN_EXE_starling"))
        .arg("bench")
        .args(arguments.split_whitespace())
        .args(["--quiet", "--json", "-"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let server = wait_for(|| children_of(bench.id()).first().copied());
    wait_for(|| has_connections(server).then_some(()));
    (bench, server)
}

/// Whether a process listens and has been connected to: it has a good deal of work behind it then.
fn has_connections(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    ticks(11) + ticks(12) > 5
}

fn wait_for<T>(look: impl Fn() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + common::DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "it did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

#[test]
fn a_bench_that_is_killed_leaves_no_server() {
    let (mut bench, server) = under_way("fanout -c 50 -d 60s");
    bench.kill().unwrap();
    bench.wait().unwrap();
    wait_for(|| (!std::path::Path::new(&format!("/proc/{server}")).exists()).then_some(()));
}

#[test]
fn a_search_whose_target_ends_has_failed() {
    let (bench, server) = under_way("fanout -c 50 --rate 500 --find-max --slo p99=10s -d 300ms -w 50ms");
    kill(server);
    let output = bench.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["verdict"], output.status.code()), (&Value::from("failed"), Some(1)));
    assert!(report["reasons"].to_string().contains("the target was gone"), "{:#}", report["reasons"]);
}

#[test]
fn a_target_that_ends_is_reported() {
    let (bench, server) = under_way("fanout -c 50 --rate 500 -d 60s -w 50ms");
    let killed_at = std::time::Instant::now();
    kill(server);
    // With nobody left there is nothing to wait for.
    let output = bench.wait_with_output().unwrap();
    assert!(killed_at.elapsed() < Duration::from_secs(30), "it was to last a minute");
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["reasons"].to_string().contains("has ended"), "{:#}", report["reasons"]);
    assert!(report["server"].is_null(), "no figures of what is not there");
}

#[test]
fn an_objective_that_no_rate_meets_fails() {
    let (report, code) = report("echo -c 5 --find-max --slo p99=1ns -d 100ms -w 20ms");
    assert_eq!((&report["verdict"], code), (&Value::from("failed"), 1));
}

const TRANSPORTS: [&str; 10] = [
    "ws",
    "ws+proto",
    "ws+deflate",
    "lines",
    "frames",
    "frames+proto",
    "text",
    "ws+tls",
    "grpc+tls",
    "frames+proto+tls",
];

/// What is shorter than that is not compressed, and refused.
fn size_of(transport: &str) -> usize {
    if transport == "ws+deflate" { 256 } else { 128 }
}

#[test]
fn round_trips_over_every_transport() {
    for transport in TRANSPORTS.iter().chain(&["ws-echo"]) {
        let size = size_of(transport);
        let report = assert_ok(&format!("echo --transport {transport} -s {size} -c 5 -d 300ms -w 50ms"));
        assert!(number(&report, "/latency/count") > 10.0, "{transport}");
        assert!(number(&report, "/server/cpu_seconds") > 0.0, "{transport}");
        assert_eq!(number(&report, "/latency/count"), number(&report, "/sent"), "{transport}");
    }
}

#[test]
fn fan_out_over_every_transport() {
    for transport in TRANSPORTS {
        let size = size_of(transport);
        let load = "-c 20 -p 2 --rate 200 -d 500ms -w 100ms";
        let report = assert_ok(&format!("fanout --transport {transport} -s {size} {load}"));
        assert_eq!(number(&report, "/sent"), 100.0, "{transport}: every message that was due is sent");
        // On text lines one does not hear oneself.
        let heard = if transport == "text" { 19.0 } else { 20.0 };
        assert_eq!(number(&report, "/latency/count"), 100.0 * heard, "{transport}");
    }
}

#[test]
fn every_other_profile_runs() {
    assert_ok("rooms -c 30 --rooms 6 -d 300ms -w 50ms --threads 2");
    let mix = assert_ok("mix -c 60 --rooms 6 --rate 300 --moves 200 -d 500ms -w 50ms");
    assert!(number(&mix, "/moves") > 20.0);
    let storm = assert_ok("storm -c 200");
    assert_eq!(number(&storm, "/entry/count"), 200.0);
    let idle = assert_ok("idle -c 5000 -d 300ms -w 50ms --sources 127.0.0.2-127.0.0.4");
    assert!(number(&idle, "/server/private_bytes_per_connection") > 100.0);
    assert_ok("slow -c 20 --slow 5 --rate 100 -d 300ms -w 50ms");
    let churn = assert_ok("churn -c 20 --rate 100 -d 500ms -w 50ms");
    assert_eq!(number(&churn, "/latency/count"), 50.0);
    let resume = assert_ok("resume -c 30 --rate 200 -d 600ms -w 50ms");
    assert_eq!(number(&resume, "/recovered"), 29.0);
    let acks = assert_ok("acks -d 300ms -w 50ms");
    assert_eq!(acks["plan"]["ack"], "sequenced");
    assert!(number(&acks, "/acknowledged/count") > 0.0);
}

#[test]
fn the_highest_rate_is_searched() {
    // Nothing holds below a rate at which a second has no message; everything may be slow.
    let report = assert_ok("fanout -c 3 --find-max --slo max=60s --rate 400000 -d 100ms -w 10ms");
    assert!(number(&report, "/highest_rate") >= 1000.0);
    let tries = report["tries"].as_array().unwrap();
    let held = tries.iter().filter(|tried| tried["has_held"] == true);
    let highest = held.map(|tried| tried["rate"].as_f64().unwrap()).fold(0.0, f64::max);
    assert_eq!(highest, number(&report, "/highest_rate"));
    assert!(tries.iter().all(|tried| tried["has_held"] == true || tried["why_not"].is_string()));
}

#[test]
fn a_rate_holds_only_by_enough_samples() {
    // 100 ms at 300 a second are 90 deliveries; p99 needs 1,000, for which the run is made longer.
    let report = assert_ok("fanout -c 3 --find-max --slo p99=10s --rate 300 -d 100ms -w 10ms");
    let tries = report["tries"].as_array().unwrap();
    assert!(number(&tries[0], "/seconds") > 0.5, "{tries:#?}");
    assert!(
        tries
            .iter()
            .filter(|tried| tried["has_held"] == true)
            .all(|tried| number(tried, "/samples") >= 1000.0)
    );
}

#[test]
fn a_server_that_runs_is_measured_and_found() {
    let server = common::Server::start(&[]);
    let report = assert_ok(&format!("fanout --target lines://{} -c 5 -d 200ms -w 50ms", server.line));
    assert_eq!(report["server"]["pids"][0], server.pid());
    // As if nothing were known of it: templates, and markers found in whatever comes.
    let templates = [
        "--hello",
        "{\"type\":\"hello\",\"nickname\":\"{nickname}\"}\n{\"type\":\"join\",\"room\":\"{room}\"}",
        "--publish",
        "{\"type\":\"message\",\"room\":\"{room}\",\"content\":\"{content}\"}",
    ];
    let target = format!("ws-any://{}/ws", server.web);
    let mut arguments =
        vec!["fanout", "--target", &target, "-c", "5", "-d", "200ms", "-w", "500ms", "--rate", "100"];
    arguments.extend(templates);
    let output = bench(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let health =
        assert_ok(&format!("echo --target http://{}/health -c 4 --pipeline 4 -d 200ms -w 50ms", server.web));
    assert!(number(&health, "/latency/count") > 100.0);
    let (missing, code) =
        self::report(&format!("echo --target http://{}/nothing -c 1 -d 50ms -w 0s", server.web));
    assert_eq!(code, 1);
    assert!(missing["refused"]["404"].as_u64().unwrap() > 0);
}

/// What a target does wrong to one of its listeners, once.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Drop,
    Repeat,
    Swap,
    Change,
    Cut,
}

/// The line with which it happens.
const FAULTY_LINE: usize = 20;

/// A target that passes each line on to all other connections, of which there are `count`.
fn fan_out_target(count: usize, fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let streams: Vec<TcpStream> = (0..count).map(|_| listener.accept().unwrap().0).collect();
        for (index, stream) in streams.iter().enumerate() {
            let input = BufReader::new(stream.try_clone().unwrap());
            let others: Vec<TcpStream> = streams
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index)
                .map(|(_, stream)| stream.try_clone().unwrap())
                .collect();
            std::thread::spawn(move || pass_on(input, &others, fault));
        }
    });
    address
}

fn pass_on(input: BufReader<TcpStream>, others: &[TcpStream], fault: Fault) {
    let mut kept = String::new();
    for (index, line) in input.lines().map_while(Result::ok).enumerate() {
        for (other, mut stream) in others.iter().enumerate() {
            let is_faulty = other == 0 && index == FAULTY_LINE;
            let text = match fault {
                Fault::Drop if is_faulty => String::new(),
                // The last byte, far behind what says which message it is.
                Fault::Change if is_faulty => format!("{},\n", &line[..line.len() - 1]),
                Fault::Cut if is_faulty => format!("{}\n", &line[..line.len() - 1]),
                Fault::Repeat if is_faulty => format!("{line}\n{line}\n"),
                Fault::Swap if is_faulty => {
                    kept = format!("{line}\n");
                    String::new()
                }
                _ if other == 0 => format!("{line}\n{}", std::mem::take(&mut kept)),
                _ => format!("{line}\n"),
            };
            if stream.write_all(text.as_bytes()).is_err() {
                return;
            }
        }
    }
}

#[test]
fn a_target_that_is_wrong_fails_the_run() {
    for (fault, name, count) in
        [(Fault::Drop, "missing", 1), (Fault::Repeat, "repeated", 1), (Fault::Swap, "reordered", 1)]
    {
        let address = fan_out_target(4, fault);
        let (report, code) =
            report(&format!("fanout --target tcp://{address} -c 4 --rate 200 -d 400ms -w 0s"));
        assert_eq!((&report["verdict"], code), (&Value::from("failed"), 1), "{fault:?}: {report:#}");
        assert_eq!(report["audit"]["sequences"][name], count, "{fault:?}: {:#}", report["audit"]);
    }
    for fault in [Fault::Change, Fault::Cut] {
        let address = fan_out_target(4, fault);
        let (report, code) =
            report(&format!("fanout --target tcp://{address} -c 4 --rate 200 -d 400ms -w 0s"));
        assert_eq!((&report["verdict"], code), (&Value::from("failed"), 1), "{fault:?}: {report:#}");
        assert_eq!(report["audit"]["damaged"], 1, "{fault:?}: {:#}", report["audit"]);
        assert_eq!(report["audit"]["sequences"]["missing"], 0, "{fault:?}");
    }
    let address = fan_out_target(4, Fault::None);
    assert_ok(&format!("fanout --target tcp://{address} -c 4 --rate 200 -d 400ms -w 0s"));
}

#[test]
fn a_failed_run_says_so_in_its_table() {
    let target = format!("tcp://{}", fan_out_target(3, Fault::Drop));
    let output =
        bench(&["fanout", "--target", &target, "-c", "3", "--rate", "200", "-d", "300ms", "-w", "0s"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("FAILED") && table.contains("1 missing"), "{table}");
}

/// What a target that speaks JSON lines does wrong, once.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slip {
    None,
    LosesAck,
    RepeatsAck,
    AcksAnotherOffset,
    AcksAnotherMessage,
    AcksALowerLevel,
    NamesAnotherSender,
}

/// A target that is starling to whoever speaks alone in a room: over JSON lines, with one level of acknowledgement.
fn acknowledging_target(slip: Slip) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        // The first connection only asks whether there is such a level.
        for (index, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            std::thread::spawn(move || acknowledge(&stream, if index == 1 { slip } else { Slip::None }));
        }
    });
    address
}

fn acknowledge(mut stream: &TcpStream, slip: Slip) {
    stream.set_nodelay(true).unwrap();
    let (mut nickname, mut offset) = (String::new(), 0);
    for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
        let command: Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| command[name].as_str().unwrap_or_default().to_owned();
        let answer = match text("type").as_str() {
            "hello" => {
                nickname = text("nickname");
                r#"{"type":"welcome","server":"planted/7"}"#.to_owned()
            }
            "join" => r#"{"type":"joined","room":"r","epoch":"e","offset":0}"#.to_owned(),
            "message" if text("ack") != "sequenced" => {
                r#"{"type":"error","code":501,"reason":"ack_unavailable"}"#.to_owned()
            }
            "message" => {
                offset += 1;
                let is_it = |this: Slip| slip == this && offset == FAULTY_LINE;
                let sender = if is_it(Slip::NamesAnotherSender) { "mallory" } else { &nickname };
                let told = if is_it(Slip::AcksAnotherOffset) { offset + 1 } else { offset };
                let level = if is_it(Slip::AcksALowerLevel) { "received" } else { "sequenced" };
                let mut id = text("id");
                if is_it(Slip::AcksAnotherMessage) {
                    id = "somebody else's".to_owned();
                }
                let ack = format!(
                    "{{\"type\":\"ack\",\"id\":\"{id}\",\"room\":\"r\",\"offset\":{told},\"level\":\"{level}\"}}\n"
                );
                let ack = match slip {
                    Slip::LosesAck if offset == FAULTY_LINE => String::new(),
                    Slip::RepeatsAck if offset == FAULTY_LINE => ack.repeat(2),
                    _ => ack,
                };
                let content = text("content");
                format!(
                    "{ack}{{\"type\":\"message\",\"room\":\"r\",\"sender\":\"{sender}\",\"content\":\"{content}\",\"offset\":{offset}}}"
                )
            }
            _ => return,
        };
        if stream.write_all(format!("{answer}\n").as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn acknowledgements_are_matched() {
    let acks = |slip| {
        let address = acknowledging_target(slip);
        report(&format!("acks --target lines://{address} -c 1 --rate 200 -d 300ms -w 0s"))
    };
    let (report, code) = acks(Slip::None);
    assert_eq!((&report["verdict"], code), (&Value::from("ok"), 0), "{:#}", report["reasons"]);
    assert_eq!(report["audit"]["acks"]["looked_at"], 60);
    assert_eq!(report["target_version"], "planted/7");
    for (slip, path, count) in [
        (Slip::LosesAck, "/acks/lost", 1),
        (Slip::RepeatsAck, "/acks/repeated", 1),
        (Slip::AcksAnotherOffset, "/acks/wrong", 1),
        (Slip::AcksAnotherMessage, "/acks/lost", 1),
        (Slip::AcksALowerLevel, "/acks/wrong", 1),
        (Slip::NamesAnotherSender, "/misattributed", 1),
    ] {
        let (report, code) = acks(slip);
        assert_eq!((&report["verdict"], code), (&Value::from("failed"), 1), "{slip:?}: {report:#}");
        assert_eq!(
            report["audit"].pointer(path),
            Some(&Value::from(count)),
            "{slip:?}: {:#}",
            report["audit"]
        );
    }
}

#[test]
fn a_run_that_could_not_be_made_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("result.json");
    let file = path.to_str().unwrap();
    let output = bench(&["fanout", "--server-flag=--no-such-flag", "--json", file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!path.exists());
    // One that was there stays as it is.
    std::fs::write(&path, "before").unwrap();
    bench(&["fanout", "--server-flag=--no-such-flag", "--json", file]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "before");
}

#[test]
fn an_interrupt_is_heard_whatever_is_due() {
    // More than any generator can send: what is due and not sent grows all the time.
    let (bench, _) = under_way("fanout -c 2 --rate 5000000 -w 0s -d 60s --size 31");
    std::thread::sleep(Duration::from_millis(1500)); // a backlog
    let began = std::time::Instant::now();
    assert!(Command::new("kill").args(["-INT", &bench.id().to_string()]).status().unwrap().success());
    let output = bench.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

const STALL: Duration = Duration::from_millis(300);

/// A target that gives back what it gets, and once, in the middle, does nothing for a while.
fn stalling_target(stalls_after: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut lines, mut buffer) = (0, [0; 65_536]);
        while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
            let before = lines;
            lines += buffer[..bytes].iter().filter(|byte| **byte == b'\n').count();
            if before < stalls_after && lines >= stalls_after {
                std::thread::sleep(STALL); // the fault itself
            }
            if stream.write_all(&buffer[..bytes]).is_err() {
                return;
            }
        }
    });
    address
}

#[test]
fn an_open_loop_shows_a_stall_to_all_who_would_have_waited() {
    let target = stalling_target(500);
    let report = assert_ok(&format!("echo --target tcp://{target} -c 1 --rate 1000 -d 2s -w 0s"));
    assert_eq!(number(&report, "/sent"), 2000.0);
    assert!(number(&report, "/latency/max_ns") >= 250e6, "{:#}", report["latency"]);
    // Due while 200 of the 300 ms had still to pass: 200 messages, and more where the machine stalls too.
    let count = count_over(&report, 100e6);
    assert!((150.0..600.0).contains(&count), "{count}");
}

#[test]
fn a_closed_loop_shows_it_once() {
    let target = stalling_target(500);
    let report = assert_ok(&format!("echo --target tcp://{target} -c 1 --in-flight 1 -d 1s -w 0s"));
    assert!(number(&report, "/latency/max_ns") >= 250e6, "{:#}", report["latency"]);
    let count = count_over(&report, 200e6);
    assert!(count <= 2.0, "{count}");
}

#[test]
fn runs_become_a_picture() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for name in ["a.json", "b.json"] {
        let output = bench(&[
            "echo",
            "-c",
            "2",
            "-d",
            "200ms",
            "-w",
            "10ms",
            "--label",
            name,
            "--json",
            &path(name),
            "--plot",
            &path("one.html"),
        ]);
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("none missing"));
    }
    let output = bench(&["plot", &path("a.json"), &path("b.json"), "-o", &path("ab.html")]);
    assert!(output.status.success(), "{output:?}");
    let page = std::fs::read_to_string(path("ab.html")).unwrap();
    assert_eq!(page.matches("<polyline").count(), 2);
    assert!(page.contains("a.json") && page.contains("b.json"));
}

#[test]
fn nonsense_is_refused_with_a_sentence() {
    for (arguments, part) in [
        ("fanout --rate 5 --in-flight 5", "cannot be used with"),
        ("fanout --rate 0", "no rate"),
        ("fanout -c 5 -p 6", "more --connections"),
        ("fanout --size 4", "give at least"),
        ("fanout --rooms 2", "profile rooms"),
        ("idle --rate 5", "sends no messages"),
        ("fanout --rate 1e12", "more than anything sends"),
        ("mix --moves 1e9", "--moves"),
        ("echo --rooms 2", "room of one's own"),
        ("rooms --target tcp://127.0.0.1:1", "has no rooms"),
        ("resume --target tcp://127.0.0.1:1", "no sessions"),
        ("fanout --target 127.0.0.1:1", "write SCHEME://"),
        ("fanout --duration soon", "write 500ms"),
        ("resume -c 1", "give more --connections"),
        ("echo --json /nowhere/at/all.json", "cannot write /nowhere/at/all.json"),
        ("fanout --find-max", "--slo"),
        ("fanout --find-max --slo fast", "write p99=5ms"),
        ("idle -c 100000", "give more --sources"),
        ("fanout --sources 192.0.2.1", "no address of this machine"),
        ("fanout --sources ::1", "no way to"),
        ("fanout -t 0", "--threads"),
        ("fanout -c 5 -t 6", "at most one each"),
        ("fanout -t 100000 -c 200000 --sources 127.0.0.2-127.0.0.20", "--threads"),
        ("fanout -s 99999999999", "--size"),
        ("fanout -c 5 -i 100000000", "--in-flight"),
        ("fanout --json same --plot same", "the same file"),
        ("fanout --plot -", "name one"),
        ("plot same -o same", "another file"),
        ("storm --handshakes 0", "--handshakes"),
        ("fanout --target irc://127.0.0.1:1 --size 401", "no room for more than 400"),
        ("fanout --target ws-any://127.0.0.1:1/ --publish {content}.", "a dot behind"),
        ("fanout --cpus 1000", "may not use"),
        ("plot a.json", "name the picture"),
        ("fanout a.json", "for `plot`"),
    ] {
        let output = bench(&arguments.split_whitespace().collect::<Vec<_>>());
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}: {told}");
        assert!(told.contains(part), "{arguments}: {told}");
    }
}

#[test]
fn nobody_there_is_told() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (report, code) = report(&format!("fanout --target lines://{free} -c 3 -d 100ms -w 0s"));
    assert_eq!((&report["verdict"], code), (&Value::from("failed"), 1));
    assert!(report["reasons"].to_string().contains("nobody listens at"), "{:#}", report["reasons"]);
}

#[test]
fn an_interrupted_run_tells_what_there_was() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
    command.args(["bench", "fanout", "-c", "5", "--rate", "100", "-w", "0s", "-d", "60s", "--json", "-"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = child.stderr.take().unwrap();
    let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
    // The first report of messages under way comes after seconds.
    let line = lines.find(|line| line.contains("measuring"));
    assert!(line.is_some(), "it did not measure");
    let asked = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(asked.success());
    std::thread::spawn(move || lines.for_each(drop));
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(report["verdict"], "interrupted");
    assert!(number(&report, "/latency/count") > 100.0);
}
