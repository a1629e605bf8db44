//! The configuration from outside: precedence, refusals, and the printed form.

use proptest::prelude::*;
use starling::config::{Address, ClientAuth, Config, LogFormat, Overrides, Secret, StoreKind};

fn resolve(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
    let mut overrides = Overrides::default();
    for (key, text) in flags {
        overrides.set("--set", *key, *text);
    }
    let env = env.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Config::resolve(Some(("test.toml", file)), env, &overrides).map_err(|error| error.to_string())
}

/// The message of a file that must be refused; always one line.
#[track_caller]
fn refusal(file: &str) -> String {
    let message = resolve(file, &[], &[]).expect_err("must be refused");
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[track_caller]
fn assert_refused(file: &str, parts: &[&str]) {
    let message = refusal(file);
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in {message:?}");
    }
}

fn addresses(config: &Config) -> Vec<String> {
    config.listen.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_gives_the_defaults() {
    let config = Config::resolve(None, std::iter::empty(), &Overrides::default()).unwrap();
    assert_eq!(config, Config::default());
    let four = ["web=127.0.0.1:8080", "line=127.0.0.1:9000", "frame=127.0.0.1:9001", "grpc=127.0.0.1:50051"];
    assert_eq!(addresses(&config), four);
    assert_eq!(config.limits.content_bytes, 65_536);
    assert_eq!(config.limits.inbound_bytes, 262_144);
    assert_eq!(config.heartbeat.timeout_ms, 90_000);
    assert!(config.pin && !config.spin && config.auth.guests && config.is_echo_on());
    assert_eq!(config.notices(), Vec::<String>::new());
}

#[test]
fn the_default_of_each_key_is_within_its_range() {
    for key in Config::keys() {
        let Some((low, high)) = key.range else { continue };
        let value = (key.value)(&Config::default()).and_then(|value| value.as_integer()).unwrap();
        assert!((low..=high).contains(&u64::try_from(value).unwrap()), "{}", key.name);
    }
}

#[test]
fn flags_beat_the_environment_beats_the_file_beats_the_defaults() {
    let file = "cores = 1\n[limits]\nhello_ms = 1\nlinger_ms = 1\n";
    let env = [("STARLING_CORES", "2"), ("STARLING_LIMITS_HELLO_MS", "2")];
    let config = resolve(file, &env, &[("cores", "3")]).unwrap();
    assert_eq!(config.cores, 3);
    assert_eq!(config.limits.hello_ms, 2);
    assert_eq!(config.limits.linger_ms, 1);
    assert_eq!(config.limits.close_ms, 5000);
}

#[test]
fn every_type_reads_from_file_and_environment() {
    let file = r#"
        pin = false
        data_dir = "/var/lib/starling"
        auth = { guests = false, jwt_secret = "s3cret", api_keys = [{ name = "ci", key = "k", admin = true }] }
        store.kind = "sqlite"
        [web]
        allowed_origins = ["https://a.example"]
        echo = false
        [log]
        level = "warn"
        file = "a.log"
        format = "json"
        [cluster]
        redis = "redis://localhost"
        ca = "ca.pem"
        prefix = "x-1"
    "#;
    let env = [
        ("STARLING_PIN", "false"),
        ("STARLING_DATA_DIR", "/var/lib/starling"),
        ("STARLING_AUTH_GUESTS", "0"),
        ("STARLING_AUTH_JWT_SECRET", "s3cret"),
        ("STARLING_AUTH_API_KEYS", r#"[{ name = "ci", key = "k", admin = true }]"#),
        ("STARLING_STORE_KIND", "sqlite"),
        ("STARLING_WEB_ALLOWED_ORIGINS", "https://a.example"),
        ("STARLING_WEB_ECHO", "false"),
        ("STARLING_LOG_LEVEL", "warn"),
        ("STARLING_LOG_FILE", "a.log"),
        ("STARLING_LOG_FORMAT", "json"),
        ("STARLING_CLUSTER_REDIS", "redis://localhost"),
        ("STARLING_CLUSTER_CA", "ca.pem"),
        ("STARLING_CLUSTER_PREFIX", "x-1"),
        ("STARLING_CONFIG", "names the file and is no key"),
        ("STARLING_TOKEN", "is the chat client's"),
        ("PATH", "not ours"),
    ];
    let from_file = resolve(file, &[], &[]).unwrap();
    assert_eq!(from_file, resolve("", &env, &[]).unwrap());
    assert_eq!(from_file.log.format, LogFormat::Json);
    assert_eq!(from_file.log.level, log::LevelFilter::Warn.into());
    assert_eq!(from_file.store.kind, StoreKind::Sqlite);
    assert_eq!(from_file.auth.jwt_secret, Some(Secret("s3cret".to_owned())));
    assert_eq!(from_file.web.echo, Some(false));
}

#[test]
fn listeners() {
    let file = "[[listen]]\nkind = \"web\"\naddress = \"[::1]:0\"\n[[listen]]\nkind = \"line\"\naddress = \"localhost:9000\"\n";
    assert_eq!(addresses(&resolve(file, &[], &[]).unwrap()), ["web=[::1]:0", "line=127.0.0.1:9000"]);
    let env = [("STARLING_LISTEN", "web=127.0.0.1:0, web=0.0.0.0:0")];
    let config = resolve(file, &env, &[]).unwrap();
    assert_eq!(addresses(&config), ["web=127.0.0.1:0", "web=0.0.0.0:0"]);
    assert!(!config.is_echo_on(), "one web listener is open to all");

    let mut flags = Overrides::default();
    flags.set_address("--line", starling::config::ListenKind::Line, "0.0.0.0:1");
    let config = Config::resolve(None, std::iter::empty(), &flags).unwrap();
    let four = ["web=127.0.0.1:8080", "line=0.0.0.0:1", "frame=127.0.0.1:9001", "grpc=127.0.0.1:50051"];
    assert_eq!(addresses(&config), four);
    assert!(config.is_echo_on(), "the web listener is not");
}

#[test]
fn encrypted_listeners() {
    let files = [("STARLING_TLS_CERT", "c.pem"), ("STARLING_TLS_KEY", "k.pem")];
    let config = resolve("", &files, &[]).unwrap();
    assert!(
        config.listen.iter().all(|listen| listen.tls.is_some()),
        "whoever names a certificate wants it used"
    );
    let tls = config.listen[0].tls.clone().unwrap();
    assert_eq!((tls.cert.unwrap().to_str(), tls.key.unwrap().to_str()), (Some("c.pem"), Some("k.pem")));
    assert_eq!((tls.client_ca, tls.client_auth), (None, None));

    let named =
        [files[0], files[1], ("STARLING_LISTEN", "web+tls=127.0.0.1:1, web=127.0.0.1:2,line=127.0.0.1:3")];
    let config = resolve("", &named, &[]).unwrap();
    assert_eq!(addresses(&config), ["web+tls=127.0.0.1:1", "web=127.0.0.1:2", "line=127.0.0.1:3"]);

    // A listener's own files come before those of the section, and a key belongs to its certificate.
    let file = "
        [[listen]]
        kind = \"web\"
        address = \"127.0.0.1:1\"
        tls = { cert = \"own.pem\", key = \"own.key\" }
        [[listen]]
        kind = \"line\"
        address = \"127.0.0.1:2\"
        tls = { }
        [tls]
        client_ca = \"ca.pem\"
    ";
    let config = resolve(file, &files, &[]).unwrap();
    let tls: Vec<_> = config.listen.iter().map(|listen| listen.tls.clone().unwrap()).collect();
    assert_eq!(
        [&tls[0], &tls[1]].map(|tls| tls.cert.as_ref().unwrap().to_str().unwrap()),
        ["own.pem", "c.pem"]
    );
    assert!(tls.iter().all(|tls| tls.client_auth == Some(ClientAuth::Required)), "nobody else is let in");
    assert_round_trip(&config);

    // Another address for a listener does not take its protection away.
    let mut flags = Overrides::default();
    flags.set_address("--web", starling::config::ListenKind::Web, "127.0.0.1:9");
    let config = Config::resolve(
        Some(("test.toml", file)),
        files.map(|(name, value)| (name.into(), value.into())).into_iter(),
        &flags,
    );
    assert_eq!(addresses(&config.unwrap()), ["web+tls=127.0.0.1:9", "line+tls=127.0.0.1:2"]);
}

#[test]
fn addresses_parse() {
    for text in ["127.0.0.1:0", "[::1]:8080", "localhost:65535", "unix:/run/a.sock"] {
        Address::try_from(text.to_owned()).unwrap();
    }
    for text in [
        "",
        "8080",
        ":8080",
        "::1:8080x",
        "example.org:80",
        "localhost",
        "127.0.0.1:65536",
        "unix:",
        "unix:@a",
    ] {
        Address::try_from(text.to_owned()).unwrap_err();
    }
}

#[test]
fn listeners_that_cannot_be() {
    let listen = |fields: &str| format!("[[listen]]\n{fields}\n");
    assert_refused("[tls]\nclient_ca = \"roots.pem\"", &["tls.client_ca", "none is"]);
    let frame = resolve(&listen("kind = \"frame\"\naddress = \"127.0.0.1:9\""), &[], &[]).unwrap();
    assert_eq!(addresses(&frame), ["frame=127.0.0.1:9"]);
    let path = |fields: &str| listen(&format!("kind = \"web\"\naddress = \"unix:/run/a.sock\"\n{fields}"));
    for (given, printed) in [("600", "600"), ("0660", "660"), ("000", "000"), ("777", "777")] {
        let config = resolve(&path(&format!("mode = \"{given}\"")), &[], &[]).unwrap();
        assert_eq!(addresses(&config), ["web=unix:/run/a.sock"]);
        let listener = toml::Value::try_from(&config.listen[0]).unwrap();
        assert_eq!(listener["mode"].as_str(), Some(printed));
    }
    for wrong in ["0o660", "\"9\"", "\"1777\"", "\"rw-rw----\"", "\"66\"", "\"\"", "true"] {
        assert_refused(&path(&format!("mode = {wrong}")), &["octal digits and quotes"]);
    }
    assert_refused(&format!("{0}{0}", path("")), &["web=unix:/run/a.sock", "taken by another listener"]);
    let strangers = path("proxies = [\"10.0.0.0/8\"]");
    assert_refused(&strangers, &["unix:/run/a.sock", "127.0.0.1", "not among its proxies"]);
    resolve(&path("proxies = [\"127.0.0.1\"]"), &[], &[]).unwrap();
    let port = "kind = \"web\"\naddress = \"127.0.0.1:9\"\nmode = \"660\"";
    assert_refused(&listen(port), &["web=127.0.0.1:9", "mode is for paths"]);
    let tls =
        |fields: &str| listen(&format!("kind = \"web\"\naddress = \"127.0.0.1:1\"\ntls = {{ {fields} }}"));
    assert_refused(&tls(""), &["web+tls=127.0.0.1:1", "--tls-cert", "starling cert"]);
    assert_refused(&tls("cert = \"a\""), &["web+tls=127.0.0.1:1", "cert and key"]);
    assert_refused(
        &tls("cert = \"a\", key = \"b\", client_auth = \"optional\""),
        &["client_auth", "client_ca"],
    );
    assert_refused(&tls("cert = \"a\", key = \"b\", client_auth = \"maybe\""), &["maybe", "`optional`"]);
    assert_refused(&tls("certificate = \"a\""), &["certificate", "`cert`"]);
    assert_refused("tls.cert = \"a\"", &["tls.cert = \"a\" (test.toml:1)", "without", "tls.key"]);
    assert_refused("tls.key = \"a\"", &["tls.key", "without", "tls.cert"]);
    assert_refused(&listen("kind = \"wep\"\naddress = \"127.0.0.1:1\""), &["wep", "`web`"]);
    assert_refused(&listen("kind = \"web\""), &["address"]);
    assert_refused(&listen("kind = \"web\"\naddress = \"nowhere\""), &["nowhere", "127.0.0.1:8080"]);
    assert_refused(&listen("kind = \"web\"\naddress = \"127.0.0.1:1\"\nadress = 1"), &["adress"]);
    let twice = listen("kind = \"web\"\naddress = \"127.0.0.1:1\"").repeat(2);
    assert_refused(&twice, &["web=127.0.0.1:1", "taken by another"]);
    assert_refused("listen = []", &["listen = []", "from 1 to 64"]);
    assert!(resolve("", &[("STARLING_LISTEN", "127.0.0.1:1")], &[]).unwrap_err().contains("KIND=ADDRESS"));
}

#[test]
fn unknown_keys_are_errors_that_name_the_nearest() {
    assert_refused("crores = 1", &["test.toml:1: unknown key \"crores\"", "did you mean cores?"]);
    assert_refused("\n\n[limits]\ncontent_byte = 1", &["test.toml:4", "limits.content_bytes?"]);
    assert_refused(
        "[limit]\ncontent_bytes = 1",
        &["limit.content_bytes", "did you mean limits.content_bytes?"],
    );
    assert_refused("content_bytes = 1", &["did you mean limits.content_bytes?"]);
    assert_refused("[limits.deep]\nhello_ms = 1", &["limits.deep.hello_ms"]);
    assert_refused("[nonsense]", &["unknown key \"nonsense\""]);
    assert_refused("[[limits]]\nhello_ms = 1", &["limits must be a section"]);
    assert_refused("limits = 1", &["limits must be a section"]);
    assert_refused(&format!("{} = 1", "x".repeat(100_000)), &["unknown key"]);

    let env = |name| resolve("", &[(name, "1")], &[]).unwrap_err();
    assert!(env("STARLING_COREZ").contains("did you mean STARLING_CORES?"));
    assert!(env("STARLING_CONTENT_BYTES").contains("did you mean STARLING_LIMITS_CONTENT_BYTES?"));
    assert!(env("STARLING_QQQQQQQQQQQQ").ends_with("no such environment variable"));
    assert!(resolve("", &[], &[("limits.helo_ms", "1")]).unwrap_err().contains("limits.hello_ms?"));
}

#[test]
fn each_number_is_refused_outside_its_range_whoever_sets_it() {
    for key in Config::keys() {
        let Some((low, high)) = key.range else { continue };
        for wrong in [i128::from(low) - 1, i128::from(high) + 1, i128::from(i64::MAX), i128::from(i64::MIN)] {
            let wrong = wrong.to_string();
            let range = format!("from {low} to {high}");
            let env_name = key.env_name();
            for (source, message) in [
                ("test.toml:1", refusal(&format!("{} = {wrong}", key.name))),
                (env_name.as_str(), resolve("", &[(&env_name, &wrong)], &[]).unwrap_err()),
                ("--set", resolve("", &[], &[(key.name, &wrong)]).unwrap_err()),
            ] {
                let expected = format!("{source}: {} = {wrong} must be {range}", key.name);
                assert_eq!(message, expected);
            }
        }
        assert_refused(&format!("{} = \"many\"", key.name), &[key.name, "a whole number", &high.to_string()]);
        assert_refused(&format!("{} = 1.5", key.name), &[key.name, "a whole number"]);
    }
}

#[test]
fn contradictions_name_both_sides_and_their_sources() {
    let timeout =
        "heartbeat.timeout_ms = 100 (test.toml:2) must be more than heartbeat.probe_ms = 30000 (default)";
    assert_eq!(refusal("[heartbeat]\ntimeout_ms = 100"), timeout);
    assert_refused("[heartbeat]\nprobe_ms = 100\ntimeout_ms = 100", &["must be more than"]);
    resolve("[heartbeat]\nprobe_ms = 100\ntimeout_ms = 101", &[], &[]).unwrap();

    let message = resolve("", &[("STARLING_LIMITS_CONTENT_BYTES", "262145")], &[]).unwrap_err();
    assert!(message.contains("limits.content_bytes = 262145 (STARLING_LIMITS_CONTENT_BYTES)"), "{message}");
    assert!(message.contains("limits.inbound_bytes = 262144 (default)"), "{message}");

    let large = "[limits]\ninbound_bytes = 2000000\ncontent_bytes = 600000\n[store]\nqueue_bytes = 1048576\n";
    assert_refused(large, &["store.queue_bytes = 1048576", "at least twice limits.content_bytes = 600000"]);
    resolve(&format!("{large}kind = \"memory\"\n"), &[], &[]).unwrap();
    assert_refused("[limits]\nquery_limit_max = 10", &["query_limit_default = 50 (default)"]);
    assert_refused("[limits]\nhttp_head_bytes = 1024", &["http_target_bytes = 8192 (default)"]);
    let two_keys = "[auth]\njwt_secret = \"hush\"\njwks_file = \"a\"";
    assert_refused(two_keys, &["auth.jwks_file", "auth.jwt_secret", "must not stand beside"]);
    assert!(!refusal(two_keys).contains("hush"));
}

#[test]
fn wrong_types_and_words_are_refused() {
    assert_refused("pin = 1", &["pin = 1 must be true or false"]);
    assert_refused("cores = { a = 1 }", &["cores", "a whole number"]);
    assert_refused("data_dir = \"\"", &["data_dir", "must not be empty"]);
    assert_refused("data_dir = 1", &["data_dir = 1"]);
    assert_refused(
        "[log]\nlevel = \"loud\"",
        &["test.toml:2", "\"loud\"", "off, error, warn, info, debug, trace"],
    );
    assert_refused("[log]\nformat = \"xml\"", &["text, json"]);
    assert_refused("[store]\nkind = \"tape\"", &["sqlite, memory"]);
    assert_refused("[web]\nallowed_origins = [\"*\"]", &["\"*\"", "scheme://host"]);
    assert_refused("[web]\nallowed_origins = [1]", &["list of texts"]);
    assert_refused("[log]\nfile = \"\"\"\na\nb\"\"\"\nlevel = 1", &["test.toml:5"]);
    assert_refused("cores = 1\ncores = 2", &["test.toml:2"]);
    assert_refused("cores = ", &["test.toml:1"]);
}

#[test]
fn secrets_stay_out_of_messages_and_debug() {
    let refused = resolve("", &[("STARLING_AUTH_API_KEYS", "hush")], &[]).unwrap_err();
    assert!(refused.contains("STARLING_AUTH_API_KEYS") && !refused.contains("hush"), "{refused}");
    assert!(!refusal("[auth]\napi_keys = [{ name = \"a\", key = \"hush\", x = 1 }]").contains("hush"));
    let escape = "[]\ncores = 9\nother = [\"hush\"]";
    assert!(resolve("", &[("STARLING_AUTH_API_KEYS", escape)], &[]).is_err());
    let config = resolve(
        "[auth]\njwt_secret = \"hush\"\napi_keys = [{ name = \"a\", key = \"hush\" }]\n[cluster]\nredis = \"redis://:hush@h\"",
        &[],
        &[],
    )
    .unwrap();
    assert!(!format!("{config:?}").contains("hush"));
    assert!(config.notices().iter().all(|notice| !notice.contains("hush")));
}

#[test]
fn where_nodes_meet() {
    let urls = |file: &str| resolve(file, &[], &[]).unwrap().cluster.redis.0;
    assert_eq!(urls(""), []);
    let one = Secret("redis://:p@h".to_owned());
    assert_eq!(urls("cluster.redis = \"redis://:p@h\""), std::slice::from_ref(&one));
    assert_eq!(
        urls("cluster.redis = [\"redis://:p@h\", \"unix:///r\"]"),
        [one, Secret("unix:///r".to_owned())]
    );
    let env = [("STARLING_CLUSTER_REDIS", "[\"redis://a\", \"redis://b\"]")];
    assert_eq!(resolve("", &env, &[]).unwrap().cluster.redis.0.len(), 2);
    for port in ["\"redis://:hush@h:99999\"", "\"rediss://h:abc/0\"", "\"redis://[::1]:0\""] {
        let refused = refusal(&format!("cluster.redis = {port}"));
        assert!(refused.contains("port from 1 to 65535") && !refused.contains("hush"), "{refused}");
    }
    assert_eq!(urls("cluster.redis = \"redis://u:p@[::1]:6379/0\"").len(), 1);
    for wrong in
        ["[]", "\"\"", "\"hush\"", "\"http://hush\"", "\"redis://\"", "7", "[\"redis://h\", \"hush\"]"]
    {
        let refused = refusal(&format!("cluster.redis = {wrong}"));
        assert!(refused.contains("cluster.redis") && !refused.contains("hush"), "{refused}");
    }
    assert_refused("cluster.prefix = \"a{b}\"", &["cluster.prefix", "letters"]);
    assert_refused(&format!("cluster.prefix = \"{}\"", "a".repeat(33)), &["32"]);
    assert_refused("cluster.lease_ms = 1", &["cluster.lease_ms", "from 500"]);
}

#[test]
fn keys_for_tokens_fit_the_algorithm() {
    let auth = |fields: &str| format!("[auth]\n{fields}");
    for fields in [
        "jwt_algorithm = \"HS256\"",
        "jwt_secret = \"s\"",
        "jwks_file = \"a\"",
        "jwt_algorithm = \"RS256\"\njwt_key_file = \"a\"",
        "jwt_algorithm = \"ES256\"\njwks_file = \"a\"",
        "jwt_audience = \"chat\"\njwt_issuer = \"us\"",
    ] {
        resolve(&auth(fields), &[], &[]).unwrap_or_else(|why| panic!("{fields}: {why}"));
    }
    assert_refused(&auth("jwt_key_file = \"a\""), &["test.toml:2", "HS256 needs auth.jwt_secret"]);
    for word in ["RS256", "ES256", "EdDSA"] {
        let algorithm = format!("jwt_algorithm = \"{word}\"");
        let remedy = "set auth.jwt_key_file or auth.jwks_file";
        assert_refused(&auth(&algorithm), &["test.toml:2", word, remedy]);
        let message = refusal(&auth(&format!("{algorithm}\njwt_secret = \"hush\"")));
        assert!(message.contains(remedy) && message.contains(word), "{message}");
        assert!(!message.contains("hush"));
    }
}

#[test]
fn notices_about_tokens() {
    let notices = |fields: &str| resolve(&format!("[auth]\n{fields}"), &[], &[]).unwrap().notices();
    let short = notices(&format!("jwt_secret = \"{}\"", "h".repeat(31)));
    assert!(matches!(&short[..], [one] if one.contains("32 bytes") && !one.contains("hhh")), "{short:?}");
    assert_eq!(notices(&format!("guests = false\njwt_secret = \"{}\"", "h".repeat(32))), [""; 0]);
    let closed = notices("guests = false");
    assert!(matches!(&closed[..], [one] if one.contains("nobody can say hello")), "{closed:?}");
}

#[test]
fn a_notice_names_whose_keys_can_be_guessed() {
    let notices = |keys: &[(&str, usize)]| {
        let keys = keys
            .iter()
            .map(|(name, bytes)| format!("{{ name = \"{name}\", key = \"{}\" }}", "h".repeat(*bytes)));
        let file = format!("[auth]\napi_keys = [{}]", keys.collect::<Vec<_>>().join(", "));
        resolve(&file, &[], &[]).unwrap().notices()
    };
    assert_eq!(notices(&[("ci", 16), ("root", 40)]), [""; 0]);
    let short = notices(&[("ci", 15), ("root", 16), ("deploy", 1)]);
    assert!(
        matches!(&short[..], [one] if one.contains("16 bytes") && one.ends_with(": of ci, deploy")),
        "{short:?}"
    );
    assert!(!short[0].contains("hhh"));
}

#[test]
fn a_token_for_consul_is_one_that_can_be_sent() {
    for token in ["two words", "two\\nlines", "é", "tab\\t"] {
        let message = resolve(&format!("consul.token = \"{token}\"\n"), &[], &[]).unwrap_err();
        assert!(
            message.contains("consul.token must be of visible ASCII") && !message.contains(token),
            "{message}"
        );
    }
    resolve("consul.agent = \"http://127.0.0.1:8500\"\nconsul.token = \"8e03978e-40d5_+/=\"\n", &[], &[])
        .unwrap();
}

#[test]
fn an_ack_promises_no_more_than_the_store_can() {
    for ack in ["stored", "synced"] {
        let file = format!("[store]\nkind = \"memory\"\nack = \"{ack}\"");
        assert_refused(&file, &[ack, "more than can be given", "store.kind = \"memory\""]);
        resolve(&format!("[store]\nkind = \"sqlite\"\nack = \"{ack}\""), &[], &[]).unwrap();
    }
}

#[test]
fn rules_for_the_history_of_some_rooms() {
    let file = "[[history.rooms]]\npattern = \"ops-*\"\ncount = 5\n[[history.rooms]]\npattern = \"*\"\nbytes = 1\nage_s = 2";
    let config = resolve(file, &[], &[]).unwrap();
    let [first, second] = &config.history.rooms[..] else { panic!("two rules") };
    assert_eq!(
        (first.pattern.as_str(), first.count, first.bytes, first.age_s),
        ("ops-*", Some(5), None, None)
    );
    assert_eq!((second.count, second.bytes, second.age_s), (None, Some(1), Some(2)));
    assert_round_trip(&config);

    let rule = |pattern: &str| format!("history.rooms = [{{ pattern = \"{pattern}\" }}]");
    for pattern in ["a", "*", "Zoë-*", &"x".repeat(64)] {
        resolve(&rule(pattern), &[], &[]).unwrap_or_else(|why| panic!("{pattern}: {why}"));
    }
    for pattern in ["", "a b", "a/b", "a?", "\u{a0}", &"x".repeat(65)] {
        assert_refused(&rule(pattern), &["history.rooms", "1 to 64"]);
    }
    assert_refused("history.rooms = [{ count = 1 }]", &["pattern"]);
    assert_refused("history.rooms = [{ pattern = \"a\", size = 1 }]", &["size"]);
    let large = "history.rooms = [{ pattern = \"a\", count = 10000001 }]";
    assert_refused(large, &["count from 0 to 10000000"]);
}

#[test]
fn the_printed_form_explains_each_key() {
    let text = Config::default().print_commented();
    for key in Config::keys() {
        let field = key.name.rsplit('.').next().unwrap();
        let is_told = |line: &str| {
            line.starts_with(&format!("{field} ="))
                || line.starts_with(&format!("# {field} ="))
                || line == format!("[[{field}]]")
        };
        assert!(text.lines().any(is_told), "{}", key.name);
        assert!(!key.doc.is_empty());
    }
    assert_eq!(text.matches("# Default: ").count(), Config::keys().count());
    assert!(text.lines().all(|line| line.chars().count() <= 120 && !line.ends_with(' ')), "{text}");
    assert!(!text.contains("secrets: keep"));
}

#[track_caller]
fn assert_round_trip(config: &Config) {
    let text = config.print_commented();
    let again = Config::resolve(Some(("printed", &text)), std::iter::empty(), &Overrides::default());
    assert_eq!(again.as_ref(), Ok(config), "{text}");
}

#[test]
fn the_printed_form_reads_back_equal() {
    assert_round_trip(&Config::default());
    let file = r##"
        data_dir = "a \"b\"\n\\c\t\u0001 ü"
        listen = [{ kind = "line", address = "[::1]:0" }, { kind = "web", address = "0.0.0.0:1" }]
        [auth]
        jwt_secret = "two\nlines '''"
        api_keys = [{ name = "a = b", key = "#]}" }, { name = "c", key = "d", admin = true }]
        [web]
        echo = true
        allowed_origins = ["https://a.example", "http://localhost:3000"]
        [log]
        file = "x.log"
        level = "off"
    "##;
    let config = resolve(file, &[], &[]).unwrap();
    assert!(config.print_commented().contains("It holds secrets"));
    assert_round_trip(&config);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any value of any number, any text where a text may stand.
    #[test]
    fn whatever_is_accepted_reads_back_equal(
        picks in proptest::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 1..20),
        text in "\\PC{1,20}|[\u{0}-\u{ff}]{1,20}",
    ) {
        let numbers: Vec<_> = Config::keys().filter(|key| key.range.is_some()).collect();
        let mut flags = Overrides::default();
        for (pick, value) in picks {
            let key = pick.get(&numbers);
            let (low, high) = key.range.unwrap();
            flags.set("--set", key.name, (low + value % (high - low + 1)).to_string());
        }
        flags.set("--set", "auth.jwt_secret", text.clone());
        flags.set("--set", "log.file", text);
        if let Ok(config) = Config::resolve(None, std::iter::empty(), &flags) {
            assert_round_trip(&config);
        }
    }

    /// Nothing in a file can make the reader panic, and every refusal is one line.
    #[test]
    fn any_file_is_answered(text in "([a-z_.]{1,8} = [0-9a-z\"'\\[\\]{}=., ]{0,12}\n|\\[\\[?[a-z.]{1,8}\\]?\\]\n|\\PC{0,8}\n){0,6}") {
        if let Err(message) = resolve(&text, &[], &[]) {
            prop_assert_eq!(message.lines().count(), 1, "{}", message);
        }
    }
}

#[test]
fn no_refusal_repeats_a_secret() {
    const SECRET: &str = "SEKRET-0123456789abcdef";
    let forms = [
        "SECRET",
        "\"SECRET\"",
        "\"SECRET\" x",
        "\"SECRET",
        "[\"SECRET\"]",
        "[[\"SECRET\"]]",
        "{ \"SECRET\" = 1 }",
        "{ a = \"SECRET\" }",
        "[{ \"SECRET\" = \"p\" }]",
        "[{ name = \"p\", key = [\"SECRET\"] }]",
        "[{ name = \"p\", key = { \"SECRET\" = 1 } }]",
        "[{ name = \"p\", key = \"k\", admin = \"SECRET\" }]",
        "[{ name = \"p\", key = \"SECRET\" }, 1]",
        "[{ key = \"SECRET\" }]",
        "[{ name = \"p\", key = \"SECRET\" }, { name = \"q\", key = \"SECRET\" }]",
        "[{ name = \"\", key = \"SECRET\" }]",
        "\"http://SECRET\"",
        "\"redis://h/?SECRET=1\"",
        "\"redis://u:SECRET@h:x\"",
        "\"redis://h/SECRET\"",
        "[\"redis://h\", \"SECRET\"]",
        "\"http://u:SECRET@h:1/?token=SECRET\"",
        "\"https://h:1/?token=SECRET\"",
        "\"http://h h:1/?token=SECRET\"",
    ];
    let secrets: Vec<_> = Config::keys().filter(|key| key.is_secret).collect();
    assert!(secrets.len() > 3, "{}", secrets.len());
    let mut refusals = 0;
    for key in secrets {
        for form in forms.map(|form| form.replace("SECRET", SECRET)) {
            let file = resolve(&format!("{} = {form}\n", key.name), &[], &[]);
            let env = resolve("", &[(&key.env_name(), &form)], &[]);
            let flag = resolve("", &[], &[(key.name, &form)]);
            for message in [file, env, flag].into_iter().filter_map(Result::err) {
                refusals += 1;
                assert!(!message.contains(SECRET), "{form}: {message}");
            }
        }
    }
    assert!(refusals > 100, "{refusals}");
}

#[test]
fn a_list_of_keys_is_refused_with_what_is_wrong_of_which() {
    for (keys, why) in [
        ("\"x\"", "must be a list of { name, key, admin }"),
        ("[{ name = \"a\", key = \"k\" }, \"x\"]", "number 2 is not in braces"),
        ("[{ name = \"a\", key = \"k\", amdin = true }]", "number 1 has a field of another name"),
        ("[{ name = \"a\" }]", "number 1 has no key"),
        ("[{ name = 1, key = \"k\" }]", "number 1 has a name that is no text"),
        (
            "[{ name = \"a\", key = \"k\", admin = 1 }]",
            "number 1 has an admin that is neither true nor false",
        ),
    ] {
        assert_refused(&format!("auth.api_keys = {keys}\n"), &["test.toml:1: auth.api_keys = (secret)", why]);
    }
}

#[test]
fn sections_that_have_no_effect_are_named() {
    let notices = |file: &str| resolve(file, &[], &[]).unwrap().notices();
    let redis = "[cluster]\nredis = \"redis://127.0.0.1\"\n";
    for (file, section) in [
        ("[cluster]\nprefix = \"chat\"\n".to_owned(), "[cluster] has no effect without cluster.redis"),
        (format!("{redis}[store]\nsync_ms = 5\n"), "[store] has no effect with cluster.redis"),
        ("[consul]\nservice = \"chat\"\n".to_owned(), "[consul] has no effect without consul.agent"),
    ] {
        let told = notices(&file);
        assert!(told.len() == 1 && told[0].starts_with(section), "{file}: {told:?}");
    }
    for kind in ["sqlite", "memory"] {
        assert_eq!(notices(&format!("{redis}[store]\nkind = \"{kind}\"\n")), Vec::<String>::new());
    }
    assert_eq!(notices("[store]\nsync_ms = 5\n"), Vec::<String>::new());
}
