//! What the source logs, and what the configuration and the documentation say of it.

#[allow(dead_code, reason = "of what reads sources only the words are used here")]
mod source;

use std::collections::BTreeSet;
use std::path::Path;

use starling::config::LOG_MODULES;

/// The path of each module that logs, as its lines have it.
fn modules_that_log(directory: &Path, module: &str, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).expect("src can be read") {
        let path = entry.expect("src can be read").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
        if path.is_dir() {
            modules_that_log(&path, &format!("{module}::{stem}"), found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file can be read");
            if logs(&text) {
                let is_of_the_directory = matches!(stem.as_str(), "mod" | "lib" | "main");
                found.insert(if is_of_the_directory {
                    module.to_owned()
                } else {
                    format!("{module}::{stem}")
                });
            }
        }
    }
}

/// Whether a source has a line for the log, other than in its tests.
fn logs(text: &str) -> bool {
    let tokens = source::tokens(text);
    let words: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    let end = words.windows(3).position(|words| words == ["mod", "tests", "{"]).unwrap_or(words.len());
    words[..end].windows(4).any(|words| {
        let is_level = ["error", "warn", "info", "debug", "trace", "log"].contains(&words[2]);
        words[0] == "log" && words[1] == "::" && is_level && words[3] == "!"
    })
}

#[test]
fn the_configuration_knows_every_module_that_logs() {
    let mut found = BTreeSet::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    modules_that_log(&src, "starling", &mut found);
    let known: Vec<String> = LOG_MODULES.iter().map(|module| (*module).to_owned()).collect();
    assert_eq!(known, found.into_iter().collect::<Vec<_>>(), "LOG_MODULES in src/config/log_filter.rs");
}

#[test]
fn a_line_for_the_log_is_seen_where_it_is() {
    assert!(logs("fn f() { log::warn!(\"x\"); }"));
    assert!(logs("fn f() { log::log!(level, \"x\"); }"));
    assert!(!logs("fn f() { log::log_enabled!(Debug); } // log::warn!"));
    assert!(!logs("mod tests { fn f() { log::info!(\"x\"); } }"));
}
