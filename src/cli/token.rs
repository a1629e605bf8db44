//! `starling token`: a token for a user, signed with the key material of the configuration.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{EXIT_FAILURE, EXIT_USAGE, Flags, fail};
use crate::auth::Claims;
use crate::auth::jwt::{KeySource, Options, Signer};
use crate::chat::name::Nickname;
use crate::chat::pattern::Pattern;
use crate::config::{Config, JwtAlgorithm};
use crate::sys;

/// Longest time that a token may be asked for, in seconds: a hundred years. What shall last longer says so with
/// `--no-expiry`.
const SPAN_SECONDS_MAX: u64 = 36_500 * 86_400;

/// Bytes of a private key's file: RSA with 8192 bits takes 6,400; a device or a wrong file ends here.
const KEY_BYTES_MAX: u64 = 65_536;

/// The flags of `starling token`.
#[derive(Args, Debug)]
pub struct TokenFlags {
    /// The nickname that the token is of
    #[arg(long, value_name = "NICKNAME")]
    sub: String,
    /// The token is of an admin
    #[arg(long)]
    admin: bool,
    /// A room that the token is for, or a pattern with `*`; may be repeated; without it: all rooms
    #[arg(long, value_name = "NAME-OR-PATTERN")]
    room: Vec<String>,
    /// What targeted broadcasts find the user by; may be repeated
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// How long the token is good: 90s, 15m, 12h or 30d
    #[arg(long, value_name = "TIME", default_value = "1h", conflicts_with = "no_expiry")]
    ttl: String,
    /// The token is good for ever
    #[arg(long)]
    no_expiry: bool,
    /// The token is good only after this time: 90s, 15m, 12h or 30d
    #[arg(long, value_name = "TIME")]
    not_before: Option<String>,
    /// Whom the token is for (`aud`); without it: auth.jwt_audience
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,
    /// Who gives the token out (`iss`); without it: auth.jwt_issuer
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
    /// The private key that signs (PEM), for RS256, ES256 and EdDSA
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
    /// Tell on standard error what the token says, terminal or not
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    shared: Flags,
}

/// Prints a token.
pub fn run(flags: &TokenFlags) -> ExitCode {
    let Issued { token, summary, warning } = match issue(flags, sys::unix_ms()) {
        Ok(issued) => issued,
        Err(why) => return fail(EXIT_USAGE, why),
    };
    if let Some(warning) = warning {
        let _ = writeln!(io::stderr(), "starling: warning: {warning}");
    }
    if flags.verbose || io::stderr().is_terminal() {
        // Where nobody can be told, the token still goes out.
        let _ = io::stderr().write_all(summary.as_bytes());
    }
    match writeln!(io::stdout(), "{token}").and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_FAILURE, format_args!("cannot write to standard output: {error}")),
        Ok(()) => ExitCode::SUCCESS,
    }
}

struct Issued {
    token: String,
    /// What it says.
    summary: String,
    /// What is wrong with the secret that signed it, as `serve` says it too.
    warning: Option<String>,
}

/// A token as of `now_ms` since the Unix epoch, or one line that says why there is none.
fn issue(flags: &TokenFlags, now_ms: u64) -> Result<Issued, String> {
    let config = flags.shared.resolve()?;
    let nickname = Nickname::parse(&flags.sub).map_err(|why| format!("--sub: {:?}: {why}", flags.sub))?;
    for room in &flags.room {
        Pattern::parse(room).map_err(|why| format!("--room: {room:?}: {why}"))?;
    }
    if flags.tag.iter().any(String::is_empty) {
        return Err("--tag: a tag has at least one character".to_owned());
    }
    // Tokens count in whole seconds, and a time that was asked for is not to be cut short.
    let base_ms = now_ms.div_ceil(1000) * 1000;
    let after = |flag: &str, text: &str| {
        parse_span(text).map(|seconds| base_ms + seconds * 1000).map_err(|why| format!("{flag}: {why}"))
    };
    let expires_at_ms = (!flags.no_expiry).then(|| after("--ttl", &flags.ttl)).transpose()?;
    let not_before_ms = flags.not_before.as_deref().map(|text| after("--not-before", text)).transpose()?;
    if expires_at_ms.zip(not_before_ms).is_some_and(|(end, start)| end <= start) {
        return Err(format!("--ttl: {} ends before the token is good (--not-before)", flags.ttl));
    }
    let claims = Claims {
        nickname,
        is_admin: flags.admin,
        rooms: (!flags.room.is_empty()).then(|| flags.room.clone()),
        tags: flags.tag.clone(),
        expires_at_ms,
        account_at_ms: None,
    };
    let options = Options {
        not_before_ms,
        audience: flags.audience.clone().or_else(|| config.auth.jwt_audience.clone()),
        issuer: flags.issuer.clone().or_else(|| config.auth.jwt_issuer.clone()),
        ..Options::default()
    };
    let token = signer(&config, flags.signing_key.as_deref())?
        .sign(&claims, &options)
        .map_err(|why| format!("cannot sign: {why}"))?;
    let summary = summary(flags, &claims, &options, config.auth.jwt_algorithm);
    Ok(Issued { token, summary, warning: config.short_secret_notice() })
}

