"""HTTP/2, by frames made by hand, read by Python's hyperframe and hpack.

h2spec is in none of the registries that the project uses, so these are checks of our own in its style, over what its list covers, by the
sections of RFC 9113 and RFC 7541. They ask the gRPC listener, by calls of its health service.

A pass: what is to be ignored or answered is, and what is an error ends the connection with a GOAWAY that has a code the section names, or
the stream with such an RST_STREAM where it is an error of the stream (which may be treated as one of the connection, section 5.4). An
end without GOAWAY is no pass, but for a preface that is none."""

import http2_frames  # noqa: F401 (it registers its checks)
import http2_messages  # noqa: F401
from http2 import CHECKS, Http2
from judge import case, missing_modules, module_version

SCHEME = "grpc"


def missing():
    return missing_modules("hyperframe", "hpack")


def version():
    return ", ".join(map(module_version, ["hyperframe", "hpack"]))


def run(bench):
    with bench.server() as server:
        for name, function, options in CHECKS:
            bench.say(name)
            yield case(name, ask, server, function, options)
        yield case("afterwards others are answered", others, server)


def ask(server, function, options):
    peer = Http2(server, **options)
    try:
        function(peer)
    finally:
        peer.raw.close()


def others(server):
    peer = Http2(server)
    peer.send(peer.request())
    peer.answered()
    peer.raw.close()
