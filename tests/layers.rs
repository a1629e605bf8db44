//! The layers of the source, and what each of them keeps its hands off.
//!
//! Imports are read from the sources themselves, so that the picture in the crate's documentation cannot drift from the
//! code. Each rule is also tried on a source that breaks it: a rule that finds nothing may be one that looks nowhere.

mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module of the crate's root, from the bottom up, and what it may import besides itself.
const LAYERS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("config", &["base"]),
    ("proto", &["base", "config"]),
    ("chat", &["base", "config"]),
    ("auth", &["base", "config", "chat"]),
    ("web", &["base", "config", "proto"]),
    ("record", &["base", "chat"]),
    ("shard", &["base", "config", "proto", "chat", "auth", "web", "record"]),
    ("tls", &["base", "config"]),
    ("proxy", &["base", "config"]),
    ("reactor", &["base", "config", "shard", "tls", "proxy"]),
    ("sys", &["base", "config", "reactor"]),
    ("store", &["base", "config", "chat", "auth", "record", "shard", "reactor", "sys"]),
    ("cluster", &["base", "config", "chat", "record", "shard", "reactor", "sys"]),
    ("consul", &["base", "config", "sys"]),
    ("observe", &["base", "config", "sys"]),
    (
        "server",
        &[
            "base", "config", "proto", "chat", "auth", "web", "record", "shard", "tls", "reactor", "sys",
            "store", "cluster", "consul", "observe",
        ],
    ),
    ("bench", &["base", "config", "proto", "tls", "reactor", "sys"]),
    (
        "cli",
        &[
            "base", "config", "proto", "chat", "auth", "web", "record", "shard", "tls", "reactor", "sys",
            "store", "observe", "server", "bench",
        ],
    ),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// Everything below `sys`: handed time, randomness and bytes as values, so that a simulator can decide all of them.
const PURE: &[&str] =
    &["base", "config", "proto", "chat", "auth", "web", "record", "shard", "tls", "proxy", "reactor"];

/// Where those values come from.
const WORLD: &[&[&str]] = &[
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
    &["std", "time", "UNIX_EPOCH"],
    &["std", "thread"],
    &["std", "net", "Tcp*"],
    &["std", "net", "Udp*"],
    &["std", "net", "ToSocketAddrs"],
    &["std", "os", "unix", "net"],
    &["std", "fs"],
    &["std", "env"],
    &["std", "process"],
    &["std", "hash", "RandomState"],
    &["std", "collections", "hash_map", "RandomState"],
    &["crossbeam", "channel"],
    &["core_affinity"],
    &["getrandom"],
    &["libc"],
    &["mio"],
    // Alone it is the name of a key of the configuration.
    &["redis", "*"],
    &["socket2"],
    &["rustix"],
];

/// Exceptions: the file, what it may name, and why that does no harm.
const ALLOWED: &[(&str, &[&str], &str)] = &[
    (
        "base/census.rs",
        &["std", "hash", "RandomState"],
        "keys the hash of addresses, which peers choose; nothing that anybody sees depends on it",
    ),
    (
        "base/buckets.rs",
        &["std", "hash", "RandomState"],
        "keys the hash of addresses and nicknames, which peers choose; nothing that anybody sees depends on it",
    ),
];

/// `observe` stands above `sys`, but only the files named here are of the world, for the reason given.
const OBSERVERS: &[(&str, &str)] = &[
    ("observe/logging.rs", "opens the log file, and stamps each line with the time of its writing"),
    ("observe/writer.rs", "is the thread that writes the log, so that no loop waits for a disk"),
];

/// Words of protocols and their transports, which `chat` must be able to do without.
const PROTOCOL_WORDS: &[&str] =
    &["json", "websocket", "http", "http1", "sse", "grpc", "protobuf", "telnet", "line", "frame", "socket"];

/// Names in `chat` that have such a word in them all the same, and why.
const PROTOCOL_NAMES_ALLOWED: &[(&str, &str)] =
    &[("BadJson", "one of the reasons that clients are given, `bad_json`, whatever they speak")];

/// Longer files are split: see how many things they are about.
const LINES_MAX: usize = 800;

/// A source file: where it is below `src`, and what it says.
struct File {
    path: String,
    text: String,
}

