//! The log: lines to standard error and to a file, without ever making the caller wait.
//!
//! A loop that blocks because a terminal is paused or a disk is full serves nobody. So a caller only makes the
//! message and puts it into a bounded queue; each sink has a queue and a thread of its own, and one that is stuck
//! delays neither the callers nor the other. What does not fit is left out, counted, and told in the log itself. What is wanted at all
//! is decided before, and how often one place may warn: `repeats`.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam::channel::Sender;
use simplelog::{CombinedLogger, SharedLogger};

use super::format::{Entry, Field, Style};
use super::repeats::{Repeats, Verdict};
use super::writer::{Counts, Output, Writer, spawn_writer};
use crate::config::{self, LogFilter};
use crate::sys::files;

/// The log's writers. Dropping it stops them without waiting; [`Logging::finish`] waits.
#[derive(Debug)]
pub struct Logging {
    writers: Vec<Writer>,
    control: Control,
}

/// What can be changed of a log that runs, from any thread.
#[derive(Debug, Clone)]
pub struct Control {
    /// What is logged.
    filter: Arc<ArcSwap<LogFilter>>,
    /// How often one place may warn.
    repeats: Arc<Repeats>,
    /// The lines that each sink has left out.
    counts: Vec<Arc<Counts>>,
    /// Whether the file is to be opened again, if there is one.
    reopens: Option<Arc<AtomicBool>>,
}

impl Control {
    fn new(config: &config::Log) -> Self {
        Control {
            filter: Arc::new(ArcSwap::from_pointee(config.level.clone())),
            repeats: Arc::new(Repeats::new(config.repeats)),
            counts: Vec::new(),
            reopens: config.file.is_some().then(Arc::default),
        }
    }

    /// Decides what is logged from now on.
    pub fn set(&self, config: &config::Log) {
        self.filter.store(Arc::new(config.level.clone()));
        self.repeats.set_most(config.repeats);
        log::set_max_level(config.level.most());
    }

    /// Lines left out since the start, all sinks together: those that found a full queue, and those that could not
    /// be written.
    pub fn left_out(&self) -> u64 {
        self.counts.iter().map(|counts| counts.left_out()).sum()
    }

    /// Lines left out since the start because their place had logged enough.
    pub fn suppressed(&self) -> u64 {
        self.repeats.suppressed()
    }

    /// Has the next line go to the file that then has the name, and whether there is a file: for `logrotate`, which has moved the one
    /// before away. Whether it could be opened is told by the log itself: the thread that writes finds it out.
    pub fn reopen(&self) -> bool {
        self.reopens.as_ref().inspect(|reopens| reopens.store(true, Ordering::Relaxed)).is_some()
    }
}

impl Logging {
    /// What can be changed of it.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Writes what is queued and stops, but waits no longer than `within`. Whether all of it was handed over.
    pub fn finish(self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        // All are told to stop before the first is waited for, so that a stuck one does not use up the others' time.
        let stopping: Vec<_> = self.writers.into_iter().map(Writer::stop).collect();
        stopping.into_iter().all(|ended| ended.wait(deadline))
    }
}

/// Starts the log of this process; its file is opened by `opens`. The error is one line for a person: the file cannot be opened.
pub fn start(
    config: &config::Log,
    queue_lines: usize,
    opens: impl FnOnce(&Path) -> io::Result<File>,
) -> Result<Logging, String> {
    let is_coloured =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut sinks: Vec<Box<dyn SharedLogger>> = Vec::new();
    let mut writers = Vec::new();
    let mut control = Control::new(config);
    let mut add = |name, output, is_coloured| {
        let style = Style { format: config.format, is_coloured };
        let (queue, writer) = spawn_writer(name, output, style, queue_lines)
            .map_err(|error| format!("cannot start the log's thread: {error}"))?;
        sinks.push(Box::new(Sink { queue, counts: writer.counts().clone() }));
        writers.push(writer);
        Ok::<_, String>(())
    };
    add("log-stderr", Box::new(io::stderr()) as Box<dyn Output>, is_coloured)?;
    if let Some(path) = &config.file {
        let reopens = control.reopens.clone().unwrap_or_default();
        let file = opens(path)
            .map(|file| LogFile { path: path.clone(), file: Some(file), is_fresh: true, reopens })
            .map_err(|error| format!("cannot open the log file {}: {error}", path.display()))?;
        add("log-file", Box::new(file), false)?;
    }
    control.counts = writers.iter().map(|writer: &Writer| writer.counts().clone()).collect();
    let front = Front::new(&control, sinks);
    log::set_boxed_logger(Box::new(front)).map_err(|_| "the log was started before".to_owned())?;
    control.set(config);
    Ok(Logging { writers, control })
}

