"""gRPC: by grpcio, by tools that know nothing of the schema, and by frames of HTTP/2 that no library would send."""

import json
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from google.protobuf.descriptor_pool import DescriptorPool

from grpc_client import GrpcClient, Stream, channel_to, generated, schema_of
from helpers import DEADLINE_S, Deadline, environment, let_pass, peak_kib, wait_until

# One process cannot have two schemas of one package; the package is in no byte of a message.
SMALL = b"""
syntax = "proto3";
package small;
message Message { string user_id = 1; string content = 2; int64 timestamp = 3; }
message SendMessageRequest { Message message = 1; }
message SendMessageResponse { bool success = 1; string message_id = 2; }
"""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Chat:
    """The classes and stubs of the schema, and a channel."""

    def __init__(self, server, metadata=None):
        self.server, self.metadata = server, metadata
        self.classes, self.stubs = schema_of(server)
        self.channel = channel_to(server)
        self.stub = self.stubs.ChatServiceStub(self.channel)

    def message(self, user_id="", content="", **fields):
        return self.classes.Message(user_id=user_id, content=content, **fields)

    def stream(self, metadata=None, timeout=None):
        stream = Stream(self.stub.StreamMessages, metadata, timeout)
        self.server.keep(Cancelling(stream))
        return stream

    def send(self, user_id="", content="hi", metadata=None, **fields):
        request = self.classes.SendMessageRequest(message=self.message(user_id, content, **fields))
        return self.stub.SendMessage(request, metadata=metadata, timeout=DEADLINE_S)


class Cancelling:
    def __init__(self, stream):
        self.stream = stream

    def close(self):
        self.stream.rpc.cancel()


@pytest.fixture
def chat(server):
    return Chat(server)


def refused(code, reason, call, *arguments, **options):
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments, **options)
    trailers = dict(error.value.trailing_metadata())
    assert (error.value.code(), trailers.get("reason")) == (code, reason), error.value
    return error.value


# A client that knows three fields.


def test_a_client_with_a_small_schema_chats_in_the_lobby(server):
    classes, _ = generated("small", SMALL)
    channel = channel_to(server)
    stream = channel.stream_stream("/chat.ChatService/StreamMessages", classes.Message.SerializeToString, classes.Message.FromString)
    send = channel.unary_unary("/chat.ChatService/SendMessage", classes.SendMessageRequest.SerializeToString,
                               classes.SendMessageResponse.FromString)
    alice = server.ws("alice", "lobby")
    carol = Stream(stream)
    carol.say(classes.Message(user_id="carol", content="hello all"))
    heard = alice.expect("message")
    assert (heard["sender"], heard["content"], heard["room"]) == ("carol", "hello all", "lobby")
    echo = carol.hear()
    assert (echo.user_id, echo.content, echo.timestamp) == ("carol", "hello all", heard["timestamp"])
    alice.send("message", room="lobby", content="welcome")
    assert [(m.user_id, m.content) for m in [carol.hear()]] == [("alice", "welcome")]
    carol.say(classes.Message(content="no user_id needed any more"))
    assert alice.expect("message", sender="carol")["content"] == "no user_id needed any more"
    assert carol.hear().content == "no user_id needed any more"
    # The same user, by the other method, on the same channel.
    response = send(classes.SendMessageRequest(message=classes.Message(user_id="carol", content="by call")))
    assert response.success
    sent = alice.expect("message", content="by call")
    assert sent["sender"] == "carol" and response.message_id.endswith(f":{sent['offset']}")
    assert carol.hear().content == "by call"
    carol.finish()
    assert carol.rest() == []
    assert carol.status() == (grpc.StatusCode.OK, None)
    assert alice.expect("presence", event="leave")["reason"] == "quit"


def test_messages_by_every_field(server, chat):
    bob = server.ws("bob", "lobby", "den")
    alice = chat.stream()
    alice.say(chat.message("alice", "", room="den"))  # tells who comes, and where
    assert bob.expect("presence", event="join", nickname="alice")["room"] == "den"
    alice.say(chat.message("alice", "in the den", room="den"))
    heard = bob.expect("message")
    assert (heard["room"], heard["content"]) == ("den", "in the den")
    echo = alice.hear()
    assert (echo.room, echo.type, echo.offset, echo.target) == ("den", "message", heard["offset"], "")
    alice.say(chat.message("", "and here", room=""))
    assert bob.expect("message", room="lobby")["content"] == "and here"
    assert alice.hear().room == "lobby"
    alice.say(chat.message("ALICE", "psst", target="bob"))
    assert bob.expect("private")["content"] == "psst"
    bob.call("private", target="alice", content="yes?")
    answer = alice.hear()
    assert (answer.type, answer.user_id, answer.target, answer.content) == ("private", "bob", "alice", "yes?")


