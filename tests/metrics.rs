//! The numbers that the server tells are those that docs/metrics.md lists, word for word. `STARLING_BLESS=1` writes the list anew.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use starling::base::stats::Counters;
use starling::observe::metrics::{About, Format, LogLines, Sizes, render};
use starling::sys::process::Figures;

const BEGIN: &str = "<!-- list -->\n";
const END: &str = "<!-- end of list -->\n";

fn rendered() -> String {
    let all = Figures {
        cpu_s: Some(1.0),
        resident_bytes: Some(1),
        virtual_bytes: Some(1),
        open_files: Some(1),
        files_max: Some(1),
        threads: Some(1),
    };
    let cores: Vec<Arc<Counters>> = vec![Arc::default()];
    render(
        &cores,
        &About {
            started_ms: 0,
            process: all,
            // One of a cluster: it tells what others do not.
            node: 1,
            idle_bytes: &[],
            sizes: Sizes::default(),
            log: LogLines::default(),
        },
        Format::Text,
    )
}

/// The list as a table: name, type, what it says.
fn list() -> String {
    let text = rendered();
    let mut lines = text.lines().peekable();
    let mut table = String::from("| name | type | what it says |\n|---|---|---|\n");
    while let Some(line) = lines.next() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let kind = lines
            .next()
            .and_then(|line| line.strip_prefix("# TYPE ")?.split(' ').nth(1))
            .expect("a type after the help");
        let _ = writeln!(table, "| `{name}` | {kind} | {} |", help.replace('|', "\\|"));
    }
    table
}

#[test]
fn the_document_lists_what_is_told() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = std::fs::read_to_string(&path).expect("docs/metrics.md");
    let (before, rest) = text.split_once(BEGIN).expect("where the list begins");
    let (found, after) = rest.split_once(END).expect("where it ends");
    if std::env::var_os("STARLING_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", list()))
            .expect("docs/metrics.md can be written");
        return;
    }
    assert!(
        found == list(),
        "docs/metrics.md is not what the server tells: STARLING_BLESS=1 cargo test --test metrics"
    );
}
