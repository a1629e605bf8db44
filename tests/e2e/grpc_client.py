"""Clients of gRPC, by the library that others wrote, with classes that its own compiler made of the schema that the server hands out."""

import functools
import importlib.util
import pathlib
import queue
import sys
import tempfile
import threading

import grpc
from grpc_tools import protoc

from helpers import DEADLINE_S, Eventful

# A client's own connection: channels of one process would share one otherwise.
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@functools.cache
def generated(name, text):
    """What the compiler makes of a schema: the messages, and the stubs."""
    directory = tempfile.mkdtemp(prefix="starling-grpc-")
    source = pathlib.Path(directory, f"{name}.proto")
    source.write_bytes(text)
    assert protoc.main(["protoc", f"-I{directory}", f"--python_out={directory}", f"--grpc_python_out={directory}", str(source)]) == 0
    modules = []
    for module_name in (f"{name}_pb2", f"{name}_pb2_grpc"):
        spec = importlib.util.spec_from_file_location(module_name, pathlib.Path(directory, f"{module_name}.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
        modules.append(module)
    return modules


def schema_of(server):
    """The messages and stubs of the schema that the server hands out."""
    response = server.get("/starling.proto")
    assert response.status == 200
    return generated("starling", response.body)


class Closing:
    """A channel that is closed with its server."""

    def __init__(self, channel):
        self.channel = channel

    def close(self):
        self.channel.close()


def channel_to(server, options=()):
    channel = grpc.insecure_channel("%s:%d" % server.grpc, options=[*OPTIONS, *options])
    server.keep(Closing(channel))
    return channel


class Stream:
    """A call in both directions: what is said goes out at once, and what comes is waited for with a deadline."""

    def __init__(self, method, metadata=None, timeout=None):
        self._out, self._in = queue.Queue(), queue.Queue()
        self.rpc = method(iter(self._out.get, None), metadata=metadata, timeout=timeout)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for message in self.rpc:
                self._in.put(message)
        except grpc.RpcError:
            pass
        self._in.put(None)

    def say(self, message):
        self._out.put(message)

    def finish(self):
        """Says no more, and listens."""
        self._out.put(None)

    def hear(self, seconds=DEADLINE_S):
        """The next message, or None at the end."""
        try:
            return self._in.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError("nothing was heard") from None

    def rest(self):
        """What is left, to the end."""
        return list(iter(self.hear, None))

    def status(self):
        """How the call ended: the code, and the word for programs."""
        code = self.rpc.code()
        return code, dict(self.rpc.trailing_metadata()).get("reason")


class GrpcClient(Eventful):
    """The commands and events of `Connect`, in the JSON shape."""

    def __init__(self, server, channel=None, metadata=None, timeout=None):
        from binary import to_command, to_shape

        super().__init__()
        self._to_command, self._to_shape = to_command, to_shape
        self.classes, stubs = schema_of(server)
        self.channel = channel or channel_to(server)
        self.stream = Stream(stubs.ChatServiceStub(self.channel).Connect, metadata, timeout)
        server.keep(self)

    def send(self, type, **fields):
        self.stream.say(self._to_command(self.classes, type, **fields))

    def receive(self, deadline):
        event = self.stream.hear(deadline.left())
        if event is None:
            raise EOFError(str(self.stream.status()))
        return self._to_shape(event)

    @property
    def raw(self):
        """What a call has in the place of a socket: its stream."""
        return self

    def is_ended(self):
        return self.stream.hear() is None

    def close(self):
        self.stream.rpc.cancel()

    def drop(self):
        self.stream.rpc.cancel()
