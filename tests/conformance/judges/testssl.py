"""testssl.sh, which asks a TLS listener for everything that one should not do: old versions, weak ciphers and curves, known attacks, certificates.

Its own server has a certificate of a key on P-256 that openssl has made for localhost and for 90 days. It signs itself, and names nobody who
could tell that it was revoked, as nobody else would for localhost: what is said of that is in exceptions.py.

A pass: each finding whose severity is OK, INFO or LOW. MEDIUM, HIGH and CRITICAL are failures; WARN is what testssl.sh could not ask."""

import contextlib
import json
import pathlib
import re
import subprocess
import tempfile

from helpers import environment
from judge import Case, missing_programs, output

SCHEME = "https"
FINE = {"OK", "INFO", "LOW", "DEBUG"}
# A minute or two on an idle machine.
TIMEOUT_S = 1500


def missing():
    return missing_programs(testssl="testssl.sh", openssl="openssl")


def version():
    return "testssl.sh " + re.search(r"testssl\s+([\d.]+)", output("testssl", "--version"))[1] + ", " + output("openssl", "version").rsplit(" (", 1)[0].strip()


def run(bench):
    with tempfile.TemporaryDirectory(prefix="starling-testssl-") as directory:
        directory = pathlib.Path(directory)
        cert, key = directory / "cert.pem", directory / "key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90", "-subj",
                        "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "keyUsage=critical,digitalSignature",
                        "-addext", "extendedKeyUsage=serverAuth", "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=60)
        with contextlib.ExitStack() as stack:
            if bench.url:
                name, address = bench.url.hostname, bench.url.port or 443
                target = [f"https://{name}:{address}"]
            else:
                server = stack.enter_context(bench.server(_flags=["--tls-cert", str(cert), "--tls-key", str(key)]))
                target = ["--ip", "127.0.0.1", "--nodns", "none", f"https://localhost:{server.web[1]}"]
            bench.say("some minutes")
            report = directory / "report.json"
            command = ["testssl", "--quiet", "--color", "0", "--warnings", "batch", "--jsonfile", report, *target]
            done = subprocess.run(command, cwd=directory, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S)
        try:
            findings = json.loads(report.read_text())
        except (OSError, ValueError):
            raise RuntimeError(f"testssl.sh wrote no report:\n{done.stdout.decode(errors='replace')[-2000:]}") from None
        for finding in findings:
            yield judged(finding)
        if not any(finding["id"] == "TLS1_3" for finding in findings):
            yield Case("all findings", "there is none of TLS 1.3: testssl.sh has not come to its end")


def judged(finding):
    text = f"{finding['severity']}: {finding['finding']}"
    if finding["severity"] == "WARN":
        return Case(finding["id"], skipped=text)
    return Case(finding["id"], None if finding["severity"] in FINE else text)
