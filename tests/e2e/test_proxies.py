"""Behind proxies that others wrote: haproxy and nginx, over TCP and over paths, with and without the PROXY protocol."""

import pytest

from helpers import JsonLineClient, RawClient, WsClient, free_ports


# nginx's workers are another user.
FOR_ALL = 'mode = "666"\n'
PROXIES = 'proxies = ["127.0.0.1"]\n'


@pytest.fixture
def haproxy(directory, run_proxy):
    def haproxy(send="send-proxy-v2"):
        web, line = ports = free_ports(2)
        with open(f"{directory}/haproxy.cfg", "w") as out:
            out.write("defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n")
            for kind, port in (("web", web), ("line", line)):
                out.write(f"listen {kind}\n  bind 127.0.0.1:{port}\n  server starling unix@{directory}/{kind} {send}\n")
        run_proxy(["haproxy", "-db", "-f", f"{directory}/haproxy.cfg"], ports)
        return web, line

    return haproxy


@pytest.fixture
def nginx(directory, run_proxy):
    def nginx():
        (web,) = ports = free_ports(1)
        with open(f"{directory}/nginx.conf", "w") as out:
            out.write(f"""
daemon off; pid {directory}/nginx.pid; error_log stderr; worker_processes 1;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; "" close; }}
  server {{
    listen 127.0.0.1:{web};
    location / {{
      proxy_pass http://unix:{directory}/web;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_read_timeout 1h;
    }}
  }}
}}
""")
        run_proxy(["nginx", "-c", f"{directory}/nginx.conf", "-p", directory], ports)
        return web

    return nginx


def converse(alice, bob):
    alice.say("den", "hello")
    assert bob.expect("message", room="den")["content"] == "hello"
    bob.say("den", "and you")
    assert alice.expect("message", room="den", sender="bob")["content"] == "and you"


@pytest.mark.parametrize(("send", "more"), [("", ""), ("send-proxy", PROXIES), ("send-proxy-v2", PROXIES)])
def test_haproxy(start_on_paths, haproxy, send, more):
    server = start_on_paths(FOR_ALL + more)
    web, line = haproxy(send)
    alice = server.keep(WsClient(f"ws://127.0.0.1:{web}/ws")).enter("alice", "den")
    bob = server.keep(JsonLineClient(("127.0.0.1", line))).enter("bob", "den")
    converse(alice, bob)


def test_limits_behind_haproxy_are_of_each_client(start_on_paths, haproxy):
    server = start_on_paths(FOR_ALL + PROXIES, limits__connections_per_address=1)
    _, line = haproxy()
    for name, host, word in (("alice", "127.0.0.2", b"welcome"), ("bob", "127.0.0.3", b"welcome"), ("carol", "127.0.0.2", b"4105")):
        client = server.keep(RawClient(("127.0.0.1", line), source=(host, 0)))
        client.send(b'{"type":"hello","nickname":"%s"}\n' % name.encode())
        heard = client.until(b"\n")
        assert word in heard, heard


def test_nginx(start_on_paths, nginx):
    server = start_on_paths(FOR_ALL)
    web = nginx()
    alice, bob = (server.keep(WsClient(f"ws://127.0.0.1:{web}/ws", origin=f"http://127.0.0.1:{web}")).enter(name, "den") for name in ("alice", "bob"))
    converse(alice, bob)
    server.web = ("127.0.0.1", web)
    assert server.get("/health").body == b"OK"
