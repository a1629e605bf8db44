"""Clients of the encodings that are not text: binary frames, and Protobuf in them or over WebSocket.

They take commands and give events in the JSON shape, so that what two encodings tell can be compared.
"""

import functools
import importlib.util
import json
import pathlib
import struct
import tempfile

from google.protobuf.unknown_fields import UnknownFieldSet
from grpc_tools import protoc

from grpc_client import GrpcClient
from helpers import Eventful, RawClient, WsClient

MAGIC = 0xCAFEBABE
HEADER = struct.Struct(">IBIBB")
JSON, PROTOBUF = 0, 1

COMMANDS = ["hello", "join", "leave", "switch", "message", "private", "received", "broadcast", "members", "rooms", "history", "state",
            "role", "kick", "ban", "unban", "mute", "unmute", "typing", "ping", "quit", "pong", "nick"]
EVENTS = ["welcome", "joined", "left", "presence", "message", "ack", "private", "system", "members", "rooms", "history", "state",
          "typing", "pong", "bye", "error", "ping", "gap"]
COMMAND_KINDS = {name: kind for kind, name in enumerate(COMMANDS, 1)}
EVENT_KINDS = {name: kind for kind, name in enumerate(EVENTS, 129)}


def schema(server):
    """The classes of the schema that the server hands out."""
    response = server.get("/starling.proto")
    assert response.status == 200
    return compiled(response.body)


@functools.cache
def compiled(text):
    with tempfile.TemporaryDirectory() as directory:
        source = pathlib.Path(directory, "starling.proto")
        source.write_bytes(text)
        assert protoc.main(["protoc", f"-I{directory}", f"--python_out={directory}", str(source)]) == 0
        spec = importlib.util.spec_from_file_location("starling_pb2", pathlib.Path(directory, "starling_pb2.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def to_command(classes, type, id=None, **fields):
    """A Command of the schema from one in the JSON shape."""
    command = classes.Command(id=id or "")
    kind = getattr(command, type)
    kind.SetInParent()
    if type == "switch":
        setattr(kind, "from", fields.pop("from"))
        kind.to.SetInParent()
        kind, fields = kind.to, fields | {"room": fields.pop("to")}
    for name, value in fields.items():
        if name == "since":
            kind.since.CopyFrom(classes.Position(**value))
        elif name == "echo":
            kind.no_echo = not value
        elif name == "value":
            kind.value_json = json.dumps(value)
        elif name in ("role", "ack", "overflow"):
            setattr(kind, name, classes.DESCRIPTOR.enum_types_by_name[{"ack": "AckLevel"}.get(name, name.title())].values_by_name[
                f"{name}_{value}".upper()].number)
        elif isinstance(value, list):
            getattr(kind, name).extend(value)
        else:
            setattr(kind, name, value)
    return command


def to_shape(event):
    """The JSON shape of an Event of the schema. What JSON leaves out and Protobuf shows as zero is left out where kinds share it."""
    type = event.WhichOneof("kind")
    assert type, "an event of no kind"
    shape = {"type": type} | fields_of(getattr(event, type), type in ("ack", "presence"))
    return shape | ({"id": event.id} if event.id else {})


def fields_of(message, is_sparse=False):
    shape = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.has_presence and not message.HasField(field.name) or is_sparse and not value:
            continue
        if field.name == "state":
            shape["state"] = {key: fields_of(of_key) for key, of_key in value.items()}
        elif field.name == "value_json":
            shape["value"] = json.loads(value)
        elif field.enum_type:
            shape[field.name] = field.enum_type.values_by_number[value].name.split("_", 1)[1].lower()
        elif field.message_type and field.is_repeated:
            shape[field.name] = [fields_of(item) for item in value]
        else:
            shape[field.name] = list(value) if field.is_repeated else value
    return shape


def to_payload(classes, type, id=None, **fields):
    """The payload of a binary frame: the message of the kind alone, with the id behind it, in the field that it has in Command."""
    command = to_command(classes, type, **fields)
    return getattr(command, type).SerializeToString() + classes.Command(id=id or "").SerializeToString()


def from_payload(classes, type, payload):
    event = classes.Event()
    message = getattr(event, type)
    message.SetInParent()
    message.MergeFromString(payload)
    ids = [field.data.decode() for field in UnknownFieldSet(message)]
    assert len(ids) <= 1, "nothing but an id is beside the fields of the schema"
    event.id = ids[0] if ids else ""
    return to_shape(event)


class FrameClient(Eventful):
    """Binary frames; `encoding` is that of the commands, and `encodings` has those of the events, in their order."""

    def __init__(self, server, encoding, **options):
        super().__init__()
        self.raw = server.keep(RawClient(server.frame, **options))
        self.encoding = encoding
        self.classes = schema(server)
        self.encodings = []

    def close(self):
        self.raw.close()

    def drop(self):
        self.raw.drop()

    @staticmethod
    def frame(encoding, kind, payload, magic=MAGIC, version=1, length=None):
        return HEADER.pack(magic, version, len(payload) if length is None else length, encoding, kind) + payload

    def encoded(self, type, encoding=None, **fields):
        encoding = self.encoding if encoding is None else encoding
        if encoding == JSON:
            # The kind says what it is.
            payload = json.dumps(fields, ensure_ascii=False).encode()
        else:
            payload = to_payload(self.classes, type, **fields)
        return self.frame(encoding, COMMAND_KINDS[type], payload)

    def send(self, type, encoding=None, **fields):
        self.raw.send(self.encoded(type, encoding, **fields))

    def receive(self, deadline):
        magic, version, length, encoding, kind = HEADER.unpack(self.raw.exactly(HEADER.size, deadline))
        assert (magic, version) == (MAGIC, 1)
        payload = self.raw.exactly(length, deadline)
        self.encodings.append(encoding)
        if encoding == JSON:
            event = json.loads(payload)
        else:
            event = from_payload(self.classes, EVENTS[kind - 129], payload)
        assert EVENT_KINDS[event["type"]] == kind
        return event


class ProtoWsClient(WsClient):
    """WebSocket with the subprotocol `starling.proto.v1`."""

    def __init__(self, server, path="/ws", **options):
        super().__init__(server.url(path), subprotocols=["starling.proto.v1"], **options)
        server.keep(self)
        assert self.socket.subprotocol == "starling.proto.v1"
        self.classes = schema(server)

    def send(self, type, **fields):
        self.socket.send(to_command(self.classes, type, **fields).SerializeToString())

    def receive(self, deadline):
        payload = self.socket.recv(timeout=deadline.left())
        assert isinstance(payload, bytes)
        return to_shape(self.classes.Event.FromString(payload))


# Who speaks commands and events, whatever carries them: name, and how one is made.
CARRIERS = {
    "ws": lambda server: server.ws(),
    "json_line": lambda server: server.json_line(),
    "proto_ws": ProtoWsClient,
    "json_frame": lambda server: FrameClient(server, JSON),
    "proto_frame": lambda server: FrameClient(server, PROTOBUF),
    "grpc": GrpcClient,
}
