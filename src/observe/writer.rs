//! The thread behind one sink of the log: takes entries from the queue and writes them, in batches.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::threads;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use crossbeam::select;

use super::format::{Entry, Style};
use super::logging::wall_ms;

/// Lines that did not make it.
#[derive(Debug, Default)]
pub(super) struct Counts {
    left_out: AtomicU64,
    /// Those of them that the log has not told of yet.
    untold: AtomicU64,
}

impl Counts {
    /// Lines left out since the start.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Counts lines that are left out.
    pub fn leave_out(&self, lines: u64) {
        self.left_out.fetch_add(lines, Ordering::Relaxed);
        self.untold.fetch_add(lines, Ordering::Relaxed);
    }
}

/// The handle of a writer's thread.
#[derive(Debug)]
pub(super) struct Writer {
    counts: Arc<Counts>,
    /// Nothing is ever sent: dropping it asks the thread to stop.
    stop: Sender<()>,
    /// Nothing is ever sent: it is disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl Writer {
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Asks the thread to write what is queued, and to end.
    pub fn stop(self) -> Ended {
        drop(self.stop);
        Ended(self.ended)
    }
}

/// A writer that was asked to stop.
#[derive(Debug)]
pub(super) struct Ended(Receiver<()>);

impl Ended {
    /// Waits for its end, at most until `deadline`; whether it came.
    pub fn wait(self, deadline: Instant) -> bool {
        // A thread that is stuck in a write cannot be joined with a deadline, so it is left behind.
        self.0.recv_deadline(deadline) == Err(RecvTimeoutError::Disconnected)
    }
}

/// Where the lines of a sink go.
pub(super) trait Output: Write + Send {
    /// Called before lines are written, never within one, so that an output may be changed for another here. `is_torn` is whether the last
    /// write ended within a line; what comes back, whether the lines that come now go behind a part of one.
    fn begin(&mut self, is_torn: bool) -> io::Result<bool>;
}

impl Output for io::Stderr {
    fn begin(&mut self, is_torn: bool) -> io::Result<bool> {
        Ok(is_torn)
    }
}

/// Starts the thread that writes to `output` what comes through the queue, which holds `queue_lines` at most.
pub(super) fn spawn_writer(
    name: &str,
    output: Box<dyn Output>,
    style: Style,
    queue_lines: usize,
) -> io::Result<(Sender<Entry>, Writer)> {
    let (queue, entries) = bounded(queue_lines);
    let (stop, stopped) = bounded(0);
    let (end, ended) = bounded::<()>(0);
    let counts = Arc::new(Counts::default());
    let task = Task {
        entries,
        stopped,
        counts: counts.clone(),
        output,
        style,
        batch: String::new(),
        retry_at: None,
        has_failed: false,
        is_torn: false,
    };
    threads::spawn(name.to_owned(), move || {
        task.run();
        drop(end);
    })?;
    Ok((queue, Writer { counts, stop, ended }))
}

/// Bytes after which a batch is written: large enough that a burst costs few calls.
const BATCH_BYTES: usize = 65_536;

/// How long an output that failed is left alone: long enough that a full disk is not asked a thousand times a
/// second, short enough that little is lost once it has room.
const RETRY: Duration = Duration::from_secs(1);

/// How long to wait where standard error is in non-blocking mode and full, which a program that shares the terminal
/// can bring about.
const BUSY: Duration = Duration::from_millis(10);

/// What the thread works with.
struct Task {
    entries: Receiver<Entry>,
    stopped: Receiver<()>,
    counts: Arc<Counts>,
    output: Box<dyn Output>,
    style: Style,
    batch: String,
    /// Until then the output, which has failed, is left alone.
    retry_at: Option<Instant>,
    /// Whether the last write failed.
    has_failed: bool,
    /// Whether the last write ended within a line.
    is_torn: bool,
}

impl Task {
    fn run(mut self) {
        loop {
            select! {
                recv(self.entries) -> entry => match entry {
                    Ok(entry) => self.take(entry),
                    Err(_) => break,
                },
                recv(self.stopped) -> _ => break,
                // Nobody has to say anything for an output that failed to be tried again.
                recv(self.retry_at.map_or_else(crossbeam::channel::never, crossbeam::channel::at)) -> _ => self.tell_rest(),
            }
        }
        // No more than is queued now: others may go on logging for ever. And one last try, whatever happened before.
        self.retry_at = None;
        let mut lines = self.entries.len();
        while lines > 0
            && let Ok(entry) = self.entries.try_recv()
        {
            lines = lines.saturating_sub(self.write_batch(entry));
        }
        self.tell_rest();
    }

