"""Sessions and tokens of nodes that are cut off or have ended, or whose Redis has lost its data."""

import signal

import pytest

from helpers import wait_until
from test_cluster import (  # noqa: F401  (fixtures among them)
    redis, resumed, start_node, start_redis)

@pytest.mark.parametrize("loses", ["its data", "everything, with a restart"])
def test_tokens_that_were_signed_before_a_loss_are_taken_by_those_who_start_after_it(start_redis, start_node, loses):  # noqa: F811
    redis = start_redis()  # noqa: F811
    settings = {"cluster__lease_ms": 3000, "session__grace_ms": 60_000}
    one, two = (start_node(redis, **settings) for _ in range(2))
    alice, bob = one.ws("alice"), two.ws("bob")
    # They cannot say anything before somebody else has made another secret.
    for node in (one, two):
        node.process.send_signal(signal.SIGSTOP)
    try:
        if loses == "its data":
            redis.cli("FLUSHALL")
        else:
            redis.kill()
            redis.start()
        three = start_node(redis, **settings)
        carol = three.ws("carol")
    finally:
        for node in (one, two):
            node.process.send_signal(signal.SIGCONT)
    for node in (one, two, three):
        wait_until(lambda node=node: any("another secret" in line for line in node.log), "the secrets to be known")
    wait_until(lambda: len(redis.cli("--scan", "--pattern", "starling:{s:*").split()) == 3, "sessions to be said again")
    # Each goes on on each of the others.
    for node in (three, two):
        alice = resumed(node, alice)
    for node in (one, three):
        bob = resumed(node, bob)
    for node in (two, one):
        carol = resumed(node, carol)
    # Those who come still later learn it too.
    four = start_node(redis, **settings)
    for client in (alice, bob, carol):
        resumed(four, client)
