"""What schemathesis is told beside the document: how to make names, and to note what was answered."""

import os

import schemathesis
from hypothesis import strategies as st

# Some are those of what is there. The others have letters and numbers of any script, but no marks, of which some cannot be seen, nor
# the letters that cannot, the Hangul fillers.
FIRST = st.characters(categories=["L", "N"], exclude_characters="\u115f\u1160\u3164\uffa0")
REST = st.text(st.one_of(FIRST, st.sampled_from("_-.")), max_size=31)
schemathesis.openapi.format("name", st.one_of(st.sampled_from(["lobby", "den", "alice", "bob"]), st.builds(str.__add__, FIRST, REST)))


@schemathesis.hook
def filter_case(context, case):
    """Leaves out what the document cannot tell right from wrong: the server counts bytes, JSON Schema characters."""
    if not isinstance(case.body, dict):
        return True
    for name, least, most in [("content", 1, 65_536), ("password", 8, 1024)]:
        if isinstance(text := case.body.get(name), str):
            bytes_count = len(text.encode(errors="replace"))
            if (least <= len(text) <= most) != (least <= bytes_count <= most):
                return False
    return True


@schemathesis.hook
def after_call(context, case, response):
    with open(os.environ["OPENAPI_ANSWERS"], "a") as out:
        print(case.method, case.operation.path, response.status_code, file=out)


@schemathesis.check
def an_error_says_its_status(ctx, response, case):
    """The body has the status of the head, and the head the time of the body, in whole seconds that are not too few."""
    if response.status_code < 400 or response.headers.get("content-type", [""])[0] != "application/json":
        return
    error = response.json()
    assert error["code"] == response.status_code, error
    if "retry_after_ms" in error:
        assert int(response.headers["retry-after"][0]) == -(-error["retry_after_ms"] // 1000), error
