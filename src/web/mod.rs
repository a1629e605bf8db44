//! What the HTTP listener serves: the chat page and the operator's, embedded in the binary, and the table of its paths. Pure: bytes and names only.
//!
//! The page's files are compiled in, so that a server is one file and a page never meets a server of another version.

mod openapi;

use crate::proto::protobuf;

/// A file that is served as it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Asset {
    /// The path that it is served at.
    pub path: &'static str,
    /// The value of its `Content-Type`.
    pub content_type: &'static str,
    /// Its bytes.
    pub body: &'static [u8],
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// Where the operator's page is.
const DASHBOARD: &str = "/dashboard";

/// The files of the page, the first being the page itself, and what clients are made from.
pub const ASSETS: &[Asset] = &[
    Asset { path: "/", content_type: HTML, body: include_bytes!("page/index.html") },
    Asset {
        path: "/style.css",
        content_type: "text/css; charset=utf-8",
        body: include_bytes!("page/style.css"),
    },
    Asset { path: "/app.js", content_type: JAVASCRIPT, body: include_bytes!("page/app.js") },
    Asset { path: "/chat.js", content_type: JAVASCRIPT, body: include_bytes!("page/chat.js") },
    Asset { path: "/log.js", content_type: JAVASCRIPT, body: include_bytes!("page/log.js") },
    Asset { path: "/members.js", content_type: JAVASCRIPT, body: include_bytes!("page/members.js") },
    Asset { path: "/memory.js", content_type: JAVASCRIPT, body: include_bytes!("page/memory.js") },
    Asset { path: "/nodes.js", content_type: JAVASCRIPT, body: include_bytes!("page/nodes.js") },
    Asset { path: "/tools.js", content_type: JAVASCRIPT, body: include_bytes!("page/tools.js") },
    Asset { path: "/view.js", content_type: JAVASCRIPT, body: include_bytes!("page/view.js") },
    // The package for other programs, which the page is made with.
    Asset {
        path: "/starling.js",
        content_type: JAVASCRIPT,
        body: include_bytes!("../../client/js/starling.js"),
    },
    Asset {
        path: "/connection.js",
        content_type: JAVASCRIPT,
        body: include_bytes!("../../client/js/connection.js"),
    },
    Asset {
        path: "/leaving.js",
        content_type: JAVASCRIPT,
        body: include_bytes!("../../client/js/leaving.js"),
    },
    Asset { path: "/names.js", content_type: JAVASCRIPT, body: include_bytes!("../../client/js/names.js") },
    Asset {
        path: "/starling.d.ts",
        content_type: "text/plain; charset=utf-8",
        body: include_bytes!("../../client/js/starling.d.ts"),
    },
    Asset { path: DASHBOARD, content_type: HTML, body: include_bytes!("page/dashboard.html") },
    Asset {
        path: "/dashboard.css",
        content_type: "text/css; charset=utf-8",
        body: include_bytes!("page/dashboard.css"),
    },
    Asset { path: "/dashboard.js", content_type: JAVASCRIPT, body: include_bytes!("page/dashboard.js") },
    Asset { path: "/plot.js", content_type: JAVASCRIPT, body: include_bytes!("page/plot.js") },
    Asset { path: "/favicon.svg", content_type: "image/svg+xml", body: include_bytes!("page/favicon.svg") },
    Asset {
        path: "/starling.proto",
        content_type: "text/plain; charset=utf-8",
        body: protobuf::SCHEMA.as_bytes(),
    },
    Asset { path: "/openapi.json", content_type: "application/json", body: openapi::DOCUMENT.as_bytes() },
];

