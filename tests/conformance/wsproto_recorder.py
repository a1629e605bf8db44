"""A plugin of pytest that notes what wsproto's own tests give to its decoders of frames and to its server's handshake, one JSON line each."""

import json
import os

from wsproto import frame_protocol, handshake

# By the decoder that got it: kept, so that no other gets its id.
HEARD = {}


def note(kind, decoder, is_client, data):
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0].partition("tests/")[2]
    HEARD.setdefault(id(decoder), {"kind": kind, "test": test, "is_client": is_client, "data": b"", "decoder": decoder})["data"] += bytes(data)


def wrap(kind, owner, method):
    original = getattr(owner, method)

    def wrapped(self, data):
        if data:
            note(kind, self, self.client, data)
        return original(self, data)

    setattr(owner, method, wrapped)


wrap("frames", frame_protocol.FrameDecoder, "receive_bytes")
wrap("handshake", handshake.H11Handshake, "receive_data")


def pytest_unconfigure():
    with open(os.environ["WSPROTO_HEARD"], "w") as out:
        for heard in HEARD.values():
            del heard["decoder"]
            print(json.dumps(heard | {"data": heard["data"].hex()}), file=out)
