"""Users with a token: every algorithm, everything that is wrong with tokens, and what the claims allow."""

import base64
import datetime
import hashlib
import hmac
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from binary import CARRIERS
from helpers import RawWebSocket, Server, wait_until
from tokens import SECRET, SETTINGS, enter, token


@pytest.fixture
def server(start_server):
    return start_server(**SETTINGS)


def private_pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def public_pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


KEYS = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


def now():
    return int(time.time())


# Algorithms.


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("form", ["pem", "jwks"])
def test_public_keys(start_server, tmp_path, algorithm, form):
    key, another = KEYS[algorithm](), KEYS[algorithm]()
    path = tmp_path / f"key.{form}"
    headers = {}
    if form == "pem":
        path.write_bytes(public_pem(key))
    else:
        of = jwt.get_algorithm_by_name(algorithm)
        keys = [{**of.to_jwk(own.public_key(), as_dict=True), "kid": kid, "alg": algorithm, "use": "sig"}
                for own, kid in ((another, "old"), (key, "new"))]
        path.write_text(json.dumps({"keys": keys}))
        headers = {"kid": "new"}
    server = start_server(auth__jwt_algorithm=algorithm, **{"auth__jwt_key_file" if form == "pem" else "auth__jwks_file": path})
    good = jwt.encode({"sub": "alice", "exp": now() + 60}, private_pem(key), algorithm, headers)
    assert server.ws().enter(None, token=good).welcome["nickname"] == "alice"
    client = server.ws()
    forged = jwt.encode({"sub": "mallory", "exp": now() + 60}, private_pem(another), algorithm, headers)
    client.refused(401, "bad_token", "hello", token=forged)
    # The public key as a secret: the old trick against verifiers that believe the header.
    pem = public_pem(key)
    signed = segment({"alg": "HS256", "typ": "JWT", **headers}) + "." + segment({"sub": "mallory", "exp": now() + 60})
    signature = hmac.digest(pem, signed.encode(), hashlib.sha256)
    client.refused(401, "bad_token", "hello", token=f"{signed}.{encoded(signature)}")
    client.refused(401, "bad_token", "hello", token=token("mallory"))