impl File {
    /// The modules that lead to it: `shard/queue.rs` is `["shard", "queue"]`.
    fn module(&self) -> Vec<String> {
        let path = self.path.strip_suffix(".rs").expect("a Rust file");
        let path = path.strip_suffix("/mod").unwrap_or(path);
        if matches!(path, "lib" | "main") { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
    }

    fn layer(&self) -> &str {
        self.path.split(['/', '.']).next().expect("split yields something")
    }

    fn paths(&self) -> Vec<source::Path> {
        source::paths(&self.text, &self.module())
    }
}

fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut pending = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                files.push(File { path: name, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 20, "the sources are elsewhere");
    files
}

/// Arrows that point up, or sideways between modules that must not meet.
fn wrong_imports(file: &File) -> Vec<String> {
    let layer = file.layer();
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("{}: no layer is called {layer}", file.path)];
    };
    let mut wrong = Vec::new();
    for path in file.paths() {
        let (Some(root), Some(target)) = (path.segments.first(), path.segments.get(1)) else { continue };
        let is_ours = root == "crate" || (root == "starling" && layer == "main");
        if is_ours && target != layer && !allowed.contains(&target.as_str()) {
            wrong.push(format!("{}:{}: {layer} may not import {target}", file.path, path.line));
        }
    }
    wrong
}

/// Clocks, random sources, sockets, files and threads where there should be none.
fn worldly(file: &File) -> Vec<String> {
    let is_pure = PURE.contains(&file.layer());
    let is_observer = file.layer() == "observe" && OBSERVERS.iter().all(|(name, _)| *name != file.path);
    if !is_pure && !is_observer {
        return Vec::new();
    }
    let mut found = Vec::new();
    for path in file.paths() {
        let is_allowed =
            |root: &[&str]| ALLOWED.iter().any(|(name, allowed, _)| *name == file.path && *allowed == root);
        for root in WORLD.iter().filter(|root| path.reaches(root) && !is_allowed(root)) {
            found.push(format!("{}:{}: names {}", file.path, path.line, root.join("::")));
        }
    }
    found
}

/// `unsafe` code outside `sys`.
fn unsafe_code(file: &File) -> Vec<String> {
    let tokens = source::tokens(&file.text);
    let is_unsafe = |token: &&source::Token| token.text == "unsafe" && file.layer() != "sys";
    tokens.iter().filter(is_unsafe).map(|token| format!("{}:{}: unsafe", file.path, token.line)).collect()
}

/// Names of `chat` that speak of a protocol.
fn protocol_names(file: &File) -> Vec<String> {
    if file.layer() != "chat" {
        return Vec::new();
    }
    let names_one = |token: &&source::Token| {
        let snake = snake_case(&token.text);
        let is_allowed = PROTOCOL_NAMES_ALLOWED.iter().any(|(name, _)| *name == token.text);
        !is_allowed && snake.split('_').any(|word| PROTOCOL_WORDS.contains(&word))
    };
    let tokens = source::tokens(&file.text);
    tokens
        .iter()
        .filter(names_one)
        .map(|token| format!("{}:{}: {}", file.path, token.line, token.text))
        .collect()
}

/// `WebSocketFrame` as `web_socket_frame`, with `web_socket` as one word.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    let mut is_after_lower = false;
    for c in name.chars() {
        if c.is_uppercase() && is_after_lower {
            snake.push('_');
        }
        is_after_lower = c.is_lowercase();
        snake.extend(c.to_lowercase());
    }
    snake.replace("web_socket", "websocket")
}

fn too_long(file: &File) -> Option<String> {
    let lines = file.text.lines().count();
    (lines > LINES_MAX).then(|| format!("{}: {lines} lines", file.path))
}

/// Files that no `mod` leads to from `lib.rs` or `main.rs`: the compiler never sees them.
fn dead(files: &[File]) -> Vec<String> {
    let mut reached: BTreeSet<String> = BTreeSet::new();
    let mut pending = vec!["lib.rs".to_owned(), "main.rs".to_owned()];
    while let Some(path) = pending.pop() {
        let Some(file) = files.iter().find(|file| file.path == path) else { continue };
        if !reached.insert(path) {
            continue;
        }
        let directory = file.module().join("/");
        let directory = if directory.is_empty() { directory } else { directory + "/" };
        for module in source::declared_modules(&file.text) {
            pending.push(format!("{directory}{module}.rs"));
            pending.push(format!("{directory}{module}/mod.rs"));
        }
    }
    files.iter().map(|file| &file.path).filter(|path| !reached.contains(*path)).cloned().collect()
}