    /// Handles one entry, and those that wait behind it.
    fn take(&mut self, entry: Entry) {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            self.counts.leave_out(1);
        } else {
            self.write_batch(entry);
        }
    }

    /// Writes `first` and what waits behind it, up to the size of a batch; returns how many lines these were.
    fn write_batch(&mut self, first: Entry) -> usize {
        self.batch.clear();
        self.style.append(&mut self.batch, &first);
        let mut lines = 1;
        while self.batch.len() < BATCH_BYTES
            && let Ok(entry) = self.entries.try_recv()
        {
            self.style.append(&mut self.batch, &entry);
            lines += 1;
        }
        let told = self.tell();
        self.write(lines, told);
        lines
    }

    /// Tells of lines left out after the last one was written.
    fn tell_rest(&mut self) {
        self.batch.clear();
        let told = self.tell();
        if told > 0 || self.retry_at.is_some() {
            self.write(0, told);
        }
    }

    /// Appends a line about the lines left out, if there are any to tell of; returns how many.
    fn tell(&mut self) -> u64 {
        let untold = self.counts.untold.load(Ordering::Relaxed);
        if untold > 0 {
            let entry = Entry {
                time_ms: wall_ms(),
                level: log::Level::Warn,
                target: module_path!().to_owned(),
                message: format!("{untold} log lines were left out"),
                fields: Vec::new(),
            };
            self.style.append(&mut self.batch, &entry);
        }
        untold
    }

    /// Writes the batch: `lines` entries, and perhaps a last line that tells of `told` lines left out.
    fn write(&mut self, lines: usize, told: u64) {
        let (written_bytes, result) = self.write_counting();
        // A change is told once, for the other outputs above all.
        let has_failed = std::mem::replace(&mut self.has_failed, result.is_err());
        match result {
            Ok(()) => {
                if has_failed {
                    log::info!("{} can be written again", name());
                }
                self.counts.untold.fetch_sub(told, Ordering::Relaxed);
                self.retry_at = None;
                self.is_torn = false;
            }
            Err(error) => {
                if !has_failed {
                    log::warn!("{} cannot be written, its lines are left out until it can: {error}", name());
                }
                let written = &self.batch.as_bytes()[..written_bytes];
                let whole = written.iter().filter(|byte| **byte == b'\n').count();
                self.counts.leave_out(lines.saturating_sub(whole) as u64);
                self.is_torn = written.last().map_or(self.is_torn, |byte| *byte != b'\n');
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    /// Writes the batch, behind the end of what is torn, and tells how much of it was written.
    fn write_counting(&mut self) -> (usize, io::Result<()>) {
        match self.output.begin(self.is_torn) {
            Ok(false) => {}
            Ok(true) => {
                if let (_, Err(error)) = write_counting(&mut self.output, b"\n") {
                    return (0, Err(error));
                }
                self.is_torn = false;
            }
            Err(error) => return (0, Err(error)),
        }
        write_counting(&mut self.output, self.batch.as_bytes())
    }
}

/// What this output is called.
fn name() -> String {
    thread::current().name().unwrap_or("log").to_owned()
}

/// `write_all` that also tells how far it came.
fn write_counting(output: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written_bytes = 0;
    while written_bytes < bytes.len() {
        match output.write(&bytes[written_bytes..]) {
            Ok(0) => return (written_bytes, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written_bytes += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(BUSY),
            Err(error) => return (written_bytes, Err(error)),
        }
    }
    (written_bytes, output.flush())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::config::LogFormat;

    const STYLE: Style = Style { format: LogFormat::Text, is_coloured: false };
    const LONG: Duration = Duration::from_secs(10);

    fn entry(message: String) -> Entry {
        Entry { time_ms: 0, level: log::Level::Info, target: "t".to_owned(), message, fields: Vec::new() }
    }

    /// An output that waits for a permit before its first write.
    struct Gate {
        permit: Receiver<()>,
        /// Told when a write begins to wait.
        waiting: Sender<()>,
        text: Arc<Mutex<Vec<u8>>>,
    }

    impl Output for Gate {
        fn begin(&mut self, is_torn: bool) -> io::Result<bool> {
            Ok(is_torn)
        }
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.waiting.try_send(());
            let _ = self.permit.recv();
            self.text.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_output_blocks_nobody_and_the_loss_is_told() {
        const QUEUE_LINES: usize = 8;
        let (permit, wait) = bounded::<()>(0);
        let (waiting, waits) = bounded(1);
        let text = Arc::new(Mutex::new(Vec::new()));
        let gate = Gate { permit: wait, waiting, text: text.clone() };
        let (queue, writer) = spawn_writer("log-test", Box::new(gate), STYLE, QUEUE_LINES).unwrap();
        let counts = writer.counts().clone();

        queue.send(entry("first".to_owned())).unwrap();
        waits.recv_timeout(LONG).unwrap();
        // The thread is stuck with the first line in hand, so exactly the queue's capacity fits.
        for number in 0..100 {
            if queue.try_send(entry(format!("line {number}"))).is_err() {
                counts.leave_out(1);
            }
        }
        assert_eq!(counts.left_out(), 100 - QUEUE_LINES as u64);

        let start = Instant::now();
        let ended = writer.stop();
        assert!(!Ended(ended.0.clone()).wait(start + Duration::from_millis(50)));
        assert!(start.elapsed() < LONG);

        drop(permit);
        assert!(ended.wait(Instant::now() + LONG));
        let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 1 + QUEUE_LINES + 1, "{text}");
        assert!(lines[0].ends_with("first"));
        assert!(lines[QUEUE_LINES].ends_with("line 7"), "{text}");
        assert!(lines[QUEUE_LINES + 1].ends_with("writer: 92 log lines were left out"), "{text}");
        assert_eq!(counts.untold.load(Ordering::Relaxed), 0);
    }

    /// A disk with room for so many bytes.
    struct Disk {
        room: Arc<Mutex<usize>>,
        text: Arc<Mutex<Vec<u8>>>,
    }

    impl Output for Disk {
        fn begin(&mut self, is_torn: bool) -> io::Result<bool> {
            Ok(is_torn)
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut room = self.room.lock().unwrap();
            let count = bytes.len().min(*room);
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= count;
            self.text.lock().unwrap().extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_so_when_it_has_room() {
        let room = Arc::new(Mutex::new(0));
        let text = Arc::new(Mutex::new(Vec::new()));
        let disk = Disk { room: room.clone(), text: text.clone() };
        let (queue, entries) = bounded(16);
        let (_stop, stopped) = bounded(0);
        let mut task = Task {
            entries,
            stopped,
            counts: Arc::default(),
            output: Box::new(disk),
            style: STYLE,
            batch: String::new(),
            retry_at: None,
            has_failed: false,
            is_torn: false,
        };
        let whole = "1970-01-01T00:00:00.000Z INFO  t: a\n".len();
        // One whole line and a part of the second.
        *room.lock().unwrap() = whole + 5;
        for message in ["b", "c"] {
            queue.send(entry(message.to_owned())).unwrap();
        }
        task.take(entry("a".to_owned()));
        assert_eq!(task.counts.left_out(), 2);
        assert!(task.is_torn);

        // Left alone for a while: not even tried.
        *room.lock().unwrap() = usize::MAX;
        task.take(entry("d".to_owned()));
        assert_eq!(task.counts.left_out(), 3);
        assert_eq!(text.lock().unwrap().len(), whole + 5);

        task.retry_at = None;
        task.take(entry("e".to_owned()));
        let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[0].ends_with("t: a"));
        assert_eq!(lines[1], "1970-");
        assert!(lines[2].ends_with("t: e"));
        assert!(lines[3].ends_with("3 log lines were left out"));
        assert!(!task.is_torn);
    }

    #[test]
    fn an_output_that_has_failed_is_tried_again_although_nobody_says_anything() {
        let room = Arc::new(Mutex::new(5));
        let text = Arc::new(Mutex::new(Vec::new()));
        let disk = Disk { room: room.clone(), text: text.clone() };
        let (queue, writer) = spawn_writer("log-test", Box::new(disk), STYLE, 16).unwrap();
        let deadline = Instant::now() + LONG;
        let wait = |what: &dyn Fn() -> bool| {
            while !what() {
                assert!(Instant::now() < deadline, "{:?}", text.lock().unwrap());
                thread::yield_now();
            }
        };
        queue.send(entry("a".to_owned())).unwrap();
        wait(&|| writer.counts().left_out() == 1);
        *room.lock().unwrap() = usize::MAX;
        wait(&|| text.lock().unwrap().ends_with(b"writer: 1 log lines were left out\n"));
        assert!(text.lock().unwrap().starts_with(b"1970-\n"));
        wait(&|| writer.counts().untold.load(Ordering::Relaxed) == 0);
        assert!(writer.stop().wait(deadline));
    }
}