def test_metadata_tells_who_listens(server, chat):
    bob = server.ws("bob", "hall")
    listener = chat.stream(metadata=[("nickname", "alice"), ("room", "hall")])
    bob.expect("presence", event="join", nickname="alice")
    bob.send("message", room="hall", content="are you there")
    assert listener.hear().content == "are you there"
    listener.say(chat.message("", "I am", room="hall"))
    assert bob.expect("message", sender="alice")["content"] == "I am"


def test_who_is_put_out_is_told(server, chat):
    bob = server.ws("bob", "den")
    alice = chat.stream()
    alice.say(chat.message("alice", "", room="den"))
    bob.expect("presence", event="join")
    assert bob.call("kick", room="den", target="alice")["type"] == "ack"
    told = alice.hear()
    assert (told.type, told.user_id, told.room) == ("system", "", "den") and "kicked" in told.content


@pytest.mark.parametrize(
    "first, then, code, reason",
    [
        ({"user_id": "taken"}, None, grpc.StatusCode.ALREADY_EXISTS, "nickname_in_use"),
        ({"user_id": "bad name"}, None, grpc.StatusCode.INVALID_ARGUMENT, "bad_name"),
        ({"content": "who am I"}, None, grpc.StatusCode.INVALID_ARGUMENT, "bad_request"),
        ({"user_id": "alice", "room": "-"}, None, grpc.StatusCode.INVALID_ARGUMENT, "bad_name"),
        ({"user_id": "alice"}, {"user_id": "bob", "content": "x"}, grpc.StatusCode.INVALID_ARGUMENT, "bad_request"),
        ({"user_id": "alice"}, {"content": ""}, grpc.StatusCode.INVALID_ARGUMENT, "bad_request"),
        ({"user_id": "alice"}, {"content": "x", "type": "system"}, grpc.StatusCode.INVALID_ARGUMENT, "bad_request"),
        ({"user_id": "alice"}, {"content": "x", "target": "nobody"}, grpc.StatusCode.NOT_FOUND, "no_such_user"),
        ({"user_id": "alice"}, {"content": "x" * 70_000}, grpc.StatusCode.RESOURCE_EXHAUSTED, "too_large"),
        ({"user_id": "alice"}, {"content": "x" * 300_000}, grpc.StatusCode.RESOURCE_EXHAUSTED, "too_large"),
    ],
)
def test_what_is_refused_ends_a_stream_with_its_reason(server, chat, first, then, code, reason):
    server.ws("taken")
    stream = chat.stream()
    stream.say(chat.message(**first))
    if then is not None:
        stream.say(chat.message(**then))
    assert stream.rest() == []
    assert stream.status() == (code, reason)
    # And nothing of it is left.
    again = server.ws("alice")
    assert again.welcome["nickname"] == "alice"


# One message a call.


def test_one_message_a_call(server, chat):
    bob = server.ws("bob", "lobby", "den")
    response = chat.send("alice", "hi all")
    heard = bob.expect("message")
    assert (heard["sender"], heard["content"]) == ("alice", "hi all")
    assert response.success and (response.offset, response.message_id) == (1, f"{response.epoch}:1")
    assert chat.send("alice", "den", room="den").offset == 1
    private = chat.send("alice", "psst", target="bob")
    assert private.success and private.message_id == "" and bob.expect("private")["content"] == "psst"
    # The nickname is free again with each answer.
    assert server.ws("alice").welcome["nickname"] == "alice"
    refused(grpc.StatusCode.ALREADY_EXISTS, "nickname_in_use", chat.send, "alice", "an impostor")
    refused(grpc.StatusCode.INVALID_ARGUMENT, "bad_request", chat.send, "", "nobody")
    refused(grpc.StatusCode.INVALID_ARGUMENT, "bad_request", chat.send, "carol", "")
    refused(grpc.StatusCode.NOT_FOUND, "no_such_user", chat.send, "carol", "x", target="nobody")
    refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "too_large", chat.send, "carol", "x" * 70_000)


def test_a_repeated_call_publishes_once(server, chat):
    bob = server.ws("bob", "lobby")
    key = [("idempotency-key", "k1")]
    first = chat.send("alice", "once", metadata=key)
    assert chat.send("alice", "once", metadata=key) == first
    chat.send("alice", "twice")
    assert [m["content"] for m in bob.until_told("lobby") if m["type"] == "message"] == ["once", "twice"]


