"""What is packaged, as far as that shows without building a package: what is to go in is there and is right.

A package is built and installed by hand: docs/packaging.md.
"""

import fnmatch
import os
import pathlib
import re
import shutil
import subprocess
import tomllib

import pytest

from helpers import binary, environment

TOP = pathlib.Path(__file__).parents[2]
DEB = tomllib.loads((TOP / "Cargo.toml").read_text())["package"]["metadata"]["deb"]
UNIT = TOP / "packaging/systemd/starling.service"
DOCKERFILE = TOP / "packaging/docker/Dockerfile"
# What scripts/package-deb makes, and the shells whose completions have a place in Debian.
MADE = "target/release/package/"
SHELLS = ["bash", "zsh", "fish"]
SCRIPTS = ["package-deb", "package-static", "package-docker-check"]


def run(*command, code=0, **options):
    done = subprocess.run([str(word) for word in command], env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=30, check=False, **options)
    assert done.returncode == code, f"{command}: exit code {done.returncode}: {done.stderr}{done.stdout}"
    return done.stdout


def test_everything_that_goes_into_the_debian_package_is_there(tmp_path):
    """Of cargo-deb's list, what is in the repository, and what the script makes with the binary."""
    run(binary(), "man", tmp_path / "man")
    made = {f"man/{page.name}.gz" for page in (tmp_path / "man").iterdir()}
    made |= {f"completions/starling.{shell}" for shell in SHELLS if run(binary(), "completions", shell)}
    made |= {"changelog.gz", "changelog.Debian.gz"}
    unused = set(made)
    targets = set()
    for source, target, mode in DEB["assets"]:
        is_program = target == "usr/bin/" or source.startswith("scripts/")
        assert mode == ("755" if is_program else "644"), source
        if source.startswith(MADE):
            found = {name for name in made if fnmatch.fnmatch(name, source.removeprefix(MADE))}
            unused -= found
        else:
            found = [source] if source == "target/release/starling" else list(TOP.glob(source))
        assert found, source
        assert (target, source) not in targets
        targets.add((target, source))
    assert not unused
    assert DEB["conf-files"] == ["/etc/starling/starling.toml"]
    assert ["packaging/starling.toml", "etc/starling/", "644"] in DEB["assets"]


def test_documents_have_their_pictures_in_the_package():
    """At the same place from the document that shows them as in the repository."""
    installed = {f"{target}{path.name}": path for source, target, _ in DEB["assets"] if not source.startswith("target/") for path in TOP.glob(source)
                 if target.endswith("/")}
    shown = 0
    for place, document in installed.items():
        if document.suffix != ".md":
            continue
        for picture in re.findall(r"!\[[^]]*\]\(([^)#:]+)\)", document.read_text()):
            shown += 1
            assert os.path.normpath(pathlib.PurePosixPath(place).parent / picture) in installed, f"{document.name} shows {picture}"
    assert shown >= 5


@pytest.mark.parametrize("name", ["postinst", "postrm"])
def test_maintainer_scripts_are_shell_and_leave_room_for_those_of_systemd(name):
    script = TOP / DEB["maintainer-scripts"] / name
    run("sh", "-n", script)
    assert script.read_text().count("\n#DEBHELPER#\n") == 1


def test_removing_touches_no_data_and_no_user(tmp_path):
    """The script as dpkg calls it, with programs in its way that note what they are asked."""
    for program in ["rm", "find", "rmdir", "deluser", "getent"]:
        stub = tmp_path / program
        stub.write_text(f"#!/bin/sh\necho {program} \"$@\"\n")
        stub.chmod(0o755)
    script = (TOP / DEB["maintainer-scripts"] / "postrm").read_text()
    told = {}
    for action in ["remove", "upgrade", "purge"]:
        done = subprocess.run(["/bin/sh", "-c", script, "postrm", action], env={"PATH": f"{tmp_path}"}, capture_output=True, text=True,
                              timeout=30, check=True)
        told[action] = done.stdout
    assert told["remove"] == told["upgrade"] == ""
    assert "rm -rf /var/lib/starling\n" in told["purge"]


@pytest.mark.parametrize("path", ["packaging/starling.toml", "packaging/docker/starling.toml"])
def test_packaged_configurations_are_taken_by_a_server(path):
    assert run(binary(), "check", TOP / path) == f"{TOP / path}: ok\n"


def test_the_packaged_configuration_is_of_this_machine_alone_and_keeps_data_where_the_unit_lets_it():
    config = tomllib.loads((TOP / "packaging/starling.toml").read_text())
    assert {listener["address"].rpartition(":")[0] for listener in config["listen"]} == {"127.0.0.1"}
    unit = UNIT.read_text().splitlines()
    assert config["data_dir"] == "/var/lib/starling" and "StateDirectory=starling" in unit
    # The journals in /dev/shm outlive a server that is killed, so systemd must not take them away.
    assert "RemoveIPC=no" in unit and "User=starling" in unit
    assert not any(line.startswith("DynamicUser=") for line in unit)


def test_what_was_commented_out_in_the_packaged_configuration_is_right(tmp_path):
    text = (TOP / "packaging/starling.toml").read_text()
    whole = re.sub(r"^#(?=[\[a-z])", "", text, flags=re.MULTILINE)
    config = tomllib.loads(whole)
    assert config["tls"] and config["auth"] and config["cluster"]
    # No certificates here.
    (tmp_path / "starling.toml").write_text(whole.replace('[tls]\ncert = "/etc/starling/cert.pem"\nkey = "/etc/starling/key.pem"\n', ""))
    run(binary(), "check", tmp_path / "starling.toml")


def test_the_unit_is_one(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "starling.service"
    # Its program is where the package puts it; here it is elsewhere.
    unit.write_text(UNIT.read_text().replace("/usr/bin/starling", os.path.abspath(binary())))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=30, check=False)
    told = [line for line in done.stderr.splitlines() if "starling" in line]
    assert not told, told


def test_the_unit_exposes_little():
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", UNIT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze is older than 250")
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr


def test_the_image_is_made_of_what_docker_is_let_see():
    let = {line[1:] for line in (DOCKERFILE.with_name(DOCKERFILE.name + ".dockerignore")).read_text().splitlines() if line.startswith("!")}
    copied = set()
    for line in DOCKERFILE.read_text().splitlines():
        words = line.split()
        if words[:1] == ["COPY"] and not any(word.startswith("--from=") for word in words):
            copied |= set(words[1:-1])
    assert copied == let
    assert all((TOP / path).exists() for path in copied)
    listens = tomllib.loads((TOP / "packaging/docker/starling.toml").read_text())["listen"]
    exposed = re.search(r"^EXPOSE (.*)$", DOCKERFILE.read_text(), flags=re.MULTILINE)[1].split()
    assert exposed == [listener["address"].rpartition(":")[2] for listener in listens]


@pytest.mark.parametrize("name", SCRIPTS)
def test_packaging_scripts_tell_what_they_do_and_what_is_wrong(name):
    script = TOP / "scripts" / name
    assert f"scripts/{name} [" in run(script, "--help")
    assert not run(script, "--wat", code=2)