#[track_caller]
fn assert_none(findings: impl IntoIterator<Item = String>) {
    let findings: Vec<String> = findings.into_iter().collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn no_arrow_points_up() {
    assert_none(files().iter().flat_map(wrong_imports));
}

#[test]
fn the_layers_are_a_ladder() {
    for (index, (name, allowed)) in LAYERS.iter().enumerate() {
        let below: Vec<&str> = LAYERS[..index].iter().map(|(name, _)| *name).collect();
        assert!(allowed.iter().all(|import| below.contains(import)), "{name} imports from above");
    }
    let present: BTreeSet<String> = files().iter().map(|file| file.layer().to_owned()).collect();
    let known: BTreeSet<String> = LAYERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(present, known, "a module has come or gone");
}

#[test]
fn nothing_below_sys_touches_the_world() {
    assert_none(files().iter().flat_map(worldly));
}

#[test]
fn every_exception_is_used() {
    let files = files();
    for (name, allowed, _) in ALLOWED {
        let file = files.iter().find(|file| file.path == *name).expect("the file is there");
        assert!(file.paths().iter().any(|path| path.reaches(allowed)), "{name} names {allowed:?} no more");
    }
    for (name, _) in OBSERVERS {
        let file = files.iter().find(|file| file.path == *name).expect("the file is there");
        let reaches = |path: &source::Path| WORLD.iter().any(|root| path.reaches(root));
        assert!(file.paths().iter().any(reaches), "{name} could be pure");
    }
}

#[test]
fn only_sys_is_unsafe() {
    assert_none(files().iter().flat_map(unsafe_code));
}

/// What has `unsafe` code is what scripts/sanitize runs, or docs/fuzzing.md says that it does not.
#[test]
fn what_is_unsafe_is_sanitized_or_said_not_to_be() {
    let built = include_str!("sanitize/sys.rs");
    let page = include_str!("../docs/fuzzing.md");
    let not_covered = page
        .lines()
        .find(|line| line.starts_with("Not covered: "))
        .expect("docs/fuzzing.md says what is not");
    let mut seen = 0;
    for file in files().iter().filter(|file| file.layer() == "sys") {
        if source::tokens(&file.text).iter().any(|token| token.text == "unsafe") {
            seen += 1;
            let (path, quoted) = (format!("/src/{}\"", file.path), format!("`src/{}`", file.path));
            assert!(
                built.contains(&path) || not_covered.contains(&quoted),
                "src/{} is in neither",
                file.path
            );
        }
    }
    assert!(seen > 5, "only {seen} files have unsafe code");
}

#[test]
fn chat_names_no_protocol() {
    assert_none(files().iter().flat_map(protocol_names));
}

#[test]
fn files_are_short() {
    assert_none(files().iter().filter_map(too_long));
}

#[test]
fn every_file_is_compiled() {
    assert_none(dead(&files()));
}

/// The rules, tried on sources that break them.
mod broken {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    #[track_caller]
    fn assert_wrong(path: &str, text: &str) {
        assert_eq!(wrong_imports(&file(path, text)).len(), 1, "{path}: {text}");
    }

    #[test]
    fn imports_from_above_are_found() {
        assert_wrong("base/slots.rs", "use crate::config::Limits;");
        assert_wrong("chat/room.rs", "use crate::proto::wire::Event;");
        assert_wrong("proto/json.rs", "fn f() -> crate::chat::Room { loop {} }");
        assert_wrong("shard/mod.rs", "use crate::{base::Id, reactor::{Os as Kernel}, chat::Room};");
        assert_wrong("shard/queue.rs", "use super::super::sys::kernel::Kernel;");
        assert_wrong("shard/mod.rs", "mod tests { use super::super::sys::kernel::Kernel; }");
        assert_wrong("config/mod.rs", "macro_rules! m { () => { $crate::sys::random_u64() }; }");
        assert_wrong("reactor/turn.rs", "use crate::proto::line;");
        assert_wrong("main.rs", "use starling::server;");
        assert_wrong("nests/mod.rs", "");
        assert_wrong("base/slots.rs", "use crate::*;");
    }

    #[test]
    fn imports_from_below_and_within_are_none_of_these() {
        let inside = "
            use super::{Shard, queue::SendQueue};
            use crate::base::slots::{self, Id};
            pub(crate) fn f() { /* use crate::sys; /* nested */ crate::sys::x(); */ }
            // use crate::server;
            const TEXT: &str = \"crate::sys::kernel\";
            const RAW: &str = r#\"crate::\"sys::kernel\"#;
            fn g<'a>(c: &'a char) -> bool { *c == '\"' || *c == '\\'' || *c == crate::chat::QUOTE }
            mod tests { use super::*; use super::super::mail::Mail; }
        ";
        assert_eq!(wrong_imports(&file("shard/input.rs", inside)), Vec::<String>::new());
        assert_eq!(wrong_imports(&file("main.rs", "use starling::cli;")), Vec::<String>::new());
    }

    #[test]
    fn the_world_is_found_below_sys() {
        for text in [
            "use std::time::{Duration, Instant};",
            "use std::{fmt, time};",
            "use std::time::*;",
            "fn f() { ::std::thread::yield_now(); }",
            "use std::net::{IpAddr, TcpStream};",
            "fn f(l: std::net::UdpSocket) {}",
            "use std::fs::File;",
            "fn f() { std::env::var(\"HOME\"); }",
            "fn f() { getrandom::fill(&mut []); }",
            "use mio::Poll;",
            "use libc::c_int;",
            "fn f() -> socket2::Socket { loop {} }",
            "use std::hash::{BuildHasher, RandomState};",
        ] {
            for path in ["base/wheel.rs", "reactor/turn.rs", "observe/format.rs"] {
                assert_eq!(worldly(&file(path, text)).len().min(1), 1, "{path}: {text}");
            }
            assert_eq!(worldly(&file("sys/kernel.rs", text)), Vec::<String>::new());
        }
    }

    #[test]
    fn values_are_not_the_world() {
        let text = "
            use std::net::{IpAddr, SocketAddr};
            use std::time::Duration;
            const VERSION: &str = env!(\"CARGO_PKG_VERSION\");
            fn f(time: u64, env: u64, fs: u64) -> u64 { time + env + fs }
        ";
        assert_eq!(worldly(&file("shard/mod.rs", text)), Vec::<String>::new());
        let keyed = "use std::hash::RandomState;";
        assert_eq!(worldly(&file("base/census.rs", keyed)), Vec::<String>::new());
    }

    #[test]
    fn unsafe_code_is_found() {
        let text = "fn f() { unsafe { g() } } // not unsafe, nor \"unsafe\"";
        assert_eq!(unsafe_code(&file("base/slots.rs", text)), ["base/slots.rs:1: unsafe"]);
        assert_eq!(unsafe_code(&file("sys/kernel.rs", text)), Vec::<String>::new());
        assert_eq!(unsafe_code(&file("base/slots.rs", "/// unsafe\nconst A: &str = \"unsafe\";")).len(), 0);
    }

    #[test]
    fn protocols_are_found_in_chat() {
        for text in
            ["fn put_json() {}", "struct WebSocketName;", "const HTTP_STATUS: u16 = 4;", "let frame = 1;"]
        {
            assert_eq!(protocol_names(&file("chat/room.rs", text)).len(), 1, "{text}");
            assert_eq!(protocol_names(&file("shard/http.rs", text)), Vec::<String>::new());
        }
        assert_eq!(protocol_names(&file("chat/room.rs", "fn online() { outline() }")), Vec::<String>::new());
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(too_long(&file("base/a.rs", &"\n".repeat(LINES_MAX))), None);
        assert!(too_long(&file("base/a.rs", &"\n".repeat(LINES_MAX + 1))).is_some());
    }

    #[test]
    fn dead_files_are_found() {
        let files = [
            file("lib.rs", "pub mod a;\n// mod c;\nmod d { pub fn f() {} }"),
            file("main.rs", "fn main() {}"),
            file("a/mod.rs", "mod b;"),
            file("a/b.rs", ""),
            file("c.rs", ""),
            file("a/d.rs", ""),
        ];
        assert_eq!(dead(&files), ["c.rs", "a/d.rs"]);
    }
}