def encoded(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def segment(value):
    return encoded(json.dumps(value).encode())


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_secret(server, carrier):
    client = CARRIERS[carrier](server).enter(None, "den", token=token("Älice"))
    assert client.welcome["nickname"] == "Älice"
    assert client.say("den", "hello")[0]["offset"] == 1


def test_people_have_tokens_too(server):
    person = server.text_line()
    person.expect(r".*nickname.*")
    person.type("/token nonsense")
    person.expect(r"! 401 bad_token: .+")
    person.type(f"/token {token('anna')}")
    person.type("/who")
    person.expect_text("* lobby has 1 member: anna")


# What is wrong with a token.


@pytest.mark.parametrize("claims, reason", [
    ({"exp": 1}, "expired_token"), ({"exp": -1}, "bad_token"), ({"exp": "soon"}, "bad_token"), ({"nbf": 4_000_000_000}, "bad_token"),
    ({"aud": "somebody else"}, "bad_token"), ({"aud": ["a", "b"]}, "bad_token"), ({"sub": ""}, "bad_token"), ({"sub": "two words"}, "bad_token"),
    ({"sub": "x" * 33}, "bad_token"), ({"admin": "yes"}, "bad_token"), ({"admin": 1}, "bad_token"), ({"rooms": "den"}, "bad_token"),
    ({"rooms": [1]}, "bad_token"), ({"tags": "beta"}, "bad_token"), ({"tags": [None]}, "bad_token"), ({"rooms": ["a b"]}, "bad_token"),
    ({"exp": None, "nbf": True}, "bad_token"),
])
def test_claims_that_do_not_hold(server, claims, reason):
    client = server.ws()
    signed = segment({"alg": "HS256", "typ": "JWT"}) + "." + segment({"sub": "alice", "exp": now() + 60} | claims)
    signature = encoded(hmac.digest(SECRET.encode(), signed.encode(), hashlib.sha256))
    error = client.call("hello", token=f"{signed}.{signature}")
    assert (error["type"], error["code"]) == ("error", 401), error
    assert error["reason"] == reason
    assert client.enter("guest").nickname == "guest", "a failed hello costs an error, not the connection"


def test_a_token_without_a_subject_is_nobodys(server):
    server.ws().refused(401, "bad_token", "hello", token=jwt.encode({"exp": now() + 60}, SECRET, "HS256"))


@pytest.mark.parametrize("spoil", [
    lambda good: "", lambda good: ".", lambda good: "..", lambda good: "...", lambda good: good + ".", lambda good: "." + good, lambda good: good[:-1],
    lambda good: good + "A", lambda good: good.rsplit(".", 1)[0], lambda good: good.rsplit(".", 1)[0] + ".", lambda good: good.replace(".", "!"),
    lambda good: " " + good, lambda good: good + "\n", lambda good: "x" * 9000, lambda good: good.swapcase(), lambda good: "🦆." + good,
    lambda good: segment({"alg": "none"}) + "." + good.split(".")[1] + ".",
    lambda good: segment({"alg": "none", "typ": "JWT"}) + "." + good.split(".")[1] + "." + good.split(".")[2],
    lambda good: segment({"alg": "HS512"}) + "." + ".".join(good.split(".")[1:]),
    lambda good: segment([]) + "." + ".".join(good.split(".")[1:]), lambda good: good.split(".")[0] + "." + segment([1]) + "." + good.split(".")[2],
    lambda good: jwt.encode({"sub": "alice", "exp": now() + 60}, SECRET, "HS512"),
    lambda good: jwt.encode({"sub": "alice", "exp": now() + 60}, SECRET + "!", "HS256"),
    lambda good: good.split(".")[0] + "." + segment({"sub": "alice", "admin": True, "exp": now() + 60}) + "." + good.split(".")[2],
])
def test_tokens_that_are_none(server, spoil):
    client = server.ws()
    client.refused(401, "bad_token", "hello", token=spoil(token("alice")))
    assert client.enter(None, token=token("alice")).nickname == "alice"


def test_a_server_without_a_key_takes_no_tokens(start_server):
    start_server().ws().refused(401, "bad_token", "hello", token=token("alice"))


def test_the_nickname_is_that_of_the_token(server):
    client = server.ws()
    client.refused(401, "bad_token", "hello", token=token("alice"), nickname="bob")
    assert client.enter("ALICE", token=token("alice")).welcome["nickname"].lower() == "alice"
    client.refused(403, "forbidden", "nick", nickname="al")


@pytest.mark.parametrize("claim, is_good", [("starling", True), (["x", "starling"], True), ("x", False), (["x"], False), (None, False)])
def test_an_audience_may_be_asked_for(start_server, claim, is_good):
    server = start_server(auth__jwt_audience="starling", **SETTINGS)
    reply = server.ws().call("hello", token=token("alice", aud=claim))
    assert (reply["type"] == "welcome") is is_good, reply


def test_a_token_that_is_not_good_yet(server):
    client = server.ws()
    not_before = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2)
    early = token("alice", nbf=int(not_before.timestamp()))
    client.refused(401, "bad_token", "hello", token=early)
    wait_until(lambda: client.call("hello", token=early)["type"] == "welcome", "the token to be good")


# Guests.


def test_guests_may_be_kept_out(start_server):
    server = start_server(auth__guests="false", **SETTINGS)
    client = server.ws()
    client.refused(401, "unauthenticated", "hello", nickname="guest")
    assert server.ws().enter(None, token=token("alice")).nickname == "alice"
    person = server.text_line()
    person.type("guest")
    person.expect(r"! 401 unauthenticated: .+")
    assert RawWebSocket(server, "/ws?nickname=guest&room=den").handshake.status == 401
    assert client.enter(None, token=token("bob")).nickname == "bob"


def test_guests_and_users_do_not_share_a_nickname(server):
    server.ws("guest")
    user = enter(server.ws(), "user")
    server.ws().refused(409, "nickname_in_use", "hello", nickname="USER")
    server.ws().refused(409, "nickname_in_use", "hello", token=token("guest"))
    assert user.call("ping")["type"] == "pong"


# What the claims allow.


def test_rooms(server):
    alice = enter(server.ws(), "alice", "den", "team-a", rooms=["den", "team-*"])
    bob = server.ws("bob", "hall", "den")
    bob.say("hall", "secret")
    for type in ("join", "members", "history"):
        alice.refused(403, "forbidden", type, room="hall")
        alice.refused(403, "forbidden", type, room="HALL")
    alice.refused(403, "forbidden", "join", room="teams")
    alice.refused(403, "forbidden", "switch", **{"from": "den", "to": "hall"})
    assert alice.call("switch", **{"from": "den", "to": "TEAM-b"})["type"] == "joined"
    assert "hall" not in [room["room"] for room in alice.call("rooms")["rooms"]]
    nowhere = enter(server.ws(), "nowhere", rooms=[])
    nowhere.refused(403, "forbidden", "join", room="den")


def test_admins(server):
    server.ws("first", "den")
    server.ws("victim", "den")
    admin = enter(server.ws(), "admin", "den", admin=True)
    assert admin.call("kick", room="den", target="victim")["type"] == "ack"
    plain = enter(server.ws(), "plain", "den", admin=False)
    plain.refused(403, "forbidden", "kick", room="den", target="first")


