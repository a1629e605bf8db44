//! What is logged, by the test on whose thread it is.

use std::cell::RefCell;
use std::sync::Once;

use log::kv::{Error, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};

thread_local! {
    /// The target of each line, and the message with each field behind it.
    static LINES: RefCell<Vec<(String, String)>> = const { RefCell::new(Vec::new()) };
}

struct Lines;

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.target().starts_with("starling::")
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            let mut line = Line(record.args().to_string());
            record.key_values().visit(&mut line).expect("fields can be written");
            LINES.with_borrow_mut(|lines| lines.push((record.target().to_owned(), line.0)));
        }
    }

    fn flush(&self) {}
}

struct Line(String);

impl<'kvs> VisitSource<'kvs> for Line {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0 += &format!(" {key}={value}");
        Ok(())
    }
}

/// The lines of one module that have been logged here since somebody looked at any. To be called before there is anything to log.
pub fn logged(module: &str) -> Vec<String> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Lines).expect("nobody else logs here");
        log::set_max_level(LevelFilter::Debug);
    });
    let target = format!("starling::shard::{module}");
    LINES.take().into_iter().filter(|(of, _)| *of == target).map(|(_, line)| line).collect()
}
