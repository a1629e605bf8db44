//! What a request asks for: the forms of a target (RFC 9112, 3.2), hosts, and percent-encoding (RFC 3986, 2.1).

use super::{HttpError, Refused};

/// Pairs in a query. No request of ours has more than four.
const QUERY_PAIRS_MAX: usize = 32;

static FORM: HttpError =
    HttpError { status: 400, message: "the target has none of the forms that fit its method" };
static HOST: HttpError = HttpError { status: 400, message: "the host is not valid" };

/// A target taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    /// The host of an absolute form.
    pub(super) host: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Takes apart the origin form (`/path?query`), the absolute form (`http://host/path?query`) and `*`. The authority
    /// form is CONNECT's, which no server but a proxy answers.
    pub(super) fn parse(method: &str, target: &'a str) -> Result<Target<'a>, Refused> {
        if target == "*" && method == "OPTIONS" {
            return Ok(Target { path: target, query: None, host: None });
        }
        let (host, rest) = if target.starts_with('/') {
            (None, target)
        } else {
            let behind_scheme =
                strip_prefix(target, "http://").or_else(|| strip_prefix(target, "https://")).ok_or(&FORM)?;
            let host_bytes = behind_scheme.find(['/', '?']).unwrap_or(behind_scheme.len());
            let (host, rest) = behind_scheme.split_at(host_bytes);
            (Some(check_host(host)?), rest)
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        Ok(Target { path: if path.is_empty() { "/" } else { path }, query, host })
    }
}

/// `host` if it is `host[:port]`: a name, an IPv4 address or an IPv6 address in brackets (RFC 3986, 3.2.2). An empty
/// one is no HTTP host (RFC 9110, 4.2.1).
pub(super) fn check_host(host: &str) -> Result<&str, Refused> {
    let (is_valid_name, port) = if let Some(bracketed) = host.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']').ok_or(&HOST)?;
        (
            address.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte))
                && !address.is_empty(),
            port,
        )
    } else {
        let name_bytes = host.find(':').unwrap_or(host.len());
        let (name, port) = host.split_at(name_bytes);
        (name.bytes().all(is_name_byte) && !name.is_empty(), port)
    };
    let is_valid_port = match port.strip_prefix(':') {
        Some(digits) => digits.is_empty() || digits.parse::<u16>().is_ok() && !digits.starts_with('+'),
        None => port.is_empty(),
    };
    if is_valid_name && is_valid_port { Ok(host) } else { Err(&HOST) }
}

/// `text` with its escapes decoded; `None` if one of them is not `%` and two digits, or if the outcome is not UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    decode(text, b'+')
}

/// The same for the names and values of a query, where a plus is a space.
pub fn form_decode(text: &str) -> Option<String> {
    decode(text, b' ')
}

/// The pairs of a query, decoded, in their order; one without `=` has an empty value. `None` if anything in it cannot
/// be decoded, or if there are more than 32.
pub fn query_pairs(query: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        if pairs.len() == QUERY_PAIRS_MAX {
            return None;
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.push((form_decode(name)?, form_decode(value)?));
    }
    Some(pairs)
}

fn decode(text: &str, plus: u8) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            b'+' => plus,
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte)
}

/// `text` behind `prefix`, which is compared without regard to case: a scheme's case means nothing.
fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let front = text.get(..prefix.len())?;
    front.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_come_in_three_forms() {
        let target = |path, query, host| Some(Target { path, query, host });
        for (method, text, expected) in [
            ("GET", "/", target("/", None, None)),
            ("GET", "/a/b?c=d?e", target("/a/b", Some("c=d?e"), None)),
            ("GET", "/a?", target("/a", Some(""), None)),
            ("GET", "//a", target("//a", None, None)),
            ("GET", "HTTP://h:80/a?b", target("/a", Some("b"), Some("h:80"))),
            ("GET", "https://[::1]", target("/", None, Some("[::1]"))),
            ("GET", "http://h?b", target("/", Some("b"), Some("h"))),
            ("OPTIONS", "*", target("*", None, None)),
            ("GET", "*", None),
            ("GET", "a", None),
            ("GET", "http:///a", None),
            ("GET", "http://user@h/a", None),
            ("GET", "ftp://h/a", None),
            ("CONNECT", "h:443", None),
        ] {
            assert_eq!(Target::parse(method, text).ok(), expected, "{method} {text}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses_with_a_port_or_without() {
        for host in ["a", "a.b-c:8080", "127.0.0.1", "[::1]", "[::ffff:1.2.3.4]:80", "a:", "x_y", "a%20b"] {
            assert_eq!(check_host(host), Ok(host));
        }
        for host in [
            "", ":80", "a b", "a/b", "a@b", "a:b", "a:+8", "a:70000", "a:1:2", "[::1", "[]", "[x]", "[::1]x",
            "ä",
        ] {
            assert_eq!(check_host(host), Err(&HOST), "{host}");
        }
    }

    #[test]
    fn escapes_are_decoded_or_refused() {
        assert_eq!(percent_decode("/a%20b+c/%C3%A9").as_deref(), Some("/a b+c/é"));
        assert_eq!(form_decode("a%2Bb+c").as_deref(), Some("a+b c"));
        for broken in ["%", "%2", "%2g", "%+1", "%FF", "%C3"] {
            assert_eq!(percent_decode(broken), None, "{broken}");
        }
    }

    #[test]
    fn queries_are_pairs_and_bounded() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let pairs = vec![pair("a", "1=2"), pair("", "x"), pair("b c", ""), pair("d", "é")];
        assert_eq!(query_pairs("a=1=2&&=x&b+c&d=%c3%a9&"), Some(pairs));
        assert_eq!(query_pairs(""), Some(vec![]));
        assert_eq!(query_pairs("a=%zz"), None);
        assert_eq!(query_pairs(&"a&".repeat(32)).unwrap().len(), 32);
        assert_eq!(query_pairs(&"a&".repeat(33)), None);
    }
}
