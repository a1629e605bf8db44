"""What starling is compared with: how each peer is got by name from a package registry, built, started and reached."""

import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

from . import check
from .processes import Failed, run

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
PEERS = ROOT / "benches" / "peers"
BUILT = TARGET / "peers"
OUTPUT = TARGET / "compare"
STARLING = TARGET / "release" / "starling"
# Whether that is somebody else's (--binary), and not to be built.
IS_GIVEN = False
INSTALL_S = 1800

# What a WebSocket hub of ours is told: the first message names the room, each one after it is for the room.
HUB = ["--hello", "{room}", "--publish", "{content}"]
UWS_CRATE = "libuwebsockets-sys"


@dataclass
class Peer:
    name: str
    what: str
    """One line for the table's foot."""
    command: object
    """Port -> command line."""
    version: object
    """() -> version."""
    chat: tuple = ()
    """Target of fan-outs and rooms, and further flags of `starling bench`."""
    echo: tuple = ()
    health: bool = False
    has_rooms: bool = True
    install: object = lambda: None
    environment: dict = field(default_factory=dict)
    check_chat: object = None
    check_echo: object = None
    echo_command: object = None
    """Where an echo needs another command line."""


def peers():
    rust = BUILT / "rust" / "release"
    hub = {"chat": ("ws-any://127.0.0.1:{port}/ws", *HUB), "echo": ("ws-any://127.0.0.1:{port}/echo",), "health": True}
    hub_checks = {"check_chat": (check.check_rooms, check.WebSocket), "check_echo": (check.check_echo, check.EchoWebSocket)}
    floor_checks = {"check_chat": (check.check_floor, check.Lines), "check_echo": (check.check_echo, check.Lines)}

    def starling(port, kind):
        ports = {"web": "127.0.0.1:0", "line": "127.0.0.1:0"} | {kind: f"127.0.0.1:{port}"}
        return [STARLING, "serve", "--cores", "1", "--set", "rate.commands_per_second=0", "--set", "store.kind=memory",
                "--web", ports["web"], "--line", ports["line"], "--frame", "127.0.0.1:0"]

    def broker(kind):
        return {"check_chat": (check.check_rooms, kind), "check_echo": (check.check_echo, kind)}

    return [
        Peer("floor", "a bare epoll loop that accepts, reads lines and gives each receiver what came with one write(2) a wake-up",
             lambda port: [rust / "floor", f"127.0.0.1:{port}"], lambda: "ours", install=install_rust, has_rooms=False,
             chat=("tcp://127.0.0.1:{port}",), echo=("tcp://127.0.0.1:{port}",),
             echo_command=lambda port: [rust / "floor", f"127.0.0.1:{port}", "--echo"], **floor_checks),
        Peer("floor-1-write", "the floor with a write(2) for each receiver and message",
             lambda port: [rust / "floor", f"127.0.0.1:{port}", "--one-write-a-message"], lambda: "ours", install=install_rust,
             has_rooms=False, chat=("tcp://127.0.0.1:{port}",), check_chat=floor_checks["check_chat"]),
        Peer("starling", "starling over WebSocket with JSON", lambda port: starling(port, "web"), starling_version, install=install_starling,
             chat=("ws://127.0.0.1:{port}/ws",), echo=("ws://127.0.0.1:{port}/echo",), health=True),
        Peer("starling-lines", "starling with JSON lines over TCP", lambda port: starling(port, "line"), starling_version,
             install=install_starling, chat=("lines://127.0.0.1:{port}",), echo=("lines://127.0.0.1:{port}",)),
        Peer("axum", "axum on one tokio thread, a tokio broadcast a room", lambda port: [rust / "axum-chat", f"127.0.0.1:{port}"],
             lambda: cargo_version("axum"), install=install_rust, **hub, **hub_checks),
        Peer("tungstenite", "a tokio-tungstenite echo on one tokio thread", lambda port: [rust / "tungstenite-echo", f"127.0.0.1:{port}"],
             lambda: cargo_version("tokio-tungstenite"), install=install_rust, echo=hub["echo"], check_echo=hub_checks["check_echo"]),
        Peer("gorilla", "a Go hub with gorilla/websocket, GOMAXPROCS=1", lambda port: [BUILT / "go" / "hub", f"127.0.0.1:{port}"],
             lambda: f"{debian_version('golang-github-gorilla-websocket-dev')}, Go {debian_version('golang-go')}", install=install_go,
             environment={"GOMAXPROCS": "1"}, **hub, **hub_checks),
        Peer("ws", "a Node hub with ws, framed once, corked", lambda port: ["node", BUILT / "node" / "hub.js", f"127.0.0.1:{port}"],
             node_version, install=install_node, **hub, **hub_checks),
        Peer("uws", "a C++ hub on uWebSockets' own publish/subscribe, on epoll",
             lambda port: [BUILT / "uws" / "uws-hub", f"127.0.0.1:{port}"], lambda: f"the one in {UWS_CRATE} {cargo_version(UWS_CRATE, 'uws')}", install=install_uws,
             **hub, **hub_checks),
        Peer("nats", "nats-server, GOMAXPROCS=1", lambda port: ["nats-server", "-c", configuration("nats.conf", port)],
             lambda: debian_version("nats-server"), install=lambda: debian("nats-server"), environment={"GOMAXPROCS": "1"},
             chat=("nats://127.0.0.1:{port}",), echo=("nats://127.0.0.1:{port}",), **broker(check.Nats)),
        Peer("redis", "redis-server's publish/subscribe, nothing stored",
             lambda port: ["redis-server", configuration("redis.conf", port)], lambda: debian_version("redis-server"),
             install=lambda: debian("redis-server"), chat=("redis://127.0.0.1:{port}",), echo=("redis://127.0.0.1:{port}",),
             **broker(check.Redis)),
        Peer("mosquitto", "mosquitto with MQTT 3.1.1 at QoS 0, nothing stored",
             lambda port: ["mosquitto", "-c", configuration("mosquitto.conf", port)], lambda: debian_version("mosquitto"),
             install=lambda: debian("mosquitto"), chat=("mqtt://127.0.0.1:{port}",), echo=("mqtt://127.0.0.1:{port}",),
             **broker(check.Mqtt)),
        Peer("nginx", "nginx with one worker, for GET /health alone",
             lambda port: ["nginx", "-e", "stderr", "-c", configuration("nginx.conf", port)], lambda: debian_version("nginx-light"),
             install=lambda: debian("nginx-light", "nginx"), health=True),
    ]


