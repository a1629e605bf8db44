//! A server of the release binary, and a program to kill. Everything waits for something to happen, and for no longer than [`DEADLINE`].

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

/// How long anything may take before a test calls it missing. Far longer than needed: the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// What the program to be killed is told by.
pub const CHILD: &str = "CLIENT_TEST_CHILD";

/// What a line of its output begins with, before the number of the message that it has sent.
pub const SENT: &str = "sent ";

const KINDS: [&str; 2] = ["web", "frame"];

/// A server, which can be killed and started again, and is killed when it goes out of scope.
pub struct Server {
    child: Option<Child>,
    flags: Vec<String>,
    /// Each kind and where it is heard.
    addresses: Vec<String>,
    is_encrypted: bool,
    _data: TempDir,
}

impl Server {
    /// A server that keeps everything in memory.
    pub fn start(flags: &[&str]) -> Server {
        Server::with(&[&["--set", "store.kind=memory"], flags].concat(), false)
    }

    /// A server with a store.
    pub fn stored() -> Server {
        Server::with(&["--set", "store.kind=sqlite", "--set", "history.count=100000"], false)
    }

    /// A server with TLS, by the files of [`certificate`].
    pub fn encrypted(directory: &TempDir) -> Server {
        let path = |name| directory.path().join(name).display().to_string();
        Server::with(
            &["--set", "store.kind=memory", "--tls-cert", &path("cert.pem"), "--tls-key", &path("key.pem")],
            true,
        )
    }

    fn with(flags: &[&str], is_encrypted: bool) -> Server {
        let data = tempfile::tempdir().unwrap();
        let mut all = vec!["--data-dir".to_owned(), data.path().display().to_string()];
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let mut server = Server {
            child: None,
            flags: all,
            addresses: vec!["127.0.0.1:0".to_owned(); KINDS.len()],
            is_encrypted,
            _data: data,
        };
        server.start_again();
        server
    }

    /// Starts it where it was.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none());
        let mut command = Command::new(binary());
        // Variables of whoever runs the tests must not decide them.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"STARLING_") {
                command.env_remove(name);
            }
        }
        command.args(["serve", "--cores", "2", "--no-pin", "--set", "rate.commands_per_second=0"]);
        command.args(["--set", "drain.spread_ms=100"]).args(&self.flags);
        for (kind, address) in KINDS.iter().zip(&self.addresses) {
            command.args(["--listen".to_owned(), format!("{kind}={address}")]);
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = lines(&mut child);
        self.child = Some(child);
        for (kind, address) in KINDS.iter().zip(&mut self.addresses) {
            let line = lines.recv_timeout(DEADLINE).expect("the server tells where it listens");
            let mut words = line.split(' ').skip(1);
            assert_eq!(words.next(), Some(*kind));
            *address = words.next().unwrap().to_owned();
        }
    }

    /// Where a listener is heard.
    pub fn url(&self, kind: &str) -> String {
        let at = KINDS.iter().position(|name| *name == kind).unwrap();
        let address = &self.addresses[at];
        match (kind, self.is_encrypted) {
            ("web", false) => format!("ws://{address}/ws"),
            ("web", true) => format!("wss://{address}/ws"),
            (_, false) => format!("frame://{address}"),
            (_, true) => format!("frames://{address}"),
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and the end.
    pub fn drain(&mut self) {
        let mut child = self.child.take().unwrap();
        let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(told.success());
        child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// The server's program.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("STARLING_BIN") {
        return path.into();
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("release").join("starling");
    assert!(
        path.exists(),
        "these tests need the server at {}: run `cargo build --release`, or set STARLING_BIN",
        path.display()
    );
    path
}

fn lines(child: &mut Child) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    let stdout = child.stdout.take().unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

/// A certificate for 127.0.0.1 that nobody has signed but itself: its directory, and its file.
pub fn certificate() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let pem = directory.path().join("cert.pem");
    std::fs::write(&pem, signed.cert.pem()).unwrap();
    std::fs::write(directory.path().join("key.pem"), signed.signing_key.serialize_pem()).unwrap();
    (directory, pem)
}

/// Runs one test of this program as another process, and kills it when it has sent so many messages. How many it says it has sent.
pub fn run_and_kill(test: &str, argument: &str, messages: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, argument)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = lines(&mut child);
    let mut sent = 0;
    // What the test's own frame says is of no interest; its first line may stand before a first number.
    while sent < messages {
        let line = lines.recv_timeout(DEADLINE).expect("the program sends");
        sent += u64::from(line.contains(SENT));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    sent + lines.iter().filter(|line| line.contains(SENT)).count() as u64
}
