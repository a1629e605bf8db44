"""llhttp, the parser of HTTP/1.1 of Node.js, as httptools has it for Python, and the bytes that its forebear's tests send.

The vectors are the requests in httptools' tests and in those of http-parser, of which llhttp is the heir; both are in httptools' source
distribution, which is fetched and not kept in this repository. llhttp's own tests are in no package. They leave Host to others, so those of
HTTP/1.1 without one get one. And cases of our own. llhttp says of each how many requests are whole, and whether what follows is none.

A pass: as many requests are taken as llhttp takes, and nothing is taken behind what it refuses."""

import http1
from judge import missing_modules, missing_sources, module_version, sources

SCHEME = "http"


def missing():
    return missing_modules("httptools", "pytest") + missing_sources("httptools")


def version():
    return module_version("httptools")


def run(bench):
    return http1.run(bench, vectors(), parse)


def vectors():
    root = sources("httptools")
    found = http1.requests_of_python(root / "tests" / "test_parser.py") + http1.requests_of_c(root / "vendor" / "http-parser" / "test.c")
    return http1.named("httptools", http1.with_host(found)) + http1.ours()


class Heard:
    """What the parser has found."""

    def __init__(self):
        self.methods = []
        self.parser = None
        self.is_last = False
        self.is_partial = False

    def on_message_begin(self):
        self.is_partial = True

    def on_headers_complete(self):
        self.is_last = not self.parser.should_keep_alive()

    def on_message_complete(self):
        self.is_partial = False
        self.methods.append(self.parser.get_method().decode("latin-1"))


def parse(data):
    import httptools

    heard = Heard()
    heard.parser = httptools.HttpRequestParser(heard)
    try:
        heard.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        # Behind a request that asks for the end nothing counts, for nobody.
        return http1.Verdict(heard.methods, is_refused=not (heard.is_last and heard.methods))
    return http1.Verdict(heard.methods, is_partial=heard.is_partial)