# Getting them


def debian(package, program=None):
    """Installs a Debian package if its program is not there. Its service is not started: another one may be running here."""
    if shutil.which(program or package):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failed(f"not installed, and no right to install it: apt-get install {package}")
    say(f"installing {package}")
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    forbids = not policy.exists()
    if forbids:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "install", "-y", "--no-install-recommends", package]
        try:
            run(command, INSTALL_S, env=environment)
        except Failed:
            run(["apt-get", "update"], INSTALL_S, env=environment)
            run(command, INSTALL_S, env=environment)
    finally:
        if forbids:
            policy.unlink()


@functools.cache
def install_starling():
    if IS_GIVEN:
        return
    say("building starling")
    run(["cargo", "build", "--release", "--bin", "starling"], INSTALL_S, cwd=ROOT)


@functools.cache
def install_rust():
    say("building the Rust peers")
    run(["cargo", "build", "--release", "--locked", "--target-dir", BUILT / "rust"], INSTALL_S, cwd=PEERS / "rust")


def install_go():
    debian("golang-go", "go")
    sources = pathlib.Path("/usr/share/gocode")
    if not (sources / "src/github.com/gorilla/websocket").exists():
        debian("golang-github-gorilla-websocket-dev", "no-such-program")
    say("building the Go hub")
    (BUILT / "go").mkdir(parents=True, exist_ok=True)
    # Debian's packages are a GOPATH; nothing else is fetched.
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": str(sources), "GOFLAGS": "", "GOCACHE": str(BUILT / "go" / "cache")}
    run(["go", "build", "-o", BUILT / "go" / "hub", PEERS / "go" / "hub.go"], INSTALL_S, env=environment)


