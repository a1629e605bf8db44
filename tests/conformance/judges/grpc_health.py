"""gRPC's health checking protocol, by three clients that have nothing in common: grpcio (C core), grpc-js (Node's nghttp2), buf (Go).

grpc_health_probe and grpcurl are in none of the registries that the project uses (a wrapper of grpcurl on PyPI is by somebody else, and is
not run here). They ask what is asked here: Check of the server and of each service, and Watch, with a deadline. What the services besides
answer, and Watch while the server drains, tests/e2e/test_grpc.py asks.

A pass: SERVING for what there is, NOT_FOUND or SERVICE_UNKNOWN for what there is not, each within the deadline."""

import json
import subprocess

from helpers import environment
from judge import ROOT, Case, Failed, case, missing_modules, missing_npm, module_version, npm_packages, output

SCHEME = "grpc"
DEADLINE_S = 10
SERVICES = ["", "chat.ChatService", "grpc.health.v1.Health"]
UNKNOWN = "chat.Other"
BUF = npm_packages() / ".bin" / "buf"


def missing():
    return missing_modules("grpcio", "grpcio-health-checking") + missing_npm("@grpc/grpc-js", "@bufbuild/buf")


def version():
    package = json.loads((npm_packages() / "@grpc/grpc-js/package.json").read_text())
    return f"{module_version('grpcio')}, grpc-js {package['version']}, buf {output(str(BUF), '--version').strip()}"


def run(bench):
    with bench.server() as server:
        address = "%s:%d" % server.grpc
        for service in SERVICES:
            yield case(f"grpcio: Check {service!r}", check, address, service)
        yield case("grpcio: Check of what is not there", not_found, address)
        yield case("grpcio: Watch", watch, address, "", "SERVING")
        yield case("grpcio: Watch of what is not there", watch, address, UNKNOWN, "SERVICE_UNKNOWN")
        yield case("grpcio: a hundred Checks at a time", many, address)
        yield from by_node(address)
        for service in SERVICES:
            yield case(f"buf: Check {service!r}", by_buf, address, service, "SERVING")
        yield case("buf: Check of what is not there", by_buf, address, UNKNOWN, None)


def stub(address):
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    return channel, health_pb2_grpc.HealthStub(channel), health_pb2


def check(address, service):
    channel, health, messages = stub(address)
    with channel:
        status = health.Check(messages.HealthCheckRequest(service=service), timeout=DEADLINE_S).status
    if status != messages.HealthCheckResponse.SERVING:
        raise Failed(f"status {status}")


def not_found(address):
    import grpc

    channel, health, messages = stub(address)
    with channel:
        try:
            health.Check(messages.HealthCheckRequest(service=UNKNOWN), timeout=DEADLINE_S)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise Failed(f"{error.code()}") from None
        else:
            raise Failed("it was answered")


def watch(address, service, wanted):
    channel, health, messages = stub(address)
    with channel:
        updates = health.Watch(messages.HealthCheckRequest(service=service), timeout=DEADLINE_S)
        status = messages.HealthCheckResponse.ServingStatus.Name(next(updates).status)
        updates.cancel()
    if status != wanted:
        raise Failed(status)


def many(address):
    channel, health, messages = stub(address)
    with channel:
        futures = [health.Check.future(messages.HealthCheckRequest(), timeout=DEADLINE_S) for _ in range(100)]
        for future in futures:
            if future.result().status != messages.HealthCheckResponse.SERVING:
                raise Failed("one is not SERVING")


def by_node(address):
    command = ["node", ROOT / "tests/conformance/grpc_client.mjs", address, npm_packages(), json.dumps(SERVICES), UNKNOWN]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=environment())
    for line in done.stdout.splitlines():
        found = json.loads(line)
        yield Case(f"grpc-js: {found['name']}", found["failure"])
    if done.returncode != 0:
        yield Case("grpc-js", f"the client failed: {done.stderr}")


def by_buf(address, service, wanted):
    url = f"http://{address}/grpc.health.v1.Health/Check"
    # Without a schema: it asks for that by reflection.
    command = [BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", json.dumps({"service": service}), url]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, env=environment())
    if wanted is None:
        if done.returncode == 0 or b"not_found" not in done.stderr:
            raise Failed(f"exit code {done.returncode}: {done.stderr.decode()}")
    elif done.returncode != 0 or json.loads(done.stdout).get("status") != wanted:
        raise Failed(f"exit code {done.returncode}: {done.stdout.decode()}{done.stderr.decode()}")