def test_calls_of_one_user_at_a_time_are_each_answered(server, chat):
    """None has the nickname before the others want it, and none keeps it."""
    for n in range(15):
        requests = [chat.classes.SendMessageRequest(message=chat.message(f"u{n}", f"m{i}")) for i in range(4)]
        futures = [chat.stub.SendMessage.future(request, timeout=DEADLINE_S) for request in requests]
        assert [future.code() for future in futures] == [grpc.StatusCode.OK] * 4
    # Nor does anybody else get away with it.
    server.ws("taken")
    refused(grpc.StatusCode.ALREADY_EXISTS, "nickname_in_use", chat.send, "taken")


def test_many_calls_at_a_time_are_each_answered(server, chat):
    bob = server.ws("bob", "lobby")
    requests = [chat.classes.SendMessageRequest(message=chat.message(f"u{n}", f"m{n}")) for n in range(300)]
    futures = [chat.stub.SendMessage.future(request, timeout=DEADLINE_S) for request in requests]
    offsets = [future.result().offset for future in futures]
    assert sorted(offsets) == list(range(1, 301))
    heard = {bob.expect("message")["content"] for _ in range(300)}
    assert heard == {f"m{n}" for n in range(300)}


# Accounts and tokens.


def test_login(disk):
    server = disk()
    chat = Chat(server)
    body = json.dumps({"username": "alice", "password": "correct horse"}).encode()
    head = f"POST /api/register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    assert server.http(head.encode() + body).status == 200
    login = chat.classes.LoginRequest(username="alice", password="correct horse")
    response = chat.stub.Login(login, timeout=DEADLINE_S)
    assert response.success and response.token and response.expires_at > 1_700_000_000_000
    bearer = [("authorization", f"Bearer {response.token}")]
    refused(grpc.StatusCode.UNAUTHENTICATED, "bad_credentials", chat.stub.Login,
            chat.classes.LoginRequest(username="alice", password="wrong"), timeout=DEADLINE_S)
    refused(grpc.StatusCode.UNAUTHENTICATED, "bad_credentials", chat.stub.Login,
            chat.classes.LoginRequest(username="nobody", password="wrong"), timeout=DEADLINE_S)
    refused(grpc.StatusCode.ALREADY_EXISTS, "nickname_in_use", chat.send, "alice", "without the token")
    bob = server.ws("bob", "lobby")
    assert chat.send("", "by token", metadata=bearer).success
    assert bob.expect("message")["sender"] == "alice"
    refused(grpc.StatusCode.INVALID_ARGUMENT, "bad_request", chat.send, "bob", "as another", metadata=bearer)
    stream = chat.stream(metadata=bearer)
    bob.expect("presence", event="join", nickname="alice")
    stream.say(chat.message("", "streamed"))
    assert bob.expect("message", content="streamed")["sender"] == "alice"
    alice = GrpcClient(server, metadata=bearer)
    assert alice.call("hello")["nickname"] == "alice"
    bad = chat.stream(metadata=[("authorization", "Bearer nonsense")])
    assert bad.rest() == [] and bad.status() == (grpc.StatusCode.UNAUTHENTICATED, "bad_token")


def test_without_a_store_there_are_no_accounts(start_server):
    chat = Chat(start_server(store__kind="memory"))
    request = chat.classes.LoginRequest(username="a", password="b")
    refused(grpc.StatusCode.NOT_FOUND, "not_found", chat.stub.Login, request, timeout=DEADLINE_S)


# Commands and events.


def test_a_session_goes_on_after_its_call_was_cancelled(server):
    bob = server.ws("bob", "den")
    alice = GrpcClient(server).enter("alice", "den")
    joined = bob.call("message", room="den", content="one")
    alice.expect("message", content="one")
    alice.drop()
    bob.expect("presence", event="away", nickname="alice")
    bob.call("message", room="den", content="two")
    assert bob.call("private", target="alice", content="psst")["stored"] is True
    again = GrpcClient(server)
    assert again.call("hello", resume=alice.welcome["resume"])["resumed"] is True
    again.send("join", room="den", since={"epoch": joined["epoch"], "offset": joined["offset"]})
    assert again.expect("message")["content"] == "two"
    assert again.expect("private")["content"] == "psst"


def test_half_close_obeys_what_was_said_and_says_goodbye(server):
    bob = server.ws("bob", "den")
    alice = GrpcClient(server).enter("alice", "den")
    for n in range(10):
        alice.send("message", id=str(n), room="den", content=f"m{n}")
    alice.stream.finish()
    events = [alice._to_shape(event) for event in alice.stream.rest()]
    assert [e["id"] for e in events if e["type"] == "ack"] == [str(n) for n in range(10)]
    assert [e["content"] for e in events if e["type"] == "message"] == [f"m{n}" for n in range(10)]
    assert alice.stream.status()[0] == grpc.StatusCode.OK
    assert [bob.expect("message")["content"] for _ in range(10)] == [f"m{n}" for n in range(10)]
    assert bob.expect("presence", event="leave", nickname="alice")["reason"] == "quit"


