//! What starling stands on: each crate that is named has its line in docs/dependencies.md, all come from crates.io, and all may be used
//! under licences that are fine with ours.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Licences, each of which is enough where one may choose, and of which all must be here where several hold.
fn licences() -> BTreeSet<String> {
    let rules: toml::Table = include_str!("../deny.toml").parse().expect("TOML");
    let allowed = rules["licenses"]["allow"].as_array().expect("a list");
    allowed.iter().map(|licence| licence.as_str().expect("a licence").to_owned()).collect()
}

/// Manifests of what is built apart from the server.
const APART: &[&str] = &[
    "benches/peers/rust/Cargo.toml",
    "benches/peers/uws/Cargo.toml",
    "fuzz/Cargo.toml",
    "tests/switches/Cargo.toml",
    "tests/sanitize/Cargo.toml",
];

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo speaks JSON")
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().expect("a list").iter()
}

/// An SPDX expression (Annex D of its specification), word by word.
struct Expression {
    words: Vec<String>,
    at: usize,
    allowed: BTreeSet<String>,
}

impl Expression {
    fn takes(&mut self, word: &str) -> bool {
        let takes = self.words.get(self.at).is_some_and(|next| next == word);
        self.at += usize::from(takes);
        takes
    }

    fn choice(&mut self) -> bool {
        let mut fine = self.all();
        while self.takes("OR") {
            fine |= self.all();
        }
        fine
    }

    fn all(&mut self) -> bool {
        let mut fine = self.one();
        while self.takes("AND") {
            fine &= self.one();
        }
        fine
    }

    fn one(&mut self) -> bool {
        if self.takes("(") {
            let fine = self.choice();
            return self.takes(")") && fine;
        }
        let mut licence = self.words.get(self.at).cloned().unwrap_or_default();
        self.at += 1;
        if self.takes("WITH") {
            licence = format!("{licence} WITH {}", self.words[self.at]);
            self.at += 1;
        }
        self.allowed.contains(&licence)
    }
}

/// Whether a licence lets us choose from the list. Some crates write `/` for `OR`.
fn is_fine(licence: &str) -> bool {
    let spaced = licence.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words = spaced.split_whitespace().map(str::to_owned).collect();
    let mut expression = Expression { words, at: 0, allowed: licences() };
    expression.choice() && expression.at == expression.words.len()
}

#[test]
fn licences_are_understood() {
    for fine in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "ISC AND (GPL-2.0 OR MIT)",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(is_fine(fine), "{fine}");
    }
    for other in
        ["GPL-3.0", "MIT AND GPL-3.0", "ISC AND (GPL-2.0 OR LGPL-2.1)", "", "Apache-2.0 WITH Something"]
    {
        assert!(!is_fine(other), "{other}");
    }
}

#[test]
fn everything_is_from_the_registry_and_under_a_licence_that_is_fine() {
    let metadata = metadata();
    let mut seen = 0;
    for package in packages(&metadata) {
        let name = package["name"].as_str().expect("a name");
        match package["source"].as_str() {
            // This repository's own.
            None => assert!(name.starts_with("starling"), "{name} is a path"),
            Some(source) => assert_eq!(source, REGISTRY, "{name}"),
        }
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(is_fine(licence), "{name} is under {licence:?}");
        seen += 1;
    }
    assert!(seen > 100, "{seen} packages");
}

#[test]
fn each_crate_that_is_named_has_its_line() {
    let metadata = metadata();
    let mut named = BTreeMap::new();
    for package in packages(&metadata).filter(|package| package["source"].is_null()) {
        for dependency in package["dependencies"].as_array().expect("a list") {
            let by = package["name"].as_str().expect("a name");
            named.entry(dependency["name"].as_str().expect("a name").to_owned()).or_insert(by);
        }
    }
    for path in APART {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path);
        let manifest: toml::Table = text.parse().expect(path);
        for section in ["dependencies", "dev-dependencies"] {
            let crates = manifest.get(section).and_then(|crates| crates.as_table()).into_iter().flatten();
            for (name, _) in crates.filter(|(name, _)| !name.starts_with("starling")) {
                named.entry(name.clone()).or_insert(path);
            }
        }
    }
    let page = include_str!("../docs/dependencies.md");
    let mut listed = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
        let [name, purpose, reason] = cells[..] else { panic!("not three cells: {row}") };
        assert!(!purpose.is_empty() && !reason.is_empty(), "{name} has no reason");
        assert!(listed.insert(name.trim_matches('`').to_owned()), "{name} is listed twice");
    }
    for (name, by) in &named {
        assert!(listed.contains(name), "{name}, which {by} names, has no line in docs/dependencies.md");
    }
    for name in &listed {
        assert!(named.contains_key(name), "{name} has a line in docs/dependencies.md, and nothing names it");
    }
    for counted in [
        format!("{} crates are named here", listed.len()),
        format!("`Cargo.lock` has {} packages", packages(&metadata).count()),
    ] {
        assert!(page.contains(&counted), "docs/dependencies.md is not up to date: {counted}");
    }
}