/// What stands before the sinks: decides what is logged.
struct Front {
    filter: Arc<ArcSwap<LogFilter>>,
    repeats: Arc<Repeats>,
    started: Instant,
    sinks: Box<CombinedLogger>,
}

impl Front {
    fn new(control: &Control, sinks: Vec<Box<dyn SharedLogger>>) -> Self {
        let (filter, repeats) = (control.filter.clone(), control.repeats.clone());
        Front { filter, repeats, started: Instant::now(), sinks: CombinedLogger::new(sinks) }
    }

    /// Counts a line, if it is of a kind that peers may provoke without end.
    fn count(&self, record: &log::Record<'_>) -> Verdict {
        match (record.level() <= log::Level::Warn, record.file_static(), record.line()) {
            (true, Some(file), Some(line)) => {
                let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.repeats.count((file, line), now_ms)
            }
            _ => Verdict::Log { left_out: 0, seconds: 0 },
        }
    }
}

impl log::Log for Front {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= self.filter.load().level_of(metadata.target())
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        match self.count(record) {
            Verdict::Log { left_out: 0, .. } => self.sinks.log(record),
            Verdict::Log { left_out, seconds } => {
                let (message, mut record) = (record.args(), record.to_builder());
                self.sinks.log(
                    &record
                        .args(format_args!("{message} (and {left_out} more like it in {seconds} s)"))
                        .build(),
                );
            }
            Verdict::LeaveOut => {}
        }
    }

    /// Nothing: waiting here could make a loop wait. [`Logging::finish`] is for the end.
    fn flush(&self) {}
}

/// The calling side of one sink.
struct Sink {
    queue: Sender<Entry>,
    counts: Arc<Counts>,
}

impl log::Log for Sink {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // A message costs its making, so a queue that is full anyway is asked first.
        if self.queue.is_full() {
            self.counts.leave_out(1);
            return;
        }
        let mut message = Bounded(String::new());
        // An error means that the bound was reached, or that a value cannot show itself; what there is goes out.
        let _ = write!(message, "{}", record.args());
        let mut fields = Fields(Vec::new());
        let _ = record.key_values().visit(&mut fields); // it ends with the last that has place
        let entry = Entry {
            time_ms: wall_ms(),
            level: record.level(),
            target: record.target().to_owned(),
            message: message.0,
            fields: fields.0,
        };
        if self.queue.try_send(entry).is_err() {
            self.counts.leave_out(1);
        }
    }

    /// Nothing: waiting here could make a loop wait. [`Logging::finish`] is for the end.
    fn flush(&self) {}
}

impl SharedLogger for Sink {
    /// All that there is: which of it is logged may change.
    fn level(&self) -> log::LevelFilter {
        log::LevelFilter::Trace
    }

    fn config(&self) -> Option<&simplelog::Config> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn log::Log> {
        self
    }
}

/// Bytes of one message: more than any line of ours, so that what a peer sent and a line quotes stays bounded, and
/// with it the queue.
const MESSAGE_BYTES_MAX: usize = 4096;

/// A text that ends in dots where it grew too long.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MESSAGE_BYTES_MAX.saturating_sub(self.0.len());
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        self.0.push_str(&text[..end]);
        self.0.push_str("...");
        Err(fmt::Error)
    }
}

/// How many fields a line may have: more than any line of ours.
const FIELDS_MAX: usize = 16;

/// What a line says of its connection, request and so on, each by a name.
struct Fields(Vec<(String, Field)>);

impl<'kvs> log::kv::VisitSource<'kvs> for Fields {
    fn visit_pair(
        &mut self,
        key: log::kv::Key<'kvs>,
        value: log::kv::Value<'kvs>,
    ) -> Result<(), log::kv::Error> {
        if self.0.len() >= FIELDS_MAX {
            return Err(log::kv::Error::msg("too many fields"));
        }
        let field = value.to_u64().map_or_else(
            || {
                let mut text = Bounded(String::new());
                let _ = write!(text, "{value}");
                Field::Text(text.0)
            },
            Field::Number,
        );
        self.0.push((key.to_string(), field));
        Ok(())
    }
}

/// Milliseconds since the Unix epoch. Read here and not at the start of a turn: a line tells when it was written.
pub(super) fn wall_ms() -> u64 {
    crate::sys::unix_ms()
}

