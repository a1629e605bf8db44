//! Redis servers of the test's own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// How often a port that somebody else has taken meanwhile is replaced by another.
const TRIES: usize = 10;

/// A server, which ends with this.
pub struct Server {
    pub directory: TempDir,
    pub port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// One that listens on a path and a port, and keeps nothing unless the arguments say so.
    pub fn start(arguments: &[&str]) -> Self {
        let mut server = Server {
            directory: tempfile::tempdir().unwrap(),
            port: 0,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            child: None,
        };
        assert!((0..TRIES).any(|_| {
            server.port = free_port();
            server.run()
        }));
        server
    }

    /// Starts it again, where it was.
    pub fn restart(&mut self) {
        assert!(self.run(), "the port has been taken");
    }

    fn run(&mut self) -> bool {
        let mut child = Command::new("redis-server")
            .current_dir(self.directory.path())
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(["--unixsocket", "redis.sock", "--daemonize", "no", "--enable-debug-command", "yes"])
            .args(&self.arguments)
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .expect("redis-server: scripts/setup installs it");
        let mut log = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let is_ready = loop {
            line.clear();
            if log.read_line(&mut line).unwrap() == 0 {
                break false;
            }
            if line.contains("eady to accept connections") {
                break true;
            }
        };
        // What it says later is not waited for, but must be read.
        let path = self.directory.path().join("log");
        std::thread::spawn(move || std::io::copy(&mut log, &mut File::create(path).unwrap()));
        self.child = Some(child);
        if !is_ready {
            self.kill();
        }
        is_ready
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGSTOP, SIGCONT.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: a plain call, for a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.pid() as libc::pid_t, signal) }, 0);
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// By its path.
    pub fn url(&self) -> String {
        format!("unix://{}", self.path().display())
    }

    pub fn tcp_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn connect(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// Has it carry out a command, whose words have no spaces.
    pub fn ask<T: redis::FromRedisValue>(&self, command: &str) -> T {
        self.ask_all(&command.split(' ').collect::<Vec<_>>())
    }

    pub fn ask_all<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| _ = command.arg(*word));
        command.query(&mut self.connect()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
