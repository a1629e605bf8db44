//! What tests/mutants explains is still there: each explanation names a function of a file, and says why no test notices it when that is
//! changed. Whether the mutation itself is still there, `scripts/mutants LAYER --check` tells, which needs cargo-mutants.

use std::path::Path;

use serde::Deserialize;

const KINDS: [&str; 4] = ["equivalent", "elsewhere", "speed", "text"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Explanations {
    explained: Vec<Explanation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Explanation {
    file: String,
    /// Empty for what is in no function.
    #[serde(default)]
    function: String,
    mutation: Texts,
    /// A piece of the line that is changed.
    #[serde(default)]
    line: String,
    kind: String,
    why: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Several(Vec<String>),
}

fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// What is wrong with an explanation of a layer, beside the source that it names.
fn wrong(layer: &str, explanation: &Explanation, source: &str) -> Option<String> {
    let Explanation { file, function, mutation, line, kind, why } = explanation;
    if !file.starts_with(&format!("src/{layer}/")) && *file != format!("src/{layer}.rs") {
        return Some(format!("is not of {layer}"));
    }
    let mutations = match mutation {
        Texts::One(text) => std::slice::from_ref(text),
        Texts::Several(texts) => texts,
    };
    if mutations.is_empty()
        || mutations.iter().any(|text| !text.starts_with("replace ") && !text.starts_with("delete "))
    {
        return Some("says nothing of what is changed".to_owned());
    }
    let name = function.rsplit("::").next().unwrap_or_default();
    let ends = |rest: &str| !rest.starts_with(is_of_a_name);
    if !name.is_empty() && !source.split(&format!("fn {name}")).skip(1).any(ends) {
        return Some(format!("has no function {name}"));
    }
    let words = function.split(|c| !is_of_a_name(c)).filter(|word| !word.is_empty());
    if let Some(word) = words.into_iter().find(|word| !source.contains(word)) {
        return Some(format!("has no {word}"));
    }
    if !source.contains(line) {
        return Some(format!("has no line with {line}"));
    }
    if !KINDS.contains(&kind.as_str()) {
        return Some(format!("is of no kind {kind}"));
    }
    (why.len() < 20 || !why.ends_with('.')).then(|| "says no reason in a sentence".to_owned())
}

#[test]
fn what_is_explained_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for entry in root.join("tests/mutants").read_dir().expect("a folder") {
        let path = entry.expect("a file").path();
        let layer = path.file_stem().expect("a name").to_str().expect("a word");
        let text = std::fs::read_to_string(&path).expect("a text");
        let explanations: Explanations =
            toml::from_str(&text).unwrap_or_else(|error| panic!("{layer}: {error}"));
        for explanation in explanations.explained {
            let (file, function) = (&explanation.file, &explanation.function);
            let source =
                std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(
                wrong(layer, &explanation, &source),
                None,
                "tests/mutants/{layer}.toml: {file}, {function}"
            );
            seen += 1;
        }
    }
    assert!(seen > 0, "nothing is explained");
}

#[test]
fn what_is_not_there_is_noticed() {
    let source = "impl Room { fn leave_all(&self) -> u64 { self.a + 1 } }";
    let explanation = |function: &str, line: &str, kind: &str| Explanation {
        file: "src/chat/room.rs".to_owned(),
        function: function.to_owned(),
        mutation: Texts::One("replace + with -".to_owned()),
        line: line.to_owned(),
        kind: kind.to_owned(),
        why: "Nobody can see a difference.".to_owned(),
    };
    let wrong = |function, line, kind| wrong("chat", &explanation(function, line, kind), source);
    assert_eq!(wrong("Room::leave_all", "self.a + 1", "speed"), None);
    assert_eq!(wrong("Room::leave", "", "speed").as_deref(), Some("has no function leave"));
    assert_eq!(wrong("Door::leave_all", "", "speed").as_deref(), Some("has no Door"));
    assert_eq!(wrong("Room::leave_all", "self.b", "speed").as_deref(), Some("has no line with self.b"));
    assert_eq!(wrong("Room::leave_all", "", "luck").as_deref(), Some("is of no kind luck"));
}
