//! `starling man [DIR]`: the manual pages, made of the flags and of what `--help` tells behind them.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{EXIT_FAILURE, EXIT_USAGE, PROGRAM, command, fail, write};
use crate::observe::date;
use crate::sys::unix_ms;

pub(super) const EXAMPLES: &str = "\
Examples:
  starling man | man -l -                   the main page, to read
  starling man pages && man -l pages/starling-serve.1
  starling man ~/.local/share/man/man1      where man finds them: man starling-bench

DIR is made if it is missing, and pages that are there are replaced. Pages have the
date of today, or of SOURCE_DATE_EPOCH (seconds since 1970), for builds that are to
be repeated.

Exit codes: 0 ok, 1 a page could not be written, 2 wrong arguments.";

/// The section of the manual: programs.
const SECTION: &str = "1";

/// Whoever builds says what time it is by this, so that the same source makes the same bytes:
/// <https://reproducible-builds.org/specs/source-date-epoch/>.
const ENV_EPOCH: &str = "SOURCE_DATE_EPOCH";

const SECONDS_A_DAY: u64 = 86_400;

/// What a command ends with that says nothing about it.
const EXIT_CODES: &str = "0 ok, 1 failed while running, 2 wrong arguments or configuration.";

/// Where the pages go.
#[derive(Args, Debug)]
pub struct ManFlags {
    /// The directory for all pages; without it: the main page to standard output
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// A page and the name of its file.
struct Page {
    name: String,
    text: Vec<u8>,
}

/// Writes the pages: exit code 0, 1 where that fails, 2 where the date is none.
pub fn run(flags: &ManFlags) -> ExitCode {
    let day = match day() {
        Ok(day) => day,
        Err(why) => return fail(EXIT_USAGE, why),
    };
    let pages = match pages(&day) {
        Ok(pages) => pages,
        Err(why) => return fail(EXIT_FAILURE, format_args!("cannot make the pages: {why}")),
    };
    let told = match &flags.directory {
        None => Ok(pages.into_iter().next().map(|page| page.text).unwrap_or_default()),
        Some(directory) => put(directory, &pages).map(|()| {
            let first = directory.join(format!("{PROGRAM}.{SECTION}"));
            format!("{} pages; to read the first: man -l {}\n", pages.len(), first.display()).into_bytes()
        }),
    };
    match told.and_then(|text| write(&text)) {
        Ok(_) => ExitCode::SUCCESS,
        Err(why) => fail(EXIT_FAILURE, why),
    }
}

/// The date in the pages, as `2026-11-29`.
fn day() -> Result<String, String> {
    let days = match std::env::var_os(ENV_EPOCH) {
        None => unix_ms() / 1000 / SECONDS_A_DAY,
        Some(text) => {
            let seconds = text.to_str().and_then(|text| text.parse::<u64>().ok());
            // Years of four digits.
            seconds.map(|seconds| seconds / SECONDS_A_DAY).filter(|days| *days < 2_932_896).ok_or_else(
                || format!("{ENV_EPOCH}: {text:?} must be seconds since 1970, or not set at all"),
            )?
        }
    };
    let (year, month, day) = date(days);
    Ok(format!("{year:04}-{month:02}-{day:02}"))
}

fn put(directory: &Path, pages: &[Page]) -> Result<(), String> {
    // Not what is above it, whose name may have been mistyped.
    match fs::create_dir(directory) {
        Err(why) if why.kind() != ErrorKind::AlreadyExists => {
            return Err(format!("cannot make the directory {}: {why}", directory.display()));
        }
        _ => {}
    }
    for page in pages {
        let path = directory.join(&page.name);
        fs::write(&path, &page.text).map_err(|why| {
            format!("cannot write {}: {why}; name a directory that you may write to", path.display())
        })?;
    }
    Ok(())
}

/// The main page, and those of all subcommands after it.
fn pages(day: &str) -> io::Result<Vec<Page>> {
    // `help` needs no page: it is `--help`.
    let mut main = command().disable_help_subcommand(true);
    main.build();
    let mut pages = Vec::new();
    add(&main, None, day, &mut pages)?;
    Ok(pages)
}

fn add(
    command: &clap::Command,
    parent: Option<&clap::Command>,
    day: &str,
    to: &mut Vec<Page>,
) -> io::Result<()> {
    let man = Man::new(command.clone())
        .section(SECTION)
        .date(day)
        .source(format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    let name = man.get_filename();
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    Help::of(command, parent).sections(parent).to_writer(&mut text)?;
    // clap_mangen parts values from what stands before them with two breaks, at which mandoc frowns.
    let text = String::from_utf8_lossy(&text).replace(".br\n\n.br\n", ".sp\n").into_bytes();
    to.push(Page { name, text });
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        add(sub, Some(command), day, to)?;
    }
    Ok(())
}

/// What stands behind the flags in `--help`, in its parts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Help {
    examples: Vec<String>,
    notes: Vec<String>,
    exit_codes: Option<String>,
}