def test_a_token_in_the_query(server):
    client = server.ws_at(f"/ws?token={token('alice')}&room=den")
    assert client.expect("welcome")["nickname"] == "alice"
    assert client.expect("joined")["room"] == "den"


# Several sessions of one user.


def test_a_user_has_several_sessions(server):
    bob = server.ws("bob", "den")
    sessions = [enter(CARRIERS[name](server), "dora", "den") for name in CARRIERS]
    assert len({session.welcome["session"] for session in sessions}) == len(sessions)
    assert bob.expect("presence", event="join")["nickname"] == "dora"
    assert [member["nickname"] for member in bob.call("members", room="den")["members"]] == ["bob", "dora"], "users, not sessions"
    ack = bob.call("private", target="dora", content="to all of you")
    assert ack["delivered"] == len(sessions)
    for session in sessions:
        assert session.expect("private")["content"] == "to all of you"
    sessions[0].say("den", "hello")
    for client in [*sessions, bob]:
        assert client.expect("message")["sender"] == "dora"
        client.until_pong()
    for session in sessions[:-1]:
        session.call("quit")
    sessions[-1].say("den", "still here")
    bob.expect("message", content="still here")
    sessions[-1].call("quit")
    assert bob.expect("presence")["reason"] == "quit", "the first that the room hears of any end"


def test_sessions_of_a_user_are_limited(start_server):
    server = start_server(limits__sessions_per_user=2, **SETTINGS)
    first, _ = enter(server.ws(), "dora"), enter(server.ws(), "dora")
    third = server.ws()
    assert third.call("hello", token=token("dora"))["type"] == "error"
    first.call("quit")
    wait_until(lambda: third.call("hello", token=token("dora"))["type"] == "welcome", "the place to be free")


def test_a_user_is_away_when_all_sessions_are(server):
    bob = server.ws("bob", "den")
    one, two = enter(server.ws(), "dora", "den"), enter(server.json_line(), "dora", "den")
    one.drop()
    two.drop()
    assert bob.expect("presence", event="away")["nickname"] == "dora"
    bob.say("den", "1")
    again = server.ws().enter(None, resume=two.welcome["resume"])
    assert again.welcome["resumed"] is True
    assert bob.expect("presence", event="back")["nickname"] == "dora"
    assert [event for event in bob.until_pong() if event.get("event") == "away"] == [], "away once"


# A token that expires.


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_session_goes_on_with_a_new_token(server, carrier):
    bob = server.ws("bob", "den")
    alice = CARRIERS[carrier](server).enter(None, token=token("alice", exp=now() + 2))
    epoch = alice.call("join", room="den")["epoch"]
    bye = alice.expect("bye")
    assert (bye["code"], bye["reason"], bye["resumable"]) == (4205, "expired_token", True)
    assert bob.expect("presence", event="away")["nickname"] == "alice"
    bob.say("den", "missed")
    again = CARRIERS[carrier](server)
    resume = alice.welcome["resume"]
    again.refused(401, "expired_token", "hello", resume=resume)
    again.refused(401, "bad_token", "hello", resume=resume, token=token("mallory"))
    again.refused(401, "expired_token", "hello", resume=resume, token=token("alice", exp=now() - 1))
    again.enter(None, resume=resume, token=token("alice"))
    assert again.welcome["resumed"] is True and again.welcome["session"] == alice.welcome["session"]
    assert again.call("join", room="den", since={"epoch": epoch, "offset": 0})["recovered"] is True
    assert again.expect("message")["content"] == "missed"


def test_a_guest_session_cannot_be_resumed_with_a_token(server):
    guest = server.ws("alice")
    guest.drop()
    server.ws().refused(401, "bad_token", "hello", resume=guest.welcome["resume"], token=token("alice"))


def test_a_wrong_key_file_stops_the_start(tmp_path):
    path = tmp_path / "key.pem"
    path.write_text("not a key")
    with pytest.raises(AssertionError, match="did not start"):
        Server(auth__jwt_algorithm="RS256", auth__jwt_key_file=path)


def test_one_session_too_many_is_told_when_to_try_again(start_server):
    server = start_server(limits__sessions_per_user=2, **SETTINGS)
    sessions = [enter(server.ws(), "alice") for _ in range(2)]
    third = server.ws()
    error = third.refused(429, "too_many_connections", "hello", token=token("alice"))
    assert (error["retryable"], error["retry_after_ms"]) == (True, 1000)
    sessions[0].call("quit")
    wait_until(lambda: third.call("hello", token=token("alice"))["type"] == "welcome", "a session to have ended")
