//! What h2 takes of a request's fields and RFC 9113 does not.

use http::{HeaderValue, Method, Request};

/// Whether a request is malformed (RFC 9113, 8.1.1) although h2 has taken it: a value that begins or ends with a space or a tab (8.2.1), an
/// authority with a user in it, or another than `host` has (8.3.1), CONNECT without one (8.5).
pub fn is_malformed(request: &Request<()>) -> bool {
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    request.headers().values().any(is_padded)
        || authority.is_some_and(|authority| authority.contains('@'))
        || (authority.is_none() && request.method() == Method::CONNECT)
        || authority.is_some_and(|authority| {
            request
                .headers()
                .get_all("host")
                .iter()
                .any(|host| !is_same(authority.as_bytes(), host.as_bytes()))
        })
}

fn is_padded(value: &HeaderValue) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_space(value.as_bytes().first()) || is_space(value.as_bytes().last())
}

/// Whether two names of a host are the same, whatever their case, and whether the scheme's own port stands behind them.
fn is_same(left: &[u8], right: &[u8]) -> bool {
    let without_port = |name: &[u8]| {
        let end =
            [&b":80"[..], b":443"].iter().find(|port| name.ends_with(port)).map_or(0, |port| port.len());
        name.len() - end
    };
    left[..without_port(left)].eq_ignore_ascii_case(&right[..without_port(right)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(Method::POST).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    #[test]
    fn whole_requests_are_not() {
        for host in ["chat", "CHAT", "chat:80"] {
            assert!(
                !is_malformed(&request("http://chat/a", &[("host", host), ("x", "a b\tc"), ("empty", "")])),
                "{host}"
            );
        }
        assert!(!is_malformed(&request("/a", &[("host", "chat")])));
        assert!(!is_malformed(&request("http://chat:8080/a", &[("host", "chat:8080")])));
    }

    #[test]
    fn values_are_not_padded() {
        for value in [" a", "a ", "\ta", "a\t", " "] {
            let mut request = request("http://chat/a", &[]);
            request.headers_mut().insert("x", HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
            assert!(is_malformed(&request), "{value:?}");
        }
    }

    #[test]
    fn the_authority_is_one_host_and_no_user() {
        assert!(is_malformed(&request("http://alice@chat/a", &[])));
        assert!(is_malformed(&request("http://chat/a", &[("host", "other")])));
        assert!(is_malformed(&request("http://chat:8080/a", &[("host", "chat")])));
        let connect =
            |uri: &str| Request::builder().method(Method::CONNECT).uri(uri).body(()).expect("a request");
        assert!(is_malformed(&connect("/")) && !is_malformed(&connect("chat:80")));
    }
}
