//! What is made of the flags: completions, which each shell that is here must accept, and manual pages.

mod program;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use clap::ValueEnum as _;
use clap_complete::Shell;
use program::{assert_failed, assert_ok, starling, text};

/// The seconds that pages are dated by, and the date.
const EPOCH: (&str, &str) = ("1795900000", "2026-11-28");

fn is_here(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn completions(shell: Shell) -> String {
    assert_ok(&starling(&["completions", &shell.to_string()]).output().unwrap()).to_owned()
}

/// That of all commands, `help` aside, with the names that lead there.
fn commands() -> Vec<(Vec<String>, clap::Command)> {
    fn walk(names: Vec<String>, command: &clap::Command, to: &mut Vec<(Vec<String>, clap::Command)>) {
        for sub in command.get_subcommands() {
            let names = names.iter().cloned().chain([sub.get_name().to_owned()]).collect();
            walk(names, sub, to);
        }
        to.push((names, command.clone()));
    }
    let mut main = starling::cli::command().disable_help_subcommand(true);
    main.build();
    let mut all = Vec::new();
    walk(vec!["starling".to_owned()], &main, &mut all);
    all
}

/// Makes the pages.
fn pages(directory: &Path) {
    let output =
        starling(&["man", directory.to_str().unwrap()]).env("SOURCE_DATE_EPOCH", EPOCH.0).output().unwrap();
    assert!(assert_ok(&output).contains("pages; to read the first: man -l "), "{}", text(&output.stdout));
}

/// What is shown of a page, without the marks: `\-` is a hyphen, `\fB` makes bold.
fn plain(page: &str) -> String {
    let mut plain = page.replace("\\-", "-");
    for mark in ["\\fB", "\\fI", "\\fR"] {
        plain = plain.replace(mark, "");
    }
    plain
}

/// Elvish has the module that completes only in front of a person: one that takes what is said stands in its place.
fn of_its_own(shell: Shell, script: &str) -> String {
    match shell {
        Shell::Elvish => format!(
            "var edit: = (ns [&completion:=(ns [&arg-completer=[&]]) &complex-candidate~={{|a &display=''| put $a}}])\n\
             {script}\n\
             var found = [($edit:completion:arg-completer[starling] starling serve '')]\n\
             if (not (has-value $found --data-dir)) {{ fail 'no --data-dir' }}"
        ),
        _ => script.to_owned(),
    }
}

#[test]
fn every_shell_accepts_its_completions() {
    let directory = tempfile::tempdir().unwrap();
    for &shell in Shell::value_variants() {
        let script = completions(shell);
        for (names, _) in commands() {
            let last = names.last().unwrap();
            assert!(script.contains(last.as_str()), "{shell}: {names:?}");
        }
        let file = directory.path().join(format!("starling.{shell}"));
        fs::write(&file, of_its_own(shell, &script)).unwrap();
        let (interpreter, flags): (&str, &[&str]) = match shell {
            Shell::Bash => ("bash", &["-n"]),
            Shell::Zsh => ("zsh", &["-n"]),
            Shell::Fish => ("fish", &["--no-execute"]),
            Shell::Elvish => ("elvish", &[]),
            Shell::PowerShell => ("pwsh", &["-NoProfile", "-NonInteractive", "-File"]),
            _ => panic!("no way to check the completions of {shell}"),
        };
        if !is_here(interpreter) {
            eprintln!("{interpreter} is not installed: its completions are not checked");
            continue;
        }
        let checked = Command::new(interpreter)
            .args(flags)
            .arg(&file)
            .env("HOME", directory.path())
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let told = (text(&checked.stdout), text(&checked.stderr));
        assert!(checked.status.success() && told == ("", ""), "{shell}: {:?}: {told:?}", checked.status);
    }
}

#[test]
fn bash_completes_subcommands_and_flags() {
    if !is_here("bash") {
        eprintln!("bash is not installed: nothing is completed");
        return;
    }
    let script = completions(Shell::Bash);
    for (words, wanted) in [
        ("starling ser", "serve"),
        ("starling serve --data", "--data-dir"),
        ("starling completions po", "powershell"),
        ("starling store ba", "backup"),
    ] {
        let count = words.split(' ').count();
        let ask = format!(
            "{script}\nCOMP_WORDS=({words}); COMP_CWORD={}; COMPREPLY=()\n\
             _starling starling \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             echo \"${{COMPREPLY[*]}}\"",
            count - 1
        );
        let output = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
        assert_eq!(assert_ok(&output).trim(), wanted, "{words}");
    }
}

#[test]
fn an_unknown_shell_is_wrong_and_those_that_are_known_are_named() {
    let output = starling(&["completions", "tcsh"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = text(&output.stderr);
    for &shell in Shell::value_variants() {
        assert!(stderr.contains(&shell.to_string()), "{stderr}");
    }
}

#[test]
fn every_subcommand_has_a_page_that_names_all_its_flags() {
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("pages");
    pages(&made);
    let mut wanted = BTreeSet::new();
    for (names, command) in commands() {
        let name = format!("{}.1", names.join("-"));
        let page = fs::read_to_string(made.join(&name)).unwrap_or_else(|why| panic!("{name}: {why}"));
        let page = plain(&page);
        assert!(
            page.starts_with(&format!(
                ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n.TH {} 1 {}",
                names.join("-"),
                EPOCH.1
            )),
            "{page}"
        );
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "\"EXIT STATUS\""] {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{name}: {section}");
        }
        for flag in command.get_arguments() {
            // As a word: --web is not named by --web-socket.
            let words: Vec<&str> =
                page.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '_').collect();
            let long = flag.get_long().map(|long| format!("--{long}"));
            let short = flag.get_short().map(|short| format!("-{short}"));
            let value =
                flag.get_value_names().filter(|_| flag.is_positional()).map(|names| names[0].to_string());
            for word in [long, short, value].into_iter().flatten() {
                assert!(words.contains(&word.as_str()), "{name}: {word}");
            }
        }
        for sub in command.get_subcommands() {
            assert!(page.contains(&format!("\n{}-{}(1)\n", names.join("-"), sub.get_name())), "{name}");
        }
        wanted.insert(name);
    }
    let found: BTreeSet<String> =
        fs::read_dir(&made).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, wanted);
    for (page, part) in [
        ("starling.1", "starling serve --config starling.toml"),
        ("starling-serve.1", "starling serve --cores 2 --set limits.content_bytes=16384"),
        ("starling-bench.1", "130 interrupted"),
        ("starling-store-backup.1", "starling store backup /backup/starling.db --force"),
        ("starling-user-list.1", "starling user list --json"),
    ] {
        let text = plain(&fs::read_to_string(made.join(page)).unwrap());
        assert!(text.contains(part), "{page}: {part}");
    }
}