impl Help {
    /// That of a command. One that says nothing gets its examples and exit codes from the command that it is part of.
    fn of(command: &clap::Command, parent: Option<&clap::Command>) -> Help {
        if let Some(text) = command.get_after_help() {
            return Help::parse(&text.to_string());
        }
        let of_parent =
            parent.and_then(clap::Command::get_after_help).map(|text| Help::parse(&text.to_string()));
        let mut help = of_parent.unwrap_or_default();
        help.notes.clear();
        let name = command.get_bin_name().unwrap_or(PROGRAM);
        help.examples.retain(|line| line.contains(name));
        help
    }

    /// Parts are parted by empty lines; the examples and the exit codes begin with their names.
    fn parse(text: &str) -> Help {
        let mut help = Help::default();
        for part in text.split("\n\n") {
            if let Some(lines) = part.strip_prefix("Examples:\n") {
                help.examples
                    .extend(lines.lines().map(|line| line.strip_prefix("  ").unwrap_or(line).to_owned()));
            } else if let Some(codes) = part.strip_prefix("Exit codes: ") {
                help.exit_codes = Some(codes.replace('\n', " "));
            } else {
                help.notes.push(part.replace('\n', " "));
            }
        }
        help
    }

    fn sections(&self, parent: Option<&clap::Command>) -> Roff {
        let mut page = Roff::new();
        if !self.notes.is_empty() {
            page.control("SH", ["NOTES"]);
            for (number, note) in self.notes.iter().enumerate() {
                if number > 0 {
                    page.control("PP", []);
                }
                page.text([roman(note)]);
            }
        }
        page.control("SH", ["EXIT STATUS"]);
        page.text([roman(self.exit_codes.as_deref().unwrap_or(EXIT_CODES))]);
        if !self.examples.is_empty() {
            page.control("SH", ["EXAMPLES"]);
            // Each line as it stands.
            page.control("nf", []);
            for line in &self.examples {
                page.text([roman(line)]);
            }
            page.control("fi", []);
        }
        if let Some(parent) = parent {
            page.control("SH", ["SEE ALSO"]);
            let name = parent.get_display_name().unwrap_or_else(|| parent.get_name());
            page.text([bold(name), roman(format!("({SECTION})"))]);
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_parted_into_examples_notes_and_exit_codes() {
        let help = Help::parse("Examples:\n  a b\n    c\n\nOne\ntwo.\n\nThree.\n\nExit codes: 0 ok,\n1 not.");
        assert_eq!(help.examples, ["a b", "  c"]);
        assert_eq!(help.notes, ["One two.", "Three."]);
        assert_eq!(help.exit_codes.as_deref(), Some("0 ok, 1 not."));
    }

    #[test]
    fn every_command_with_subcommands_tells_examples_for_them() {
        let mut main = command();
        main.build();
        for parent in main.get_subcommands().filter(|sub| sub.has_subcommands() && sub.get_name() != "help") {
            let told = parent.get_subcommands().any(|sub| !Help::of(sub, Some(parent)).examples.is_empty());
            assert!(told, "{}", parent.get_name());
        }
    }
}
