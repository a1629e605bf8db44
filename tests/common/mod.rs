//! A server to test against, and clients of it. Everything waits for something to happen, and for no longer than
//! [`DEADLINE`].

#![allow(dead_code)] // each test program uses what it needs

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

/// How long anything may take before a test calls it missing. Far longer than needed: the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A running server, which is killed when it goes out of scope.
pub struct Server {
    child: Child,
    /// The address of HTTP and WebSocket.
    pub web: SocketAddr,
    /// The address of text and JSON lines.
    pub line: SocketAddr,
    #[allow(dead_code)]
    /// Where binary frames are heard.
    pub frame: SocketAddr,
    log: Arc<Log>,
}

/// What the server has written to standard error.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    has_grown: Condvar,
}

impl Server {
    /// A server with these flags besides its addresses.
    pub fn start(flags: &[&str]) -> Self {
        Self::launch(Command::new(env!("CARGO_BIN_EXE_starling")), flags)
    }

    /// A server that may have `files` open files, a process or a core, as it can arrange.
    pub fn with_files(files: usize, flags: &[&str]) -> Self {
        Self::launch(limited(files, env!("CARGO_BIN_EXE_starling").as_ref()), flags)
    }

    fn launch(mut command: Command, flags: &[&str]) -> Self {
        // Variables of whoever runs the tests must not decide them.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"STARLING_") {
                command.env_remove(name);
            }
        }
        // Not pinned: several servers run at a time, and all would be pinned to the same first core.
        command.args(["serve", "--web", "127.0.0.1:0", "--line", "127.0.0.1:0", "--frame", "127.0.0.1:0"]);
        command.args(["--grpc", "127.0.0.1:0"]);
        // What is tried here goes faster than people do; a test of the limits sets its own.
        command
            .args(["--no-pin", "--set", "rate.commands_per_second=0", "--set", "store.kind=memory"])
            .args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Log::default());
        let (stderr, grown) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                grown.lines.lock().unwrap().push(line);
                grown.has_grown.notify_all();
            }
        });
        let (announce, announced) = mpsc::channel();
        let stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = announce.send(line);
            }
        });
        let mut addresses = [("web", None), ("line", None), ("frame", None), ("grpc", None)];
        while addresses.iter().any(|(_, address)| address.is_none()) {
            let Ok(line) = announced.recv_timeout(DEADLINE) else {
                let _ = child.kill();
                panic!("the server did not start: {:?}", log.lines.lock().unwrap());
            };
            let said = line.strip_prefix("listening ").and_then(|rest| rest.split_once(' '));
            let (kind, address) = said.unwrap_or_else(|| panic!("not an address: {line}"));
            let (_, known) = addresses.iter_mut().find(|(name, _)| *name == kind).expect("a known kind");
            *known = Some(address.parse().expect("an address"));
        }
        let [(_, web), (_, line), (_, frame), _] = addresses;
        Server { child, web: web.unwrap(), line: line.unwrap(), frame: frame.unwrap(), log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first line of the log with `part` in it, waited for.
    #[track_caller]
    pub fn logged(&self, part: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{part:?} was not logged, but {lines:#?}");
            lines = self.log.has_grown.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// How many lines of the log so far have `part` in them.
    pub fn count_logged(&self, part: &str) -> usize {
        self.log.lines.lock().unwrap().iter().filter(|line| line.contains(part)).count()
    }

    /// Memory in use, in KiB.
    pub fn resident_kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Whether the cores have descriptor tables of their own; where the kernel or a sandbox does not permit that, the
    /// server says so.
    pub fn has_own_tables(&self) -> bool {
        let line = self.logged("open");
        let is_shared = line.contains("share one table");
        assert!(is_shared || line.contains("connections a core (open-file limit)"), "{line}");
        !is_shared
    }

    /// Asks the server to stop, and says how it did.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        let asked = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().unwrap();
        assert!(asked.success());
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server did not stop: {:#?}", self.log.lines.lock());
            std::thread::sleep(Duration::from_millis(5)); // wait(2) has no timeout
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let lines = self.log.lines.lock().unwrap();
            let last = lines.len().saturating_sub(20);
            eprintln!("the server's last lines: {:#?}", &lines[last..]);
        }
    }
}

/// A program that may have `files` open files.
pub fn limited(files: usize, program: &std::ffi::OsStr) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\"")]).arg(program);
    command
}

/// Somebody on the line listener.
pub struct Client {
    lines: BufReader<TcpStream>,
}

impl Client {
    /// Connects. Fails where the kernel has no room for one more that waits.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::from_stream(TcpStream::connect_timeout(&address, DEADLINE)?)
    }

    pub fn from_stream(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Client { lines: BufReader::with_capacity(1024, stream) })
    }

    /// A person who is in the lobby.
    #[track_caller]
    pub fn person(address: SocketAddr, nickname: &str) -> Self {
        let mut client = Client::connect(address).unwrap();
        client.say(nickname);
        client.expect("* joined lobby");
        client
    }

    /// A program that is in `room`.
    #[track_caller]
    pub fn program(address: SocketAddr, nickname: &str, room: &str) -> Self {
        Self::connect(address).unwrap().into_program(nickname, room)
    }

    #[track_caller]
    pub fn into_program(mut self, nickname: &str, room: &str) -> Self {
        self.say(&format!(
            "{{\"type\":\"hello\",\"nickname\":\"{nickname}\"}}\n{{\"type\":\"join\",\"room\":\"{room}\"}}"
        ));
        self.expect("\"type\":\"joined\"");
        self
    }

    #[track_caller]
    pub fn say(&mut self, line: &str) {
        self.send(format!("{line}\n").as_bytes());
    }

    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.lines.get_mut().write_all(bytes).unwrap();
    }

    /// The next line, without its end; `None` at the end of input. Fails with `WouldBlock` when none comes.
    pub fn next_line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let bytes = self.lines.read_line(&mut line)?;
        Ok((bytes > 0).then(|| line.trim_end_matches('\n').to_owned()))
    }

    #[track_caller]
    pub fn line(&mut self) -> String {
        self.next_line().unwrap().expect("one more line")
    }

    /// Reads on until a line has `part` in it.
    #[track_caller]
    pub fn expect(&mut self, part: &str) -> String {
        loop {
            let line = self.next_line().unwrap();
            let line = line.unwrap_or_else(|| panic!("the input ended before {part:?}"));
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Everything until the end of input.
    pub fn rest(&mut self) -> io::Result<String> {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).map(|_| rest)
    }

    pub fn stream(&self) -> &TcpStream {
        self.lines.get_ref()
    }
}

/// Tries until it is so.
#[track_caller]
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5)); // between attempts, which cost the server something
    }
}