#[test]
fn pages_are_without_warnings() {
    let directory = tempfile::tempdir().unwrap();
    pages(directory.path());
    let checks: [(&str, &[&str]); 2] = [
        ("mandoc", &["-T", "lint", "-W", "warning"]),
        ("groff", &["-man", "-Tutf8", "-ww", "-rCHECKSTYLE=1", "-z"]),
    ];
    for (checker, flags) in checks {
        if !is_here(checker) {
            eprintln!("{checker} is not installed: it checks no pages");
            continue;
        }
        for entry in fs::read_dir(directory.path()).unwrap() {
            let path = entry.unwrap().path();
            let checked = Command::new(checker).args(flags).arg(&path).output().unwrap();
            let told = (text(&checked.stdout), text(&checked.stderr));
            assert!(checked.status.success() && told == ("", ""), "{checker} {}: {told:?}", path.display());
        }
    }
}

#[test]
fn the_main_page_alone_goes_to_standard_output() {
    let directory = tempfile::tempdir().unwrap();
    pages(directory.path());
    let output = starling(&["man"]).env("SOURCE_DATE_EPOCH", EPOCH.0).output().unwrap();
    assert_eq!(assert_ok(&output), fs::read_to_string(directory.path().join("starling.1")).unwrap());
    // Over what is there.
    pages(directory.path());
}

#[test]
fn pages_that_cannot_be_written_are_exit_code_1_and_a_wrong_date_is_2() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let output = starling(&["man", file.to_str().unwrap()]).output().unwrap();
    assert_failed(&output, "name a directory that you may write to");
    let output = starling(&["man", directory.path().join("a/b").to_str().unwrap()]).output().unwrap();
    assert_failed(&output, "cannot make the directory ");
    for wrong in ["yesterday", "-1", "", "99999999999999"] {
        let output = starling(&["man"]).env("SOURCE_DATE_EPOCH", wrong).output().unwrap();
        program::assert_wrong(&output, "must be seconds since 1970");
    }
}