fn signer(config: &Config, signing_key: Option<&Path>) -> Result<Signer, String> {
    let auth = &config.auth;
    let word = auth.jwt_algorithm.word();
    match (auth.jwt_algorithm, signing_key, &auth.jwt_secret) {
        (JwtAlgorithm::Hs256, Some(_), _) => Err(
            "--signing-key: auth.jwt_algorithm is HS256, which signs with auth.jwt_secret; set the algorithm of the key"
                .to_owned(),
        ),
        (JwtAlgorithm::Hs256, None, Some(secret)) => {
            Signer::new(auth.jwt_algorithm, KeySource::Secret(&secret.0))
                .map_err(|why| format!("auth.jwt_secret: {why}"))
        }
        // Not `--set`: what is on a command line, everybody on the machine can read.
        (JwtAlgorithm::Hs256, None, None) => Err(
            "no secret to sign with: set auth.jwt_secret in the file, or STARLING_AUTH_JWT_SECRET, as for the server"
                .to_owned(),
        ),
        (_, None, _) => Err(format!("{word} signs with a private key: name its file (PEM) with --signing-key")),
        (_, Some(path), _) => {
            let pem = read_key(path)?;
            Signer::new(auth.jwt_algorithm, KeySource::Pem(&pem))
                .map_err(|why| format!("--signing-key: {}: {why}", path.display()))
        }
    }
}

fn read_key(path: &Path) -> Result<Vec<u8>, String> {
    let mut pem = Vec::new();
    let read = File::open(path).and_then(|file| file.take(KEY_BYTES_MAX + 1).read_to_end(&mut pem));
    match read {
        Ok(_) if pem.len() as u64 > KEY_BYTES_MAX => {
            Err(format!("--signing-key: {}: longer than {KEY_BYTES_MAX} bytes", path.display()))
        }
        Ok(_) => Ok(pem),
        Err(error) => Err(format!("--signing-key: cannot read {}: {error}", path.display())),
    }
}

/// Reads `90s`, `15m`, `12h` or `30d` as seconds.
fn parse_span(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time: write 90s, 15m, 12h or 30d");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count = &text[..text.len() - 1];
    // Not `u64::from_str` alone, which takes a sign too.
    if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let span = count.parse::<u64>().ok().and_then(|count| count.checked_mul(seconds));
    match span {
        Some(0) => Err(format!("{text:?} is no time at all")),
        Some(span) if span <= SPAN_SECONDS_MAX => Ok(span),
        _ => Err(format!("{text:?} is more than {}d", SPAN_SECONDS_MAX / 86_400)),
    }
}

/// What a token says, for a person.
fn summary(flags: &TokenFlags, claims: &Claims, options: &Options, algorithm: JwtAlgorithm) -> String {
    let list = |items: &[String]| {
        items.iter().map(|item| item.escape_debug().to_string()).collect::<Vec<_>>().join(", ")
    };
    let moment = |after: &str, ms: u64| format!("in {after} ({} s since the Unix epoch)", ms / 1000);
    let rows = [
        ("signed with", Some(algorithm.word().to_owned())),
        ("admin", claims.is_admin.then(|| "yes".to_owned())),
        ("rooms", Some(claims.rooms.as_deref().map_or_else(|| "all".to_owned(), list))),
        ("tags", (!claims.tags.is_empty()).then(|| list(&claims.tags))),
        (
            "good from",
            options.not_before_ms.zip(flags.not_before.as_deref()).map(|(ms, after)| moment(after, ms)),
        ),
        (
            "expires",
            Some(claims.expires_at_ms.map_or_else(|| "never".to_owned(), |ms| moment(&flags.ttl, ms))),
        ),
        ("audience", options.audience.as_ref().map(|audience| audience.escape_debug().to_string())),
        ("issuer", options.issuer.as_ref().map(|issuer| issuer.escape_debug().to_string())),
    ];
    let mut summary = format!("a token of {}\n", claims.nickname.as_str());
    for (what, told) in rows {
        if let Some(told) = told {
            summary.push_str(&format!("  {what}: {told}\n"));
        }
    }
    summary
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_are_numbers_with_a_unit() {
        for (text, seconds) in
            [("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), ("36500d", SPAN_SECONDS_MAX)]
        {
            assert_eq!(parse_span(text), Ok(seconds), "{text}");
        }
        for text in [
            "",
            "s",
            "1",
            "1w",
            "+1s",
            "-1s",
            "1.5h",
            "1 h",
            "0s",
            "36501d",
            "99999999999999999999s",
            "1h30m",
            "1ä",
        ] {
            let why = parse_span(text).unwrap_err();
            assert!(why.contains(&format!("{text:?}")), "{why}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_span_within_bounds_or_refused(text in "\\PC{0,12}|[0-9]{1,25}[smhd]") {
            if let Ok(seconds) = parse_span(&text) {
                prop_assert!((1..=SPAN_SECONDS_MAX).contains(&seconds));
            }
        }
    }
}
