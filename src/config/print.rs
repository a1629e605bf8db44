//! The effective configuration as a commented TOML file.

use std::fmt::Write as _;

use toml::Value;

use super::{Config, Key};

/// Writes all keys of `config`; `writeln!` into a `String` cannot fail.
pub(super) fn print_commented(config: &Config) -> String {
    let default = Config::default();
    let mut out = String::from("# The configuration in effect; a valid file as it stands.\n");
    if Config::keys().any(|key| key.is_secret && (key.value)(config) != (key.value)(&default)) {
        out.push_str("# It holds secrets: keep it to yourself.\n");
    }
    for key in Config::KEYS {
        print_key(&mut out, key, config, &default);
    }
    for (section, about, keys) in Config::SECTIONS {
        out.push('\n');
        print_comment(&mut out, about);
        let _ = writeln!(out, "[{section}]");
        for key in *keys {
            print_key(&mut out, key, config, &default);
        }
    }
    out
}

fn print_key(out: &mut String, key: &Key, config: &Config, default: &Config) {
    out.push('\n');
    print_comment(out, key.doc);
    let default = (key.value)(default).map_or_else(|| "not set".to_owned(), |value| of_default(&value));
    let _ = match key.range {
        Some((low, high)) => writeln!(out, "# Default: {default}; from {low} to {high}."),
        None => writeln!(out, "# Default: {default}."),
    };
    let field = key.name.rsplit('.').next().unwrap_or(key.name);
    match (key.value)(config) {
        None => _ = writeln!(out, "# {field} ="),
        Some(Value::Array(tables)) if field == "listen" => {
            // As blocks, which are easier to edit than one long line. They end the keys before the first section,
            // so `listen` has to be the last of those.
            for table in &tables {
                let _ = writeln!(out, "[[{field}]]");
                for (name, value) in table.as_table().into_iter().flatten() {
                    let _ = writeln!(out, "{name} = {}", inline(value));
                }
            }
        }
        Some(value) => _ = writeln!(out, "{field} = {}", inline(&value)),
    }
}

/// A default in its comment. Tables get a line each, because several would make one that no screen is wide enough for.
fn of_default(value: &Value) -> String {
    match value {
        Value::Array(items) if items.iter().any(Value::is_table) => {
            let lines: Vec<String> = items.iter().map(|item| format!("#   {}", inline(item))).collect();
            format!("[\n{}\n# ]", lines.join(",\n"))
        }
        other => inline(other),
    }
}

fn print_comment(out: &mut String, lines: &[&str]) {
    for line in lines {
        let _ = writeln!(out, "#{line}");
    }
}

/// A value on one line. TOML's own writer spreads a text with a line break over several lines, which is right in a
/// value and wrong in a comment, so such a text is written as a basic string with escapes.
fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => basic_string(text),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Table(table) => {
            let fields = table.iter().map(|(name, value)| format!("{name} = {}", inline(value)));
            format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// TOML 1.0, "String": quote, backslash and control characters are escaped.
fn basic_string(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_control() => _ = write!(out, "\\u{:04X}", u32::from(letter)),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}