def test_several_sessions_share_a_connection(server, chat):
    clients = [GrpcClient(server, channel=chat.channel).enter(f"u{n}", "den") for n in range(20)]
    clients[0].call("message", room="den", content="to all")
    for client in clients:
        assert client.expect("message")["content"] == "to all"
    clients[3].drop()
    clients[0].expect("presence", event="away", nickname="u3")
    clients[0].call("message", room="den", content="still here")
    for client in clients[:3] + clients[4:]:
        assert client.expect("message")["content"] == "still here"


def test_large_messages_and_slow_windows(server, chat):
    """Content of 64 KiB many times over the first windows of HTTP/2, both ways, in order."""
    alice, bob = (GrpcClient(server).enter(name, "den") for name in ("alice", "bob"))
    content = "🦆" * 16_384
    for n in range(20):
        alice.send("message", id=str(n), room="den", content=content)
    assert [bob.expect("message")["offset"] for _ in range(20)] == list(range(1, 21))
    assert [alice.expect("ack")["id"] for _ in range(20)] == [str(n) for n in range(20)]


def test_no_hello_ends_the_call_and_not_the_connection(start_server):
    server = start_server(limits__hello_ms=200)
    chat = Chat(server)
    client = GrpcClient(server, channel=chat.channel)
    bye = client.expect("bye")
    assert (bye["code"], bye["reason"]) == (4106, "no_hello")
    assert client.stream.rest() == [] and client.stream.status() == (grpc.StatusCode.DEADLINE_EXCEEDED, "no_hello")
    assert chat.send("alice").success


def test_a_ping_asks_for_a_sign_of_life(start_server):
    server = start_server(heartbeat__probe_ms=100, heartbeat__timeout_ms=400)
    quiet, lively = (GrpcClient(server).enter(name) for name in ("quiet", "lively"))
    lively.expect("ping")
    lively.send("pong")
    bye = quiet.expect("bye")
    assert (bye["code"], bye["reason"]) == (4203, "timeout")
    lively.expect("ping")
    assert lively.call("ping")["type"] == "pong"


# Deadlines, limits, the end.


def test_a_deadline_ends_a_call(server, chat):
    bob = server.ws("bob", "lobby")
    # The header alone, so that it is the server that keeps the time: the library's own deadline would be first.
    stream = chat.stream(metadata=[("nickname", "alice")], timeout=0.3)
    bob.expect("presence", event="join", nickname="alice")
    assert stream.rest() == []
    assert stream.rpc.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    bob.expect("presence", event="leave", nickname="alice")


