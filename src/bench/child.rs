//! A server of one's own to measure: `starling serve` on free ports, which ends with the run.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::sys::{signals, threads};

/// How long the server may take to listen, and to end.
const START_MAX: Duration = Duration::from_secs(10);
const END_MAX: Duration = Duration::from_secs(5);

/// A server that runs. It is ended when this goes.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens, by the listener's kind.
    pub addresses: BTreeMap<String, SocketAddr>,
    /// The arguments that it was started with, but for those that were given: they may be secrets.
    pub arguments: Vec<String>,
    /// Where it keeps what it keeps, unless somebody has said where: goes with it.
    data: PathBuf,
    /// As long as this is here, the thread is that started it.
    _keeper: mpsc::Sender<()>,
}

/// What it listens for.
const LISTENERS: [&str; 4] = ["web", "line", "frame", "grpc"];

impl Server {
    /// Starts one, on these processors. `flags` come last.
    ///
    /// # Errors
    /// One line on why it did not start.
    pub fn start(cores: usize, cpus: &[usize], flags: &[String]) -> Result<Server, String> {
        let program =
            std::env::current_exe().map_err(|why| format!("cannot find this program's own file: {why}"))?;
        let mut arguments: Vec<String> =
            LISTENERS.iter().fold(vec!["serve".to_owned()], |mut arguments, kind| {
                arguments.extend([format!("--{kind}"), "127.0.0.1:0".to_owned()]);
                arguments
            });
        arguments.extend(["--cores".into(), cores.to_string()]);
        // Nobody's chat, and nothing of an earlier run.
        let name = format!("starling-bench-{}-{:08x}", std::process::id(), crate::sys::random_u64() as u32);
        let data = std::env::temp_dir().join(name);
        if !flags.iter().any(|flag| flag.starts_with("--data-dir")) {
            arguments.extend(["--data-dir".into(), data.display().to_string()]);
        }
        // A load generator is a flood by design; and what is measured is the server, where the flags do not say that it is the disk.
        for setting in ["rate.commands_per_second=0", "store.kind=memory"] {
            arguments.extend(["--set".into(), setting.into()]);
        }
        let mut command = Command::new(program);
        command
            .args(&arguments)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        // Its log would be mixed into what is told here; what is wrong it tells before.
        if !flags.iter().any(|flag| flag.starts_with("--log-level")) {
            command.args(["--log-level", "error"]);
        }
        // A Ctrl-C is for this process, which then ends the server itself.
        command.process_group(0);
        signals::unblock_in(&mut command);
        signals::end_with_spawner(&mut command);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"STARLING_") {
                command.env_remove(name);
            }
        }
        let (mut child, keeper) = spawn_on(command, cpus)?;
        let stdout = child.stdout.take().expect("piped");
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let mut server = Server { child, addresses: BTreeMap::new(), arguments, data, _keeper: keeper };
        let deadline = Instant::now() + START_MAX;
        while server.addresses.len() < LISTENERS.len() {
            let line = told
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
                .map_err(|_| "the server did not start; its own words are above".to_owned())?;
            let line = line.strip_suffix(" tls").unwrap_or(&line);
            let said = line.strip_prefix("listening ").and_then(|rest| rest.split_once(' '));
            if let Some((kind, address)) = said.and_then(|(kind, at)| Some((kind, at.parse().ok()?))) {
                server.addresses.insert(kind.to_owned(), address);
            }
        }
        Ok(server)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = signals::ask_to_stop(self.child.id());
        let deadline = Instant::now() + END_MAX;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                let _ = std::fs::remove_dir_all(&self.data);
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

/// Starts a program that may run on these processors only; on all if there are none. A process inherits that from the thread
/// that makes it.
fn spawn_on(mut command: Command, cpus: &[usize]) -> Result<(Child, mpsc::Sender<()>), String> {
    let cpus = cpus.to_vec();
    let (tell, told) = mpsc::channel();
    let (keeper, kept) = mpsc::channel::<()>();
    let spawned = threads::spawn("spawn".into(), move || {
        let restricted = if cpus.is_empty() { Ok(()) } else { threads::restrict(&cpus) };
        let _ = tell.send(restricted.and_then(|()| command.spawn()));
        // The server ends with this thread.
        let _ = kept.recv();
    });
    let child = spawned.and_then(|_| {
        told.recv().unwrap_or_else(|_| Err(std::io::Error::other("the thread that starts it failed")))
    });
    child.map(|child| (child, keeper)).map_err(|why| format!("cannot start the server: {why}"))
}
