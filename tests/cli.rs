//! The program from outside: what it prints, and its exit codes.

mod program;

use std::io::Read as _;
use std::process::{Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use program::{starling, text};
use starling::auth::jwt::{KeySource, Verifier};
use starling::auth::{Claims, TokenError};
use starling::chat::name::Nickname;
use starling::config::JwtAlgorithm;

fn output(arguments: &[&str]) -> Output {
    starling(arguments).output().unwrap()
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
    for word in ["serve", "config", "doctor", "token", "bench", "Examples:", "Exit codes:"] {
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
        "--grpc",
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
    for command in ["config", "serve", "doctor"] {
        assert_wrong(
            &output(&[command, "--cores", "many"]),
            "--cores: cores = \"many\" must be a whole number",
        );
        assert_wrong(&output(&[command, "--cores", "-1"]), "--cores: cores = -1 must be from 0 to 1024");
        assert_wrong(&output(&[command, "--set", "limits.contentbytes=1"]), "limits.content_bytes?");
        assert_wrong(
            &output(&[command, "--set", "limits"]),
            "KEY=VALUE, and behind \"limits\" there is no =",
        );
        for set in ["auth.jwt_secret:SECRET", "auth.jwt_secret SECRET", "SECRET"] {
            let wrong = output(&[command, "--set", set]);
            assert_wrong(&wrong, "KEY=VALUE");
            assert!(!String::from_utf8_lossy(&wrong.stderr).contains("SECRET"));
        }
        let stray = output(&[command, "--set", "auth.jwt_secret", "SECRET"]);
        assert_eq!(stray.status.code(), Some(2));
        let stray = String::from_utf8(stray.stderr).unwrap();
        assert!(stray.contains("KEY=VALUE") && !stray.contains("SECRET"), "{stray}");
        assert_wrong(&output(&[command, "--listen", "grcp=127.0.0.1:50051"]), "grcp");
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
fn values_that_no_server_can_use_are_exit_code_2() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.toml");
    let file = file.to_str().unwrap();
    let long = format!("unix:/{}", "x".repeat(200));
    for (key, value, part) in [
        ("auth.api_keys", "[{ name = \"bad name\", key = \"k\" }]".to_owned(), "\"bad name\" is no nickname"),
        ("cluster.redis", "\"redis://u:x@\"".to_owned(), "cluster.redis"),
        ("listen", format!("[{{ kind = \"web\", address = \"{long}\" }}]"), "at most 107 bytes"),
    ] {
        std::fs::write(file, format!("{key} = {value}\n")).unwrap();
        assert_wrong(&output(&["check", file]), part);
        assert_wrong(&output(&["serve", "--config", file]), part);
    }
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
fn the_doctor_looks_at_a_machine_and_changes_nothing() {
    let machine = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(machine.path().join("proc/sys/net/core")).unwrap();
    let file = machine.path().join("proc/sys/net/core/somaxconn");
    let root = ["doctor", "--root", machine.path().to_str().unwrap()];
    std::fs::write(&file, "4096\n").unwrap();
    let healthy = output(&root);
    assert_eq!(healthy.status.code(), Some(0), "{}", text(&healthy.stdout));
    assert!(text(&healthy.stdout).contains("not known here: there is no /proc/self/limits"));
    std::fs::write(&file, "128\n").unwrap();
    let warned = output(&root);
    assert_eq!(warned.status.code(), Some(1));
    assert!(text(&warned.stdout).contains("fix:  sysctl -w net.core.somaxconn=4096\n"));
    let settings = output(&[&root[..], &["--settings"]].concat());
    assert_eq!(settings.status.code(), Some(0));
    assert_eq!(text(&settings.stdout), "warning\tsysctl\tnet.core.somaxconn\t128\t4096\n");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "128\n");
    assert_wrong(
        &output(&["doctor", "--root", "/does/not/exist"]),
        "--root: /does/not/exist is no directory",
    );
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

const SECRET: &str = "a secret of thirty-two bytes, yes";

fn key_path(name: &str) -> String {
    format!("{}/tests/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn unix_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// `starling token` with the secret in the environment.
fn token(arguments: &[&str]) -> Output {
    starling(&[&["token"], arguments].concat()).env("STARLING_AUTH_JWT_SECRET", SECRET).output().unwrap()
}

/// The one line on standard output, where nothing was said on standard error.
#[track_caller]
fn only_line(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    let line = text(&output.stdout).strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{line}");
    line
}

fn hs256(audience: Option<&str>, issuer: Option<&str>) -> Verifier {
    let (audience, issuer) = (audience.map(str::to_owned), issuer.map(str::to_owned));
    Verifier::new(JwtAlgorithm::Hs256, KeySource::Secret(SECRET), audience, issuer).unwrap()
}

#[test]
fn a_token_is_what_the_verifier_takes() {
    let before = unix_ms();
    let output = token(&[
        "--sub", "alice", "--admin", "--room", "lobby", "--room", "team-*", "--tag", "beta", "--tag", "a b",
        "--ttl", "90s",
    ]);
    let claims = hs256(None, None).verify(only_line(&output), unix_ms()).unwrap();
    let expires_at_ms = claims.expires_at_ms.unwrap();
    assert!((before + 90_000..=unix_ms() + 91_000).contains(&expires_at_ms), "{expires_at_ms}");
    let expected = Claims {
        nickname: Nickname::parse("alice").unwrap(),
        is_admin: true,
        rooms: Some(vec!["lobby".to_owned(), "team-*".to_owned()]),
        tags: vec!["beta".to_owned(), "a b".to_owned()],
        expires_at_ms: Some(expires_at_ms),
        account_at_ms: None,
    };
    assert_eq!(claims, expected);
    assert_eq!(hs256(None, None).verify(only_line(&output), expires_at_ms), Err(TokenError::Expired));
}

#[test]
fn a_short_secret_is_warned_of_beside_the_token() {
    let short = "thirty-one bytes are one too few"[1..].to_owned();
    assert_eq!(short.len(), 31);
    let output =
        starling(&["token", "--sub", "alice"]).env("STARLING_AUTH_JWT_SECRET", &short).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("starling: warning: auth.jwt_secret has fewer than 32 bytes"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let verifier = Verifier::new(JwtAlgorithm::Hs256, KeySource::Secret(&short), None, None).unwrap();
    assert!(
        verifier.verify(text(&output.stdout).trim_end(), unix_ms()).is_ok(),
        "the token is good all the same"
    );
}

#[test]
fn a_plain_token_is_good_for_an_hour_and_for_ever_if_asked() {
    let before = unix_ms();
    let plain = token(&["--sub", "alice"]);
    let claims = hs256(None, None).verify(only_line(&plain), unix_ms()).unwrap();
    assert!((before + 3_600_000..=unix_ms() + 3_601_000).contains(&claims.expires_at_ms.unwrap()));
    assert!(!claims.is_admin && claims.rooms.is_none() && claims.tags.is_empty());

    let eternal = token(&["--sub", "alice", "--no-expiry"]);
    assert_eq!(hs256(None, None).verify(only_line(&eternal), u64::MAX).unwrap().expires_at_ms, None);

    let later = token(&["--sub", "alice", "--not-before", "5m"]);
    let outcome = hs256(None, None).verify(only_line(&later), unix_ms());
    assert!(matches!(outcome, Err(TokenError::Bad(why)) if why.contains("not valid yet")));
    assert!(hs256(None, None).verify(only_line(&later), unix_ms() + 301_000).is_ok());
}

#[test]
fn audience_and_issuer_are_the_configured_ones_unless_named() {
    let configured = ["--set", "auth.jwt_audience=chat", "--set", "auth.jwt_issuer=us"];
    let output = token(&[&["--sub", "alice"][..], &configured].concat());
    assert!(hs256(Some("chat"), Some("us")).verify(only_line(&output), unix_ms()).is_ok());
    let named = ["--sub", "alice", "--audience", "mail", "--issuer", "them"];
    let output = token(&[&named[..], &configured].concat());
    assert!(hs256(Some("mail"), Some("them")).verify(only_line(&output), unix_ms()).is_ok());
    assert!(hs256(Some("chat"), Some("us")).verify(only_line(&output), unix_ms()).is_err());
}

#[test]
fn a_private_key_signs_for_the_servers_public_one() {
    for (algorithm, name) in
        [(JwtAlgorithm::Rs256, "rs256"), (JwtAlgorithm::Es256, "es256"), (JwtAlgorithm::EdDsa, "eddsa")]
    {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.toml");
        let public = key_path(&format!("{name}-public.pem"));
        let word = algorithm.word();
        std::fs::write(&file, format!("[auth]\njwt_algorithm = {word:?}\njwt_key_file = {public:?}\n"))
            .unwrap();
        let config = ["token", "--config", file.to_str().unwrap(), "--sub", "alice"];
        let with_key = |key: &str| output(&[&config[..], &["--signing-key", key]].concat());

        let signed = with_key(&key_path(&format!("{name}-private.pem")));
        let pem = std::fs::read(&public).unwrap();
        let verifier = Verifier::new(algorithm, KeySource::Pem(&pem), None, None).unwrap();
        assert_eq!(verifier.verify(only_line(&signed), unix_ms()).unwrap().nickname.as_str(), "alice");

        assert_wrong(&output(&config), &format!("{word} signs with a private key"));
        assert_wrong(&with_key("/does/not/exist"), "--signing-key: cannot read /does/not/exist");
        assert_wrong(&with_key(&public), &format!("{public}: this is no private key for {word}"));
        let long = directory.path().join("long");
        std::fs::write(&long, vec![b'-'; 65_537]).unwrap();
        assert_wrong(&with_key(long.to_str().unwrap()), "longer than 65536 bytes");
    }
    let private = key_path("rs256-private.pem");
    assert_wrong(&token(&["--sub", "alice", "--signing-key", &private]), "signs with auth.jwt_secret");
}

#[test]
fn what_a_token_says_is_told_on_request_and_apart_from_it() {
    let output = token(&["--sub", "alice", "-v", "--room", "team-*", "--tag", "a\u{1b}[2J", "--ttl", "12h"]);
    assert_eq!(output.status.code(), Some(0));
    let printed = text(&output.stdout).strip_suffix('\n').unwrap();
    assert!(hs256(None, None).verify(printed, unix_ms()).is_ok());
    let told = text(&output.stderr);
    for part in ["a token of alice\n", "signed with: HS256", "rooms: team-*", "expires: in 12h"] {
        assert!(told.contains(part), "{told}");
    }
    // Neither what is secret nor what would steer a terminal.
    assert!(!told.contains(SECRET) && !told.contains(printed) && !told.contains('\u{1b}'), "{told}");
}

#[test]
fn a_token_that_the_server_would_refuse_is_not_made() {
    assert_wrong(&token(&["--sub", "no nickname"]), "--sub: \"no nickname\": a name has letters");
    assert_wrong(&token(&["--sub", ""]), "at least one character");
    assert_wrong(&token(&["--sub", &"x".repeat(33)]), "at most 32 characters");
    assert_wrong(&token(&["--sub", "a", "--room", "lobby", "--room", "no room"]), "--room: \"no room\"");
    assert_wrong(&token(&["--sub", "a", "--room", ""]), "--room: \"\"");
    assert_wrong(&token(&["--sub", "a", "--tag", ""]), "--tag: ");
    for ttl in ["1", "h", "1w", "0s", "36501d", "1.5h"] {
        assert_wrong(&token(&["--sub", "a", "--ttl", ttl]), &format!("--ttl: {ttl:?}"));
        assert_wrong(&token(&["--sub", "a", "--not-before", ttl]), &format!("--not-before: {ttl:?}"));
    }
    assert_wrong(&token(&["--sub", "a", "--ttl", "5m", "--not-before", "300s"]), "ends before");
    for arguments in [&[][..], &["--sub", "a", "--ttl", "1h", "--no-expiry"], &["--sub"]] {
        let output = token(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_token_needs_the_configuration_of_the_server() {
    assert_wrong(&output(&["token", "--sub", "a"]), "set auth.jwt_secret");
    assert_wrong(&token(&["--sub", "a", "--cores", "many"]), "--cores: ");
    assert_wrong(&token(&["--sub", "a", "--config", "/does/not/exist.toml"]), "/does/not/exist.toml");
    assert_wrong(&output(&["token", "--sub", "a", "--set", "auth.jwt_secret="]), "auth.jwt_secret");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.toml");
    std::fs::write(&file, format!("[auth]\njwt_secret = {SECRET:?}\njwt_audience = \"chat\"\n")).unwrap();
    let output = output(&["token", "--sub", "alice", "--config", file.to_str().unwrap()]);
    assert!(hs256(Some("chat"), None).verify(only_line(&output), unix_ms()).is_ok());
}

#[test]
fn a_key_that_cannot_check_stops_the_start() {
    let algorithm = "auth.jwt_algorithm=RS256";
    let file = format!("auth.jwt_key_file={}", key_path("rs256-private.pem"));
    let output = output(&["serve", "--listen", "web=127.0.0.1:0", "--set", algorithm, "--set", &file]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("rs256-private.pem") && stderr.contains("it takes a public RSA key"), "{stderr}");
}