def test_calls_of_what_is_not_there_are_counted_too(start_server):
    server = start_server(rate__commands_per_second=5, rate__burst=5)
    nothing = channel_to(server).unary_unary("/chat.ChatService/Nothing")
    codes = set()
    for _ in range(20):
        with pytest.raises(grpc.RpcError) as caught:
            nothing(b"", timeout=DEADLINE_S)
        codes.add(caught.value.code())
    assert codes == {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_what_cannot_be_called(server, chat):
    nothing = chat.channel.unary_unary("/chat.ChatService/Nothing")
    refused(grpc.StatusCode.UNIMPLEMENTED, "not_found", nothing, b"", timeout=DEADLINE_S)
    login = chat.channel.unary_unary("/chat.ChatService/Login")
    send = chat.channel.unary_unary("/chat.ChatService/SendMessage")
    refused(grpc.StatusCode.INVALID_ARGUMENT, "bad_request", send, b"\xff\xff", timeout=DEADLINE_S)
    compressed = chat.channel.unary_unary("/chat.ChatService/SendMessage")
    refused(grpc.StatusCode.UNIMPLEMENTED, "bad_request", compressed, b"x" * 1000, timeout=DEADLINE_S, compression=grpc.Compression.Gzip)
    assert login is not None


def test_calls_share_the_rate_of_their_connection(start_server):
    server = start_server(rate__commands_per_second=1, rate__burst=20)
    chat = Chat(server)
    outcomes = []
    for n in range(60):
        try:
            chat.send(f"u{n}")
            outcomes.append(None)
        except grpc.RpcError as error:
            trailers = dict(error.trailing_metadata())
            assert (error.code(), trailers["reason"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "rate_limited")
            outcomes.append(int(trailers["grpc-retry-pushback-ms"]))
    assert outcomes[0] is None and outcomes[-1] > 0


def test_streams_over_the_limit_wait_or_are_refused(start_server):
    server = start_server(limits__http2_streams=3)
    chat = Chat(server)
    clients = [GrpcClient(server, channel=chat.channel).enter(f"u{n}") for n in range(3)]
    # The library keeps to what the server's SETTINGS say: the fourth begins when one of the others ends.
    fourth = chat.stub.SendMessage.future(chat.classes.SendMessageRequest(message=chat.message("alice", "x")), timeout=DEADLINE_S)
    assert not fourth.done()
    clients[0].call("quit")
    assert fourth.result().success


def test_a_reader_that_is_too_slow_is_told(start_server):
    server = start_server(limits__send_queue_bytes=100_000, limits__output_pause_bytes=50_000, limits__close_ms=500)
    bob = server.ws("bob", "den")
    raw = RawHttp2(server)
    raw.settings(initial_window=0)
    stream = raw.call("/chat.ChatService/StreamMessages", [("nickname", "slow"), ("room", "den")])
    bob.expect("presence", event="join", nickname="slow")
    for n in range(10):
        bob.call("message", room="den", content="x" * 50_000)
    assert bob.expect("presence", event="leave", nickname="slow")["reason"] == "slow_consumer"
    # Trailers need no window.
    assert raw.status(stream)[:2] == (8, "slow_consumer")
    raw.close()


def test_a_drain_tells_those_who_listen(start_server):
    server = start_server(drain__delay_ms=100, drain__spread_ms=0)
    chat = Chat(server)
    alice = GrpcClient(server, channel=chat.channel).enter("alice", "den")
    listener = chat.stream(metadata=[("nickname", "bob")])
    health = health_pb2_grpc.HealthStub(chat.channel)
    watch = Stream(lambda requests, metadata, timeout: health.Watch(health_pb2.HealthCheckRequest()))
    assert watch.hear().status == health_pb2.HealthCheckResponse.SERVING
    server.terminate()
    bye = alice.expect("bye")
    assert (bye["code"], bye["reason"]) == (4300, "draining")
    assert alice.stream.rest() == [] and alice.stream.status() == (grpc.StatusCode.UNAVAILABLE, "draining")
    assert listener.rest() == [] and listener.status() == (grpc.StatusCode.UNAVAILABLE, "draining")
    assert watch.hear().status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert watch.rest() == []
    assert server.exit_code() == 0


# Health and reflection.


def test_health(server, chat):
    stub = health_pb2_grpc.HealthStub(chat.channel)
    for service in ("", "chat.ChatService", "grpc.health.v1.Health"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == health_pb2.HealthCheckResponse.SERVING
    refused(grpc.StatusCode.NOT_FOUND, "not_found", stub.Check, health_pb2.HealthCheckRequest(service="chat.Other"))
    unknown = stub.Watch(health_pb2.HealthCheckRequest(service="chat.Other"))
    assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


def test_reflection_describes_all_services(server, chat):
    database = ProtoReflectionDescriptorDatabase(chat.channel)
    assert sorted(database.get_services()) == ["chat.ChatService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                                               "grpc.reflection.v1alpha.ServerReflection"]
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("chat.ChatService")
    assert [method.name for method in service.methods] == ["Login", "SendMessage", "StreamMessages", "Connect"]
    message = pool.FindMessageTypeByName("chat.Message")
    assert [(field.number, field.name) for field in message.fields][:3] == [(1, "user_id"), (2, "content"), (3, "timestamp")]


def buf():
    """The program buf, which scripts/setup installs."""
    target = pathlib.Path(os.environ.get("STARLING_BUF") or pathlib.Path(__file__).parents[2] / "target/npm/node_modules/.bin/buf")
    return str(target) if target.exists() else shutil.which("buf")


def test_buf_calls_by_reflection(server):
    assert buf(), "buf is missing: scripts/setup installs it"
    url = "http://%s:%d/chat.ChatService/SendMessage" % server.grpc
    command = [buf(), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", '{"message":{"userId":"alice","content":"by buf"}}', url]
    bob = server.ws("bob", "lobby")
    done = subprocess.run(command, capture_output=True, timeout=60, env=environment(), stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr.decode()
    response = json.loads(done.stdout)
    assert response["success"] is True and re.fullmatch(r"[A-Za-z0-9_-]+:1", response["messageId"])
    assert bob.expect("message")["content"] == "by buf"
    command[command.index("-d") + 1] = '{"message":{"content":"nobody"}}'
    done = subprocess.run(command, capture_output=True, timeout=60, env=environment(), stdin=subprocess.DEVNULL)
    assert done.returncode != 0 and b"invalid_argument" in done.stderr, done.stderr


def test_h2load_calls_many_times(server, tmp_path):
    request = health_pb2.HealthCheckRequest().SerializeToString()
    body = tmp_path / "body"
    body.write_bytes(struct.pack(">BI", 0, len(request)) + request)
    command = ["h2load", "-n", "2000", "-c", "4", "-m", "20", "-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers",
               "http://%s:%d/grpc.health.v1.Health/Check" % server.grpc]
    done = subprocess.run(command, capture_output=True, timeout=60, env=environment(), stdin=subprocess.DEVNULL)
    assert b"2000 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout + done.stderr


# Frames.


class RawHttp2:
    """HTTP/2 by the h2 of Python, over a socket, so that anything else can be sent between."""

    def __init__(self, server, greet=True):
        self.socket = socket.create_connection(server.grpc, DEADLINE_S)
        server.keep(self)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.events = []
        self.unread = b""  # of those who look at frames themselves
        if greet:
            self.h2.initiate_connection()
            self.flush()

    def close(self):
        self.socket.close()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def settings(self, initial_window):
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: initial_window})
        self.flush()

    def call(self, path, metadata=(), message=None, end=False, headers=None):
        stream = self.h2.get_next_available_stream_id()
        head = headers or [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path), ("te", "trailers"),
                           ("content-type", "application/grpc")]
        self.h2.send_headers(stream, [*head, *metadata])
        if message is not None:
            self.h2.send_data(stream, struct.pack(">BI", 0, len(message)) + message, end_stream=end)
        self.flush()
        return stream

    def until(self, kind, stream=None):
        deadline = Deadline()
        while True:
            for event in self.events:
                if isinstance(event, kind) and (stream is None or event.stream_id == stream):
                    self.events.remove(event)
                    return event
            self.socket.settimeout(deadline.left())
            data = self.socket.recv(65_536)
            if not data:
                raise EOFError([type(event).__name__ for event in self.events])
            self.events += self.h2.receive_data(data)
            self.flush()

    def status(self, stream):
        """The status that a call ended with."""
        while True:
            event = self.until((h2.events.TrailersReceived, h2.events.ResponseReceived), stream)
            headers = dict(event.headers)
            if "grpc-status" in headers:
                return int(headers["grpc-status"]), headers.get("reason"), headers.get(":status")

    def ended(self):
        """Waits for the connection's end, and returns the error of its GOAWAY."""
        try:
            self.until(type(None))
        except (EOFError, ConnectionResetError):
            pass
        codes = [int(event.error_code) for event in self.events if isinstance(event, h2.events.ConnectionTerminated)]
        return codes[-1] if codes else None


@pytest.fixture
def raw(server):
    return RawHttp2(server)


def health_is_answered(raw):
    stream = raw.call("/grpc.health.v1.Health/Check", message=b"", end=True)
    assert raw.until(h2.events.DataReceived, stream).data == b"\x00\x00\x00\x00\x02\x08\x01"
    assert raw.status(stream)[0] == 0


def test_what_is_no_call_is_refused(raw):
    head = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")]
    assert raw.status(raw.call("", headers=head))[2] == "415"
    head = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/chat.ChatService/Login"), ("content-type", "text/json")]
    assert raw.status(raw.call("", headers=head))[2] == "415"
    assert raw.status(raw.call("/chat.ChatService/SendMessage", [("grpc-timeout", "soon")]))[:2] == (3, "bad_request")
    assert raw.status(raw.call("/chat.ChatService/SendMessage", message=b"", end=True))[:2] == (3, "bad_request")
    stream = raw.call("/chat.ChatService/SendMessage")
    raw.h2.end_stream(stream)
    raw.flush()
    assert raw.status(stream)[:2] == (3, "bad_request")
    stream = raw.call("/chat.ChatService/Connect")
    raw.h2.send_data(stream, b"\x00\x00\x00", end_stream=True)
    raw.flush()
    assert raw.status(stream)[:2] == (3, "bad_request")
    health_is_answered(raw)


def test_a_connection_without_calls_does_not_hold_a_drain(start_server):
    server = start_server(limits__close_ms=60_000, limits__linger_ms=1, drain__timeout_ms=60_000)
    raw = RawHttp2(server)
    health_is_answered(raw)
    server.terminate()
    assert server.exit_code() == 0, "although it never answers the ping behind the first GOAWAY"


def test_a_deadline_is_kept_by_the_server_too(raw):
    stream = raw.call("/chat.ChatService/Connect", [("grpc-timeout", "100m")])
    assert raw.status(stream)[:2] == (4, "deadline")
    health_is_answered(raw)


def test_one_byte_at_a_time(server):
    raw = RawHttp2(server, greet=False)
    raw.h2.initiate_connection()
    stream = raw.h2.get_next_available_stream_id()
    raw.h2.send_headers(stream, [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/grpc.health.v1.Health/Check"),
                                 ("content-type", "application/grpc")])
    raw.h2.send_data(stream, b"\x00\x00\x00\x00\x00", end_stream=True)
    for byte in raw.h2.data_to_send():
        raw.socket.sendall(bytes([byte]))
    assert raw.status(stream)[0] == 0


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers_block(path="/grpc.health.v1.Health/Check"):
    import hpack

    return hpack.Encoder().encode([(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path),
                                   ("content-type", "application/grpc")])


FLOODS = {
    "ping": lambda n: frame(6, payload=b"12345678"),
    "settings": lambda n: frame(4),
    "priority": lambda n: frame(2, stream=2 * n + 1, payload=b"\0\0\0\0\1"),
    "rapid reset": lambda n: frame(1, 4, 2 * n + 1, headers_block()) + frame(3, 0, 2 * n + 1, b"\0\0\0\x08"),
    "empty data": lambda n: (frame(1, 4, 1, headers_block()) if n == 0 else b"") + frame(0, 0, 1),
    "continuation": lambda n: (frame(1, 0, 1, headers_block()) if n == 0 else b"") + frame(9, 0, 1),
    "unknown": lambda n: frame(200),
    "window update": lambda n: frame(8, payload=b"\0\0\0\1"),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_floods_end_the_connection_that_sends_them(start_server, flood):
    server = start_server(limits__http2_control_frames=5000)
    neighbour = GrpcClient(server).enter("neighbour", "den")
    raw = RawHttp2(server)
    data = b"".join(FLOODS[flood](n) for n in range(60_000))
    raw.socket.settimeout(DEADLINE_S)
    with pytest.raises((ConnectionError, EOFError)):
        raw.socket.sendall(data)
        while raw.socket.recv(65_536):
            pass
        raise EOFError
    assert neighbour.call("ping")["type"] == "pong"


# More than the memory that a few connections take is to be told from what these would.
BOMBS = 40


def header_bomb(value):
    """A block of which each byte names the same field again, how many these are, and its frames, of which none is said to be the last."""
    from hpack.hpack import encode_integer

    # A literal with a new name, for the peer's table (RFC 7541, 6.2.1), of which it is the newest entry then (2.3.3): 62.
    block = headers_block() + b"\x40\x01a" + bytes(encode_integer(len(value), 7)) + value
    # As many frames as may come without an end: more are a flood of another kind.
    named = 6 * 16_384 - len(block)
    block += b"\xbe" * named
    parts = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
    return block, named, frame(1, 0, 1, parts[0]) + b"".join(frame(9, 0, 1, part) for part in parts[1:])


@pytest.mark.parametrize("value", [b"x" * 4000, b""], ids=["long fields", "short fields"])
def test_header_bombs_are_bounded(server, value):
    """96 KiB on the wire each. In memory the fields are 400 MB; and if what is the same in all is there once, 98,000 places in a table."""
    import hpack

    block, named, frames = header_bomb(value)
    assert hpack.Decoder(max_header_list_size=1 << 30).decode(block)[-named:] == [("a", value.decode())] * named
    neighbour = GrpcClient(server).enter("neighbour")
    before = peak_kib(server)
    raws = [RawHttp2(server) for _ in range(BOMBS)]
    for raw in raws:
        raw.until(h2.events.RemoteSettingsChanged)
        raw.socket.sendall(frames)
    assert neighbour.call("ping")["type"] == "pong"
    assert [raw.ended() for raw in raws] == [11] * BOMBS  # ENHANCE_YOUR_CALM
    # Of each field at least what the protocol counts (RFC 9113, 6.5.2).
    unbounded = BOMBS * named * (len("a") + len(value) + 32) // 1024
    assert (grown := peak_kib(server) - before) < 24 * 1024 < unbounded // 4, f"{grown} KiB"
    assert neighbour.call("ping")["type"] == "pong"


def test_a_preface_that_does_not_come(start_server):
    server = start_server(limits__hello_ms=200)
    raw = RawHttp2(server, greet=False)
    raw.socket.settimeout(DEADLINE_S)
    data = b""
    while part := raw.socket.recv(65_536):
        data += part
    assert b"no_hello" in data
    other = RawHttp2(server, greet=False)
    other.socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    other.socket.settimeout(DEADLINE_S)
    while other.socket.recv(65_536):
        pass


def frames_of(raw, is_enough=lambda frame: False):
    """All frames that come, up to one that is enough or to the end: kind, stream and payload."""
    deadline, found = Deadline(), []
    while True:
        while len(raw.unread) >= 9 and len(raw.unread) >= 9 + (length := int.from_bytes(raw.unread[:3], "big")):
            found.append((raw.unread[3], int.from_bytes(raw.unread[5:9], "big"), raw.unread[9 : 9 + length]))
            raw.unread = raw.unread[9 + length :]
            if is_enough(found[-1]):
                return found
        raw.socket.settimeout(deadline.left())
        if not (part := raw.socket.recv(65_536)):
            return found
        raw.unread += part


DATA, PING, GOAWAY = 0, 6, 7


def test_whoever_never_calls_is_told_to_go(start_server):
    server = start_server(limits__hello_ms=300)
    said = frames_of(RawHttp2(server))
    last_words = [payload for kind, _, payload in said if kind == GOAWAY]
    assert last_words and all(payload[4:8] == bytes(4) for payload in last_words), said  # NO_ERROR


def test_a_call_that_crosses_the_goodbye_goes_on(start_server):
    server = start_server(limits__hello_ms=300)
    raw = RawHttp2(server)
    frames_of(raw, lambda frame: frame[0] == GOAWAY)
    raw.socket.sendall(frame(1, 4, 1, headers_block("/grpc.health.v1.Health/Watch")) + frame(0, 1, 1, bytes(5)))
    frames_of(raw, lambda frame: frame[:2] == (DATA, 1))
    let_pass(1.5)  # longer than a connection without a call would be there
    raw.socket.sendall(frame(6, payload=b"are you?"))
    said = frames_of(raw, lambda frame: frame[0] == PING and frame[2] == b"are you?")
    assert said[-1][2] == b"are you?", said


def test_bytes_of_half_a_head_do_not_hold_a_place(start_server):
    server = start_server(limits__hello_ms=300)
    raw = RawHttp2(server)
    raw.socket.sendall(frame(1, 0, 1, bytes(4096))[:20])
    raw.socket.settimeout(0.05)
    deadline = Deadline()
    while deadline.left():
        try:
            raw.socket.sendall(b"x")
            if not raw.socket.recv(65_536):
                break
        except TimeoutError:  # nothing to read yet
            pass
        except ConnectionError:
            break


def test_a_program_that_takes_its_time_to_call_is_served(start_server):
    server = start_server(limits__hello_ms=200, log__level="debug")
    channel = channel_to(server)
    grpc.channel_ready_future(channel).result(DEADLINE_S)
    server.said(": closed ", "lived_ms=")
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_client_that_finds_no_place_is_told(start_server):
    server = start_server(limits__connections=1)
    first = RawHttp2(server)
    health_is_answered(first)
    second = RawHttp2(server)
    assert second.ended() == 11  # ENHANCE_YOUR_CALM
    first.close()
    wait_until(lambda: works(server), "a place")


def test_a_library_that_finds_no_place_does_not_try_without_end(start_server):
    server = start_server(limits__connections=1, log__level="debug")
    first = RawHttp2(server)
    health_is_answered(first)
    channel = channel_to(server)
    health = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.RpcError) as error:
        health.Check(health_pb2.HealthCheckRequest(), timeout=2)
    assert error.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), error.value
    # One of them is the answered call of the first.
    assert len(server.said(": closing ", "reason=last_response", count=2)) < 20


def test_a_silent_connection_is_asked_for_a_sign_of_life(start_server):
    server = start_server(heartbeat__probe_ms=200, heartbeat__timeout_ms=800, limits__hello_ms=60_000)
    raw = RawHttp2(server)
    health_is_answered(raw)
    raw.until(h2.events.PingReceived)


def works(server):
    raw = RawHttp2(server)
    try:
        health_is_answered(raw)
        return True
    except (EOFError, ConnectionResetError, h2.exceptions.ProtocolError):
        return False


@pytest.mark.parametrize("seed", range(4))
def test_garbage_ends_only_the_connection_it_comes_on(server, seed):
    import random

    random = random.Random(seed)
    neighbour = GrpcClient(server).enter("neighbour")
    for _ in range(25):
        raw = RawHttp2(server)
        try:
            for _ in range(random.randrange(1, 8)):
                kind, flags = random.randrange(12), random.randrange(256)
                stream = random.choice([0, 1, 2, 3, 2**31 - 1])
                payload = random.choice([random.randbytes(random.randrange(60)), headers_block(), b"\0\0\0\0\4\1\2\3\4"])
                raw.socket.sendall(frame(kind, flags, stream, payload))
        except ConnectionError:
            pass
        raw.close()
    assert neighbour.call("ping")["type"] == "pong"


def test_a_burst_of_small_messages_waits_and_ends_nothing(start_server):
    """Commands of some ten bytes, whose window is full while the client's rate has them wait."""
    server = start_server(rate__commands_per_second=5_000, rate__burst=1_000)
    client = GrpcClient(server).enter("eager", "den")
    for number in range(5_000):
        client.send("ping", id=str(number))
    answers = [client.expect(id=str(number)) for number in range(5_000)]
    assert {answer["type"] for answer in answers} <= {"pong", "error"}
    assert {answer["reason"] for answer in answers if answer["type"] == "error"} <= {"rate_limited"}