/// A file to append to, opened again after an error: a full disk may have room later, a lost mount may come back. One that cannot be
/// opened when it was only to be opened again does not take the one before from us.
struct LogFile {
    path: PathBuf,
    file: Option<File>,
    /// Whether nothing has been written to it yet since it was opened: what is there, others have written.
    is_fresh: bool,
    /// Whether it is to be opened again, because another file may have its name.
    reopens: Arc<AtomicBool>,
}

impl LogFile {
    #[cfg(test)]
    fn open(path: PathBuf, reopens: Arc<AtomicBool>) -> io::Result<Self> {
        let mut log_file = Self { path, file: None, is_fresh: true, reopens };
        log_file.opened()?;
        Ok(log_file)
    }

    fn opened(&mut self) -> io::Result<&mut File> {
        match &mut self.file {
            Some(file) => Ok(file),
            empty => {
                self.is_fresh = true;
                Ok(empty.insert(files::open_appending(&self.path)?))
            }
        }
    }

    /// Leaves the file that it has for the one that has its name now, if that can be had.
    fn reopen(&mut self) {
        let path = self.path.display();
        match files::open_appending(&self.path) {
            Ok(file) => {
                self.file = Some(file);
                self.is_fresh = true;
                log::info!("the log file {path} has been opened again");
            }
            // It is tried with each line, and told by whoever writes it.
            Err(_) if self.file.is_none() => {}
            Err(error) => log::error!(
                "the log file {path} cannot be opened again ({error}): the log goes on in the one before, until the next signal"
            ),
        }
    }
}