/// Headers that go with every answer to a browser. `connect-src 'self'` covers WebSockets to the page's own host too (CSP Level 3,
/// section 6.7.2.8), so no scheme is opened wide.
pub const SECURITY_HEADERS: &[(&str, &str)] = &[
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
];

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// The process is alive.
    Health,
    /// The server takes new clients.
    Ready,
    /// Numbers about the server.
    Metrics,
    /// The chat over WebSocket.
    WebSocket,
    /// A WebSocket that sends everything back.
    Echo,
    /// Numbers for an operator, over WebSocket, a snapshot a second.
    Dashboard,
    /// To become a registered user.
    Register,
    /// To get a token.
    Login,
    /// The messages of the room of this name, which is not decoded.
    Messages(&'a str),
    /// The rooms that there are.
    Rooms,
    /// The members of the room of this name.
    Members(&'a str),
    /// What the room of this name remembers.
    History(&'a str),
    /// What is said in the room of this name, as it is said.
    Stream(&'a str),
    /// To say something to everybody.
    Broadcast,
    /// The sessions of the user of this name, which is not decoded.
    Sessions(&'a str),
    /// A file.
    Asset(&'static Asset),
    /// Nothing.
    NotFound,
}

/// Where a path leads, given the name in it if it has one.
type Leads = for<'a> fn(&'a str) -> Route<'a>;

/// The paths that lead to something else than a file. What stands in braces is a name, one segment of the path.
const PATHS: &[(&str, Leads)] = &[
    ("/health", |_| Route::Health),
    ("/ready", |_| Route::Ready),
    ("/metrics", |_| Route::Metrics),
    ("/ws", |_| Route::WebSocket),
    ("/echo", |_| Route::Echo),
    ("/dashboard/live", |_| Route::Dashboard),
    ("/api/register", |_| Route::Register),
    ("/api/login", |_| Route::Login),
    ("/api/broadcast", |_| Route::Broadcast),
    ("/api/sessions/{nickname}", |nickname| Route::Sessions(nickname)),
    ("/api/rooms", |_| Route::Rooms),
    ("/api/rooms/{room}/messages", |room| Route::Messages(room)),
    ("/api/rooms/{room}/members", |room| Route::Members(room)),
    ("/api/rooms/{room}/history", |room| Route::History(room)),
    ("/api/rooms/{room}/stream", |room| Route::Stream(room)),
];

/// Finds what `path`, without its query, leads to.
pub fn route(path: &str) -> Route<'_> {
    let found = PATHS.iter().find_map(|(pattern, leads)| name_in(pattern, path).map(leads));
    found.or_else(|| asset(path).map(Route::Asset)).unwrap_or(Route::NotFound)
}

/// The name that `path` has where `pattern` has one, or an empty one if that has none; `None` if they differ elsewhere.
fn name_in<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, rest)) = pattern.split_once('{') else { return (pattern == path).then_some("") };
    let (_, after) = rest.split_once('}')?;
    let name = path.strip_prefix(before)?.strip_suffix(after)?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// Finds the file served at `path`.
pub fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

/// Whether a route is the operator's page or its numbers.
pub fn is_of_dashboard(route: &Route) -> bool {
    matches!(route, Route::Dashboard)
        || matches!(route, Route::Asset(asset) if asset.path.starts_with(DASHBOARD))
}

/// The value of `Allow` for a route. A WebSocket can only be opened by GET (RFC 6455, section 4.1), and an event stream would have no
/// end to be asked for its head.
pub fn allowed_methods(route: &Route) -> &'static str {
    match route {
        Route::WebSocket | Route::Echo | Route::Dashboard | Route::Stream(_) => "GET, OPTIONS",
        Route::Sessions(_) => "DELETE, OPTIONS",
        Route::Messages(_) | Route::Register | Route::Login | Route::Broadcast => "POST, OPTIONS",
        Route::Health
        | Route::Ready
        | Route::Metrics
        | Route::Rooms
        | Route::Members(_)
        | Route::History(_)
        | Route::Asset(_)
        | Route::NotFound => "GET, HEAD, OPTIONS",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> &'static str {
        std::str::from_utf8(asset(path).expect("an asset").body).expect("UTF-8")
    }

    fn scripts() -> impl Iterator<Item = (&'static str, &'static str)> {
        ASSETS
            .iter()
            .filter(|asset| asset.content_type == JAVASCRIPT)
            .map(|asset| (asset.path, text(asset.path)))
    }

    /// The values of all attributes called `name` in a document that writes `name="value"`.
    fn attributes<'a>(document: &'a str, name: &str) -> Vec<&'a str> {
        let opening = format!(" {name}=\"");
        document.split(&opening).skip(1).filter_map(|rest| rest.split('"').next()).collect()
    }

    /// The names of all attributes in a document.
    fn attribute_names(document: &str) -> impl Iterator<Item = &str> {
        document.split("=\"").filter_map(|before| before.rsplit([' ', '\n']).next())
    }

    #[test]
    fn paths_lead_where_they_should() {
        assert_eq!(route("/health"), Route::Health);
        assert_eq!(route("/ready"), Route::Ready);
        assert_eq!(route("/metrics"), Route::Metrics);
        assert_eq!(route("/ws"), Route::WebSocket);
        assert_eq!(route("/echo"), Route::Echo);
        assert!(matches!(route("/"), Route::Asset(asset) if asset.body.starts_with(b"<!doctype html>")));
        for asset in ASSETS {
            assert_eq!(route(asset.path), Route::Asset(asset));
        }
        for path in ["", "//", "/health/", "/Health", "/index.html", "/../style.css", "/style.css?v=1", "*"] {
            assert_eq!(route(path), Route::NotFound, "{path}");
        }
    }

    #[test]
    fn a_name_in_a_path_is_one_segment() {
        assert_eq!(route("/api/rooms/den/messages"), Route::Messages("den"));
        assert_eq!(route("/api/rooms/a%2Fb/messages"), Route::Messages("a%2Fb"));
        assert_eq!(allowed_methods(&route("/api/rooms/den/messages")), "POST, OPTIONS");
        for path in [
            "/api/rooms//messages",
            "/api/rooms/messages",
            "/api/rooms/a/b/messages",
            "/api/rooms/den/messages/",
        ] {
            assert_eq!(route(path), Route::NotFound, "{path}");
        }
    }

    #[test]
    fn the_schema_is_served_as_text() {
        let Route::Asset(schema) = route("/starling.proto") else { panic!("no asset") };
        assert_eq!(schema.content_type, "text/plain; charset=utf-8");
        assert!(text("/starling.proto").contains("\nmessage RoomMessage {"));
        assert_eq!(allowed_methods(&Route::Asset(schema)), "GET, HEAD, OPTIONS");
    }

    #[test]
    fn the_types_of_the_client_are_beside_it() {
        let Route::Asset(types) = route("/starling.d.ts") else { panic!("no asset") };
        assert_eq!(types.content_type, "text/plain; charset=utf-8");
        assert!(text("/starling.d.ts").contains("export class Client {"));
    }

    #[test]
    fn a_websocket_cannot_be_asked_for_its_head() {
        assert_eq!(allowed_methods(&Route::WebSocket), "GET, OPTIONS");
        assert_eq!(allowed_methods(&route("/api/rooms/den/stream")), "GET, OPTIONS");
        assert_eq!(allowed_methods(&route("/")), "GET, HEAD, OPTIONS");
    }

    #[test]
    fn every_file_that_is_asked_for_is_there() {
        let mut wanted: Vec<&str> = Vec::new();
        for page in [text("/"), text(DASHBOARD)] {
            wanted.extend(attributes(page, "src"));
            wanted.extend(attributes(page, "href").into_iter().filter(|target| !target.starts_with('#')));
        }
        for target in ["/app.js", "/style.css", "/dashboard.js", "/dashboard.css"] {
            assert!(wanted.contains(&target), "{target} in {wanted:?}");
        }
        for target in wanted {
            assert!(asset(target).is_some(), "{target}");
        }
        for (path, script) in scripts() {
            for target in script.split(" from \"").skip(1).filter_map(|rest| rest.split('"').next()) {
                let target = target.strip_prefix('.').expect("a path beside the script");
                assert!(asset(target).is_some(), "{path} imports {target}");
            }
        }
    }

    #[test]
    fn every_element_that_a_script_looks_up_is_there() {
        for (path, script) in scripts() {
            let page = text(if path == "/dashboard.js" { DASHBOARD } else { "/" });
            for id in script.split("find(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(attributes(page, "id").contains(&id), "{path} looks for #{id}");
            }
        }
    }

    #[test]
    fn the_pages_keep_the_content_security_policy() {
        for page in [text("/"), text(DASHBOARD)] {
            assert!(!page.contains("<style"));
            for script in page.split("<script").skip(1) {
                let (tag, rest) = script.split_once('>').expect("a closed tag");
                assert!(tag.contains(" src=\"/"), "{tag}");
                assert!(rest.starts_with("</script>"));
            }
            for name in attribute_names(page) {
                assert!(name != "style" && !name.starts_with("on"), "{name}");
            }
        }
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        for asset in ASSETS {
            // The name of the SVG namespace is no address that anything is fetched from.
            let body = text(asset.path).replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
            for address in ["http://", "https://", "@import", "url(//", "=\"//"] {
                assert!(!body.contains(address), "{} contains {address}", asset.path);
            }
        }
    }

    #[test]
    fn no_script_makes_markup_or_code_of_text() {
        for (path, script) in scripts() {
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "DOMParser",
                "createContextualFragment",
                "srcdoc",
                "eval(",
                "Function(",
                "javascript:",
            ] {
                assert!(!script.contains(way), "{path} contains {way}");
            }
        }
    }
}
