#!/usr/bin/env python3
"""A room over gRPC, from the schema that the server hands out: lines of standard input are said, what is heard is printed.

    python3 examples/grpc_client.py [--web http://127.0.0.1:8080] [--grpc 127.0.0.1:50051] [--nickname erin] [--room lobby]
"""

import argparse
import pathlib
import queue
import sys
import tempfile
import threading
import urllib.request

import grpc
from grpc_tools import protoc


def schema(web):
    """The messages and stubs that grpc_tools makes of /starling.proto."""
    directory = tempfile.mkdtemp(prefix="starling-")
    proto = pathlib.Path(directory, "starling.proto")
    proto.write_bytes(urllib.request.urlopen(f"{web}/starling.proto").read())
    if protoc.main(["protoc", f"-I{directory}", f"--python_out={directory}", f"--grpc_python_out={directory}", str(proto)]):
        sys.exit("grpc_client: the schema cannot be compiled")
    sys.path.insert(0, directory)
    import starling_pb2
    import starling_pb2_grpc
    return starling_pb2, starling_pb2_grpc


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--web", default="http://127.0.0.1:8080", help="where the schema is")
    parser.add_argument("--grpc", default="127.0.0.1:50051")
    parser.add_argument("--nickname", default="erin")
    parser.add_argument("--room", default="lobby")
    options = parser.parse_args()
    pb, rpc = schema(options.web)

    commands = queue.Queue()
    commands.put(pb.Command(hello=pb.Hello(nickname=options.nickname)))
    commands.put(pb.Command(join=pb.Join(room=options.room)))

    def read_lines():
        for number, line in enumerate(filter(None, map(str.rstrip, sys.stdin)), 1):
            commands.put(pb.Command(id=str(number), message=pb.Say(room=options.room, content=line)))
        commands.put(pb.Command(quit=pb.Quit()))

    stub = rpc.ChatServiceStub(grpc.insecure_channel(options.grpc))
    try:
        for event in stub.Connect(iter(commands.get, None)):
            kind = event.WhichOneof("kind")
            if kind == "joined":
                print(f"in {event.joined.room} with {event.joined.members}", flush=True)
                threading.Thread(target=read_lines, daemon=True).start()
            elif kind == "message":
                print(f"{event.message.sender}: {event.message.content}", flush=True)
            elif kind == "error":
                print(f"{event.error.reason}: {event.error.message}", file=sys.stderr)
            elif kind == "ping":
                commands.put(pb.Command(pong=pb.Pong()))
            elif kind == "bye":
                break
    except grpc.RpcError as error:
        sys.exit(f"grpc_client: {error.code().name}: {error.details()}")


if __name__ == "__main__":
    main()
