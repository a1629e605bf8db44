//! The program from outside: what it prints, and its exit codes.

use std::io::Read as _;
use std::process::{Command, Output, Stdio};

fn starling(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
    // Variables of whoever runs the tests must not decide them.
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"STARLING_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    starling(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Exit code 2, nothing on standard output, one line of ours on standard error.
#[track_caller]
fn assert_wrong(output: &Output, part: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty());
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("starling: ") && stderr.contains(part), "{stderr}");
}

#[test]
fn help_and_version() {
    let help = output(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for word in ["serve", "config", "Examples:", "Exit codes:"] {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
    let help = output(&["serve", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    let flags = [
        "--config",
        "--cores",
        "--data-dir",
        "--no-pin",
        "--spin",
        "--listen",
        "--web",
        "--line",
        "--frame",
        "--set",
    ];
    for flag in flags.into_iter().chain(["--log-level", "--log-file", "--log-format", "--max-connections"]) {
        assert!(text(&help.stdout).contains(flag), "{flag}");
    }
    let version = output(&["--version"]);
    assert_eq!(text(&version.stdout), format!("starling {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for arguments in [&[][..], &["sing"], &["serve", "--wat"], &["config", "extra"]] {
        let output = output(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_wrong_configuration_is_exit_code_2_and_one_line() {
    for command in ["config", "serve"] {
        assert_wrong(
            &output(&[command, "--cores", "many"]),
            "--cores: cores = \"many\" must be a whole number",
        );
        assert_wrong(&output(&[command, "--cores", "-1"]), "--cores: cores = -1 must be from 0 to 1024");
        assert_wrong(&output(&[command, "--set", "limits.contentbytes=1"]), "limits.content_bytes?");
        assert_wrong(&output(&[command, "--set", "limits"]), "KEY=VALUE");
        assert_wrong(
            &output(&[command, "--listen", "grpc=127.0.0.1:50051"]),
            "not supported by this version",
        );
        assert_wrong(
            &output(&[command, "--web", "example.org:80"]),
            "--web: \"example.org:80\" is no address",
        );
        assert_wrong(&output(&[command, "--config", "/does/not/exist.toml"]), "/does/not/exist.toml");
    }
    let unknown = starling(&["config"]).env("STARLING_CORS", "1").output().unwrap();
    assert_wrong(&unknown, "did you mean STARLING_CORES?");
}

#[test]
fn files_that_cannot_be_configurations() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.toml");
    let name = path.to_str().unwrap();
    std::fs::write(&path, "cores = 1\nnonsense = 2\n").unwrap();
    assert_wrong(&output(&["config", "--config", name]), &format!("{name}:2: unknown key \"nonsense\""));
    std::fs::write(&path, b"a = \"\xff\"").unwrap();
    assert_wrong(&output(&["config", "--config", name]), "not UTF-8");
    std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert_wrong(&output(&["config", "--config", name]), "longer than 1048576 bytes");
}

#[test]
fn config_merges_file_environment_and_flags() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.toml");
    std::fs::write(&path, "cores = 1\nspin = true\n[limits]\nhello_ms = 11\nclose_ms = 12\n").unwrap();
    let output =
        starling(&["config", "--cores", "3", "--no-pin", "--line", "[::1]:7", "--set", "log.level=debug"])
            .env("STARLING_CONFIG", &path)
            .env("STARLING_CORES", "2")
            .env("STARLING_LIMITS_CLOSE_MS", "13")
            .output()
            .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed: toml::Table = text(&output.stdout).parse().unwrap();
    assert_eq!(printed["cores"].as_integer(), Some(3));
    assert_eq!(printed["pin"].as_bool(), Some(false));
    assert_eq!(printed["spin"].as_bool(), Some(true));
    assert_eq!(printed["limits"]["hello_ms"].as_integer(), Some(11));
    assert_eq!(printed["limits"]["close_ms"].as_integer(), Some(13));
    assert_eq!(printed["log"]["level"].as_str(), Some("debug"));
    assert_eq!(printed["listen"][0]["address"].as_str(), Some("127.0.0.1:8080"));
    assert_eq!(printed["listen"][1]["address"].as_str(), Some("[::1]:7"));

    // The file named by a flag, not the one in the environment; and the output is a file for the program itself.
    let printed = directory.path().join("printed.toml");
    std::fs::write(&printed, &output.stdout).unwrap();
    let again = starling(&["config", "--config", printed.to_str().unwrap()])
        .env("STARLING_CONFIG", "/does/not/exist.toml")
        .output()
        .unwrap();
    assert_eq!(text(&again.stdout), text(&output.stdout));
}

#[test]
fn an_empty_variable_names_no_file() {
    let output = starling(&["config"]).env("STARLING_CONFIG", "").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    for arguments in [&["config"][..], &["--help"]] {
        let mut child = starling(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Closed before the program can have written all of it, or anything.
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{stderr}");
        assert_eq!(stderr, "");
    }
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_is_no_panic() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let odd = OsStr::from_bytes(b"\xff");
    assert_eq!(starling(&["config"]).env("OTHER", odd).output().unwrap().status.code(), Some(0));
    let output = starling(&["config"]).env("STARLING_DATA_DIR", odd).output().unwrap();
    assert_wrong(&output, "STARLING_DATA_DIR: must be UTF-8");
}

#[test]
fn a_log_file_that_cannot_be_opened_is_exit_code_1() {
    let output = output(&["serve", "--web", "127.0.0.1:0", "--log-file", "/does/not/exist/a.log"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/does/not/exist/a.log"));
}

#[test]
fn keys_that_cannot_be_used_stop_the_start() {
    let serve = |key: &str, path: &str| {
        let (algorithm, file) = ("auth.jwt_algorithm=RS256", format!("auth.{key}={path}"));
        let output = output(&["serve", "--listen", "web=127.0.0.1:0", "--set", algorithm, "--set", &file]);
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr).to_owned()
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let name = path.to_str().unwrap();
    for key in ["jwt_key_file", "jwks_file"] {
        assert!(serve(key, "/does/not/exist").contains(&format!("auth.{key}: cannot read /does/not/exist")));
    }
    std::fs::write(&path, "no key").unwrap();
    let stderr = serve("jwt_key_file", name);
    assert!(stderr.contains(name) && stderr.contains("no public key for RS256"), "{stderr}");
    std::fs::write(&path, "{ \"keys\": [] }").unwrap();
    let stderr = serve("jwks_file", name);
    assert!(stderr.contains(name) && stderr.contains("none of the 0 keys"), "{stderr}");
}
