"""Prometheus: promtool on /metrics and on the alerts, and a Prometheus that scrapes the server and evaluates them.

That every metric is described and counts what it says, tests/e2e/test_metrics.py and docs/metrics.md hold to.

A pass: promtool finds nothing to say, in what a fresh server tells and in what one tells that has been used; Prometheus calls the target up,
and every rule of packaging/prometheus evaluates without an error."""

import json
import pathlib
import subprocess
import tempfile
import urllib.parse
import urllib.request

from helpers import environment, free_ports, wait_until
from judge import ROOT, Failed, case, missing_programs, output

SCHEME = "http"
ALERTS = ROOT / "packaging/prometheus/alerts.yml"
START_S = 60


def missing():
    return missing_programs(promtool="prometheus", prometheus="prometheus")


def version():
    return "promtool " + output("promtool", "--version").split("version ", 1)[1].split(" ", 1)[0]


def run(bench):
    yield case("check rules: packaging/prometheus/alerts.yml", promtool, ["check", "rules", ALERTS])
    with bench.server() as server:
        yield case("check metrics, of a fresh server", check_metrics, server)
        if not bench.url:
            server.ws("alice", "lobby").say("lobby", "one", "two")
            server.ws("bob", "lobby")
            server.json_line("carol", "lobby")
            yield case("check metrics, of one that is used", check_metrics, server)
        bench.say("scraping")
        yield from scraped(server)


def promtool(arguments, text=None):
    done = subprocess.run(["promtool", *arguments], input=text, stdin=None if text is not None else subprocess.DEVNULL, capture_output=True, timeout=60,
                          env=environment())
    # The linter says what it would have otherwise on standard error.
    if done.returncode != 0 or (text is not None and done.stderr.strip()):
        raise Failed((done.stdout + done.stderr).decode(errors="replace").strip())


def check_metrics(server):
    promtool(["check", "metrics"], server.get("/metrics").body)


def scraped(server):
    port = free_ports(1)[0]
    with tempfile.TemporaryDirectory(prefix="starling-prometheus-") as directory:
        directory = pathlib.Path(directory)
        # JSON is YAML.
        config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [str(ALERTS)],
                  "scrape_configs": [{"job_name": "starling", "static_configs": [{"targets": ["%s:%d" % server.web]}]}]}
        (directory / "prometheus.yml").write_text(json.dumps(config))
        yield case("check config", promtool, ["check", "config", directory / "prometheus.yml"])
        command = ["prometheus", f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}",
                   f"--web.listen-address=127.0.0.1:{port}"]
        process = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield case("Prometheus calls it up", is_up, port)
            yield case("every alert evaluates", evaluates, port)
            yield case("promtool query instant", promtool, ["query", "instant", f"http://127.0.0.1:{port}", "starling_connections"])
        finally:
            process.terminate()
            process.wait(30)


def ask(port, path, **query):
    url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return json.load(response)["data"]
    except OSError:
        return None  # It does not listen yet.


def is_up(port):
    def up():
        result = (ask(port, "query", query="up") or {}).get("result")
        return result and result[0]["value"][1] == "1"

    wait_until(up, "the target to be up", START_S)
    (target,) = ask(port, "targets")["activeTargets"]
    if target["lastError"]:
        raise Failed(target["lastError"])


def evaluates(port):
    def rules():
        groups = (ask(port, "rules") or {}).get("groups")
        found = [rule for group in groups or [] for rule in group["rules"]]
        return found and all(rule["health"] != "unknown" for rule in found) and found

    for rule in wait_until(rules, "the rules to be evaluated", START_S):
        if rule["health"] != "ok":
            raise Failed(f"{rule['name']}: {rule.get('lastError')}")