def install_node():
    debian("nodejs", "node")
    here = BUILT / "node"
    here.mkdir(parents=True, exist_ok=True)
    shutil.copy(PEERS / "node" / "hub.js", here)
    wanted = (PEERS / "node" / "package.json").read_bytes()
    copy = here / "package.json"
    if copy.exists() and copy.read_bytes() == wanted and (here / "node_modules" / "ws").exists():
        return
    debian("npm", "npm")
    say("installing ws")
    copy.write_bytes(wanted)
    run(["npm", "install", "--no-audit", "--no-fund"], INSTALL_S, cwd=here)


def install_uws():
    for compiler in ("gcc", "g++"):
        debian(compiler)
    say("building the uWebSockets hub")
    manifest = PEERS / "uws" / "Cargo.toml"
    run(["cargo", "fetch", "--locked", "--manifest-path", manifest], INSTALL_S)
    packages = json.loads(run(["cargo", "metadata", "--locked", "--format-version", "1", "--manifest-path", manifest], INSTALL_S,
                              stderr=subprocess.DEVNULL))["packages"]
    crate = next(package["manifest_path"] for package in packages if package["name"] == UWS_CRATE)
    source = pathlib.Path(crate).parent / "uWebSockets"
    sockets = source / "uSockets" / "src"
    here = BUILT / "uws"
    here.mkdir(parents=True, exist_ok=True)
    flags = ["-O3", "-DLIBUS_NO_SSL", f"-I{sockets}"]
    parts = sorted([*sockets.glob("*.c"), *sockets.glob("eventing/*.c"), *sockets.glob("crypto/*.c")])
    run(["gcc", *flags, "-c", *parts], INSTALL_S, cwd=here)
    run(["g++", "-std=c++20", *flags, "-DUWS_NO_ZLIB", f"-I{source / 'src'}", "-o", here / "uws-hub", PEERS / "uws" / "hub.cpp",
         *(here / f"{part.stem}.o" for part in parts)], INSTALL_S)


def configuration(name, port):
    """A configuration file with its place filled in."""
    here = OUTPUT / "run" / name.split(".")[0]
    here.mkdir(parents=True, exist_ok=True)
    text = (PEERS / "config" / name).read_text()
    text = text.replace("@ADDRESS@", "127.0.0.1").replace("@PORT@", str(port)).replace("@DIRECTORY@", str(here))
    (here / name).write_text(text)
    return here / name


# Their versions


def debian_version(package):
    asked = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True)
    return asked.stdout if asked.returncode == 0 and asked.stdout else "not Debian's"


def cargo_version(package, peer="rust"):
    lock = (PEERS / peer / "Cargo.lock").read_text()
    # axum brings a tokio-tungstenite of its own, an older one: ours is the last.
    return re.findall(rf'name = "{package}"\nversion = "([^"]+)"', lock)[-1]


def starling_version():
    if not STARLING.exists():
        raise Failed(f"{STARLING} is not there")
    version = subprocess.run([STARLING, "--version"], capture_output=True, text=True).stdout.strip().removeprefix("starling ")
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return version if IS_GIVEN or not revision else f"{version}, {revision}"


def node_version():
    ws = json.loads((BUILT / "node" / "node_modules" / "ws" / "package.json").read_text())["version"]
    return f"{ws}, Node {subprocess.run(['node', '--version'], capture_output=True, text=True).stdout.strip()}"


def say(what):
    print(f"compare: {what}", file=sys.stderr, flush=True)
