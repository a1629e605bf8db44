//! Connections that are encrypted, or come through a proxy.

use starling::config::ListenKind;

use crate::cores::Cores;

#[test]
fn a_handshake_that_does_not_end_is_the_end() {
    let mut cores = Cores::new(|config| config.limits.tls_handshake_ms = 700);
    for kind in [ListenKind::Line, ListenKind::Web, ListenKind::Frame, ListenKind::Grpc] {
        let before = cores.total(|counters| &counters.tls_unfinished);
        let id = cores.shards[0].open([127, 0, 0, 1].into(), kind);
        cores.shards[0].securing(id);
        let client = cores.connected(0, id);
        cores.pass(699);
        assert!(!cores.is_over(client), "{kind:?}");
        cores.pass(1);
        assert!(cores.is_over(client));
        assert_eq!(cores.heard(client), "", "nothing can be said");
        assert_eq!(cores.total(|counters| &counters.tls_unfinished), before + 1);
    }
}

#[test]
fn a_proxy_that_does_not_say_for_whom_it_comes_is_sent_away() {
    let mut cores = Cores::new(|config| config.limits.tls_handshake_ms = 700);
    let id = cores.shards[0].open_for_another([10, 0, 0, 1].into(), ListenKind::Web);
    let client = cores.connected(0, id);
    cores.pass(700);
    assert!(cores.is_over(client));
    assert_eq!(cores.total(|counters| &counters.proxy_violations), 1);
    assert_eq!(cores.total(|counters| &counters.tls_unfinished), 0);
    // Whoever it comes for has its time from when that is known, and is counted as who it is.
    cores.reconfigure(|config| config.limits.connections_per_address = 1);
    for (address, is_refused) in [([10, 0, 0, 2], false), ([10, 0, 0, 2], true), ([10, 0, 0, 3], false)] {
        let id = cores.shards[0].open_for_another([10, 0, 0, 1].into(), ListenKind::Frame);
        let client = cores.connected(0, id);
        cores.pass(600);
        cores.shards[0].introduced(id, address.into());
        cores.settle();
        let heard = cores.heard(client);
        assert_eq!(heard.contains("too_many_connections"), is_refused, "{heard}");
        cores.pass(200);
        assert_eq!(cores.is_over(client), is_refused);
    }
}

#[test]
fn a_page_is_of_the_same_host_by_the_same_scheme() {
    for (is_secure, origin, status) in [
        (false, "http://a", 101),
        (false, "https://a", 403),
        (true, "https://a", 101),
        (true, "http://a", 403),
        (true, "https://b", 403),
    ] {
        let mut cores = Cores::new(|_| {});
        let id = cores.shards[0].open([127, 0, 0, 1].into(), ListenKind::Web);
        if is_secure {
            cores.shards[0].securing(id);
            cores.shards[0].secured(id);
        }
        let client = cores.connected(0, id);
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        cores.receive(client, request.as_bytes());
        let heard = cores.heard(client);
        assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{is_secure} {origin}: {heard}");
    }
}

#[test]
fn what_is_no_tls_any_more_is_cut_off() {
    let mut cores = Cores::new(|_| {});
    let (alice, bob) = (cores.enter(0, "alice", &["den"]), cores.enter(0, "bob", &["den"]));
    cores.stall(alice, true);
    cores.speak(bob, "den", "x");
    cores.shards[0].spoiled(alice.id);
    cores.settle();
    cores.take(alice);
    assert_eq!(
        cores.heard(alice).lines().filter(|line| line.contains("message")).count(),
        0,
        "nothing more is sent"
    );
    assert_eq!(cores.told(bob, "presence", "event"), ["away"]);
    assert!(cores.is_over(alice));
}