impl Output for LogFile {
    /// A file that was opened again may be another one, or have been emptied: it is looked at.
    fn begin(&mut self, is_torn: bool) -> io::Result<bool> {
        if self.reopens.swap(false, Ordering::Relaxed) {
            self.reopen();
        }
        self.opened()?;
        let is_fresh = std::mem::take(&mut self.is_fresh);
        Ok(match &self.file {
            Some(file) if is_torn || is_fresh => files::ends_within_line(file, &self.path).unwrap_or(is_torn),
            _ => false,
        })
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.opened()?.write(bytes);
        match result.as_ref().map_err(io::Error::kind) {
            Ok(_) | Err(io::ErrorKind::Interrupted) => {}
            // A FIFO whose reader has stopped: it is waited for, but not by whoever wants another file.
            Err(io::ErrorKind::WouldBlock) if self.reopens.load(Ordering::Relaxed) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "its reader does not read"));
            }
            Err(io::ErrorKind::WouldBlock) => {}
            Err(_) => self.file = None,
        }
        result
    }

    /// Nothing is held back: each write is a write(2).
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use log::Log as _;

    use super::*;
    use crate::config::{Config, LogFormat};

    const STYLE: Style = Style { format: LogFormat::Text, is_coloured: false };

    fn sink(output: Box<dyn Output>, lines: usize) -> (Sink, Logging) {
        let (queue, writer) = spawn_writer("log-test", output, STYLE, lines).unwrap();
        let mut control = Control::new(&Config::default().log);
        control.counts.push(writer.counts().clone());
        let sink = Sink { queue, counts: writer.counts().clone() };
        (sink, Logging { writers: vec![writer], control })
    }

    fn say(sink: &Sink, text: &str) {
        let record = log::Record::builder();
        sink.log(&{ record }.level(log::Level::Info).target("test").args(format_args!("{text}")).build());
    }

    #[test]
    fn lines_reach_the_file_and_are_appended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        for round in ["one", "two"] {
            let (sink, logging) = sink(Box::new(LogFile::open(path.clone(), Arc::default()).unwrap()), 16);
            say(&sink, round);
            assert!(logging.finish(Duration::from_secs(10)));
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].ends_with("Z INFO  test: one"), "{text}");
        assert!(lines[1].ends_with("Z INFO  test: two"), "{text}");
    }

    /// What a FIFO holds (pipe(7)).
    const PIPE_BYTES: usize = 65_536;

    #[test]
    fn whoever_has_stopped_reading_holds_no_other_file_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        // Full: whatever is written behind this waits.
        let mut reader = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        reader.write_all(&vec![b'x'; PIPE_BYTES]).unwrap();
        let reopens = Arc::new(AtomicBool::new(false));
        let (sink, logging) = sink(Box::new(LogFile::open(path.clone(), reopens.clone()).unwrap()), 10_000);
        say(&sink, "for whoever reads no more");
        while !sink.queue.is_empty() {
            std::thread::yield_now();
        }
        std::fs::remove_file(&path).unwrap();
        reopens.store(true, Ordering::Relaxed);
        let until = Instant::now() + Duration::from_secs(20);
        let written = || std::fs::read_to_string(&path).unwrap_or_default();
        while !written().contains("another file") {
            assert!(Instant::now() < until, "nothing is written");
            say(&sink, "another file");
            std::thread::yield_now();
        }
        assert!(logging.finish(Duration::from_secs(10)));
    }

    /// An output that takes nothing until the other end of the channel is gone.
    struct Stuck(crossbeam::channel::Receiver<()>);

    impl Output for Stuck {
        fn begin(&mut self, is_torn: bool) -> io::Result<bool> {
            Ok(is_torn)
        }
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_sink_delays_neither_the_caller_nor_the_other_sink() {
        const LINES: usize = 1000;
        const QUEUE_LINES: usize = 8;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        let (release, wait) = crossbeam::channel::bounded(0);
        let (stuck, mut logging) = sink(Box::new(Stuck(wait)), QUEUE_LINES);
        let (healthy, other) = sink(Box::new(LogFile::open(path.clone(), Arc::default()).unwrap()), LINES);
        logging.writers.extend(other.writers);
        let control = logging.control();
        let combined = CombinedLogger::new(vec![Box::new(stuck), Box::new(healthy)]);
        // It returns at all: a caller that waited for the stuck sink would never get to the end.
        for number in 0..LINES {
            let mut builder = log::Record::builder();
            combined.log(&builder.level(log::Level::Info).args(format_args!("line {number}")).build());
        }
        // The thread may have taken a batch before it got stuck.
        let left_out = control.left_out() as usize;
        assert!((1..=LINES - QUEUE_LINES).contains(&left_out), "{left_out}");
        let begin = Instant::now();
        assert!(!logging.finish(Duration::from_millis(200)), "the stuck one cannot have finished");
        assert!(begin.elapsed() < Duration::from_secs(5));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), LINES);
        drop(release);
    }

    /// What stands in the file after some lines, which a front that knows this filter lets through or does not.
    fn logged(filter: &str, repeats: u64, say: impl Fn(&Front, &Control)) -> (String, Control) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        let (sink, logging) = sink(Box::new(LogFile::open(path.clone(), Arc::default()).unwrap()), 1000);
        let control = logging.control();
        let file = format!("[log]\nlevel = {filter:?}\nrepeats = {repeats}\n");
        let config =
            Config::resolve(Some(("a.toml", &file)), std::iter::empty(), &Default::default()).unwrap();
        control.filter.store(Arc::new(config.log.level.clone()));
        control.repeats.set_most(repeats);
        say(&Front::new(&control, vec![Box::new(sink)]), &control);
        assert!(logging.finish(Duration::from_secs(10)));
        (std::fs::read_to_string(&path).unwrap(), control)
    }

    #[test]
    fn a_level_below_that_of_its_module_is_not_logged() {
        let (text, _) = logged("warn,starling::cluster=debug", 0, |log, _| {
            for (target, level) in [
                ("starling::cluster::link", log::Level::Debug),
                ("starling::cluster::link", log::Level::Trace),
                ("starling::server", log::Level::Info),
                ("starling::server", log::Level::Warn),
            ] {
                let mut record = log::Record::builder();
                record.target(target).level(level);
                log.log(&record.args(format_args!("said")).build());
            }
        });
        let lines: Vec<_> = text.lines().map(|line| &line["2026-11-29T00:00:00.000Z ".len()..]).collect();
        assert_eq!(lines, ["DEBUG starling::cluster::link: said", "WARN  starling::server: said"]);
    }

    #[test]
    fn what_one_place_says_too_often_is_counted_and_told_by_its_next_line() {
        let (text, control) = logged("debug", 3, |log, control| {
            let conn = ("conn", "0.1.2");
            let say = |level: log::Level| {
                let mut record = log::Record::builder();
                record.level(level).target("starling::server").key_values(&conn);
                record.file_static(Some("src/server.rs")).line(Some(1));
                log.log(&record.args(format_args!("again")).build());
            };
            for _ in 0..10 {
                say(log::Level::Warn);
                say(log::Level::Info);
            }
            control.repeats.set_most(0);
            say(log::Level::Warn);
        });
        let warned: Vec<_> = text.lines().filter(|line| line.contains(" WARN ")).collect();
        assert_eq!(warned.len(), 4, "{text}");
        assert!(warned[2].ends_with("starling::server: again conn=0.1.2"), "{text}");
        assert!(warned[3].ends_with("again (and 7 more like it in 0 s) conn=0.1.2"), "{text}");
        assert_eq!(
            text.lines().filter(|line| line.contains(" INFO ")).count(),
            10,
            "only warnings and errors are counted"
        );
        assert_eq!(control.suppressed(), 7);
    }

    /// As the thread writes that knows no more than this of what is torn.
    fn append_to(file: &mut LogFile, is_torn: bool, text: &str) {
        if file.begin(is_torn).unwrap() {
            file.write_all(b"\n").unwrap();
        }
        file.write_all(text.as_bytes()).unwrap();
    }

    fn append(file: &mut LogFile, text: &str) {
        append_to(file, false, text);
    }

    #[test]
    fn a_torn_line_is_ended_in_the_file_that_it_is_in_and_in_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let [path, moved] = ["a.log", "a.log.1"].map(|name| directory.path().join(name));
        std::fs::write(&path, "of a process that was kill").unwrap();
        let reopens = Arc::new(AtomicBool::new(false));
        let mut file = LogFile::open(path.clone(), reopens.clone()).unwrap();
        append(&mut file, "one\n");
        append(&mut file, "tw");
        // As after a disk that was full: opened again, and nobody knows which file it is.
        file.file = None;
        append_to(&mut file, true, "three\nfo");
        assert_eq!(std::fs::read(&path).unwrap(), b"of a process that was kill\none\ntw\nthree\nfo");
        std::fs::rename(&path, &moved).unwrap();
        // Within a line it stays where it is.
        reopens.store(true, Ordering::Relaxed);
        file.write_all(b"u").unwrap();
        append_to(&mut file, true, "five\n");
        assert!(std::fs::read_to_string(&moved).unwrap().ends_with("three\nfou"));
        assert_eq!(std::fs::read(&path).unwrap(), b"five\n");
        // Whoever copies a log and empties it.
        append(&mut file, "si");
        std::fs::write(&path, "").unwrap();
        append_to(&mut file, true, "seven\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"seven\n");
    }

    #[test]
    fn a_lost_file_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = LogFile::open(directory.path().join("a.log"), Arc::default()).unwrap();
        file.file = None;
        append(&mut file, "again\n");
        assert_eq!(std::fs::read(directory.path().join("a.log")).unwrap(), b"again\n");
        assert!(LogFile::open(directory.path().join("missing").join("a.log"), Arc::default()).is_err());
    }

    #[test]
    fn a_file_that_was_moved_away_is_left_when_that_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let [path, moved] = ["a.log", "a.log.1"].map(|name| directory.path().join(name));
        let mut config = Config::default().log;
        config.file = Some(path.clone());
        let control = Control::new(&config);
        let mut file = LogFile::open(path.clone(), control.reopens.clone().unwrap()).unwrap();
        append(&mut file, "one\n");
        std::fs::rename(&path, &moved).unwrap();
        append(&mut file, "two\n");
        assert!(control.reopen());
        append(&mut file, "three\n");
        assert_eq!(std::fs::read(&moved).unwrap(), b"one\ntwo\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
        assert!(!Control::new(&Config::default().log).reopen());
    }

    #[test]
    fn a_file_that_cannot_be_opened_again_is_kept_until_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let [home, away] = ["logs", "moved"].map(|name| directory.path().join(name));
        std::fs::create_dir(&home).unwrap();
        let mut config = Config::default().log;
        config.file = Some(home.join("a.log"));
        let control = Control::new(&config);
        let mut file = LogFile::open(home.join("a.log"), control.reopens.clone().unwrap()).unwrap();
        std::fs::rename(&home, &away).unwrap();
        assert!(control.reopen());
        append(&mut file, "one\n");
        std::fs::create_dir(&home).unwrap();
        // It is not tried with every line.
        append(&mut file, "two\n");
        assert!(control.reopen());
        append(&mut file, "three\n");
        assert_eq!(std::fs::read(away.join("a.log")).unwrap(), b"one\ntwo\n");
        assert_eq!(std::fs::read(home.join("a.log")).unwrap(), b"three\n");
    }

    #[test]
    fn a_long_message_is_cut_at_a_letter() {
        let mut message = Bounded(String::new());
        assert!(write!(message, "a{}", "ü".repeat(MESSAGE_BYTES_MAX)).is_err());
        assert_eq!(message.0.len(), MESSAGE_BYTES_MAX - 1 + "...".len());
        assert!(message.0.ends_with("ü..."));
    }
}
