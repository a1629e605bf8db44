"""Users' tokens, made by a library that others wrote."""

import time

import jwt

SECRET = "a secret that only the tests know, and long enough for every algorithm that they try"
SETTINGS = {"auth__jwt_secret": SECRET}


def token(nickname, **claims):
    """A token that the secret signs; claims of None are left out."""
    claims = {"sub": nickname, "exp": int(time.time()) + 3600} | claims
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, SECRET, "HS256")


def enter(client, nickname, *rooms, **claims):
    """Says hello with a token, and joins."""
    return client.enter(None, *rooms, token=token(nickname, **claims))
