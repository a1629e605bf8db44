"""`starling doctor` on machines that are made up of files, and on this one; and scripts/tune-host, which follows it."""

import json
import os
import pathlib
import re
import subprocess

import pytest

from helpers import binary, environment, run

TUNE_HOST = pathlib.Path(__file__).parents[2] / "scripts" / "tune-host"

LIMITS = "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 {}                 files     \n"

MACHINE = {
    "proc/self/limits": LIMITS.format(1048576),
    "proc/self/status": "Cpus_allowed_list:\t0-1\n",
    "proc/self/mountinfo": "27 1 254:0 / / rw - ext4 /dev/vda rw\n31 27 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "proc/self/cgroup": "0::/\n",
    "proc/meminfo": "MemTotal:       16777216 kB\n",
    "proc/swaps": "Filename\tType\n",
    "proc/sys/net/core/somaxconn": "4096\n",
    "proc/sys/net/ipv4/tcp_rmem": "4096\t131072\t6291456\n",
    "proc/sys/net/ipv4/tcp_wmem": "4096\t16384\t4194304\n",
    "proc/sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
    "proc/sys/net/ipv4/ip_local_reserved_ports": "50051\n",
    "proc/sys/vm/swappiness": "60\n",
    "sys/fs/cgroup/.keep": "",
    "sys/devices/system/cpu/online": "0-1\n",
    "sys/devices/system/cpu/isolated": "\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/kernel/mm/transparent_hugepage/defrag": "always defer defer+madvise [madvise] never\n",
    "dev/shm/.keep": "",
    "var/.keep": "",
}

# What is wrong with a machine, and the settings that follow.
WRONG = {
    "proc/self/limits": LIMITS.format(4096),
    "proc/sys/net/core/somaxconn": "128\n",
    "proc/sys/net/ipv4/tcp_wmem": "4096\t16384\t32768\n",
    "proc/sys/net/ipv4/ip_local_reserved_ports": "\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never\n",
    "sys/kernel/mm/transparent_hugepage/defrag": "[always] defer defer+madvise madvise never\n",
}
FLAGS = ["--max-connections", "100000"]
SYSCTL = "etc/sysctl.d/90-starling.conf"
TMPFILES = "etc/tmpfiles.d/90-starling.conf"
UNIT = "etc/systemd/system/starling.service.d/90-starling.conf"
LOGINS = "etc/security/limits.d/90-starling.conf"


def write(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


@pytest.fixture
def healthy(tmp_path):
    root = tmp_path / "machine"
    write(root, MACHINE)
    return root


@pytest.fixture
def wrong(healthy):
    write(healthy, WRONG)
    return healthy


def doctor(*arguments):
    return run([binary(), "doctor", *map(str, arguments)])


def findings(*arguments):
    process = doctor("--json", *arguments)
    assert not process.stderr
    found = json.loads(process.stdout)
    assert process.returncode == int(any(finding["status"] == "warning" for finding in found))
    return {finding["check"]: finding for finding in found}


def tune(*arguments):
    """What the script says. It finds the doctor by the variable."""
    return subprocess.run(
        [TUNE_HOST, *map(str, arguments)], capture_output=True, text=True, timeout=30, env=environment() | {"STARLING_BIN": os.path.abspath(binary())},
    )


def files_of(root):
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_a_healthy_machine_has_no_warnings(healthy):
    process = doctor("--root", healthy, "--data-dir", "/var")
    assert process.returncode == 0 and not process.stderr
    lines = process.stdout.decode().splitlines()
    assert [line for line in lines if line.startswith("ok       somaxconn")] == ["ok       somaxconn         net.core.somaxconn is 4096, limits.listen_backlog 4096"]
    assert not [line for line in lines if line.startswith("warning")]
    assert "\x1b" not in process.stdout.decode(), "colours are for terminals"
    assert re.fullmatch(r"\d+ checks: warnings 0, notes 0, not known here \d+, ok \d+", lines[-2])
    # What is not in the tree is not known, and nobody says otherwise.
    found = findings("--root", healthy, "--data-dir", "/var")
    assert found["conntrack"] == {
        "check": "conntrack", "status": "note", "why": found["conntrack"]["why"], "fix": None,
        "found": "not known here: there is no /proc/sys/net/netfilter/nf_conntrack_max",
    }
    assert found["kernel"]["found"].startswith("not known here: ")


def test_verbose_says_why_of_all(healthy):
    short = doctor("--root", healthy).stdout.decode()
    long = doctor("--root", healthy, "-v").stdout.decode()
    assert "why:" not in short and long.count("why:") == len(findings("--root", healthy))


def test_a_wrong_machine_is_told_with_commands(wrong):
    process = doctor("--root", wrong, *FLAGS)
    assert process.returncode == 1
    text = process.stdout.decode()
    assert "warning  somaxconn         net.core.somaxconn is 128, limits.listen_backlog 4096\n" in text
    assert "fix:  sysctl -w net.core.somaxconn=4096\n" in text
    assert "keep: echo 'net.core.somaxconn = 4096' >> /etc/sysctl.d/90-starling.conf\n" in text
    found = findings("--root", wrong, *FLAGS)
    warned = {name for name, finding in found.items() if finding["status"] == "warning"}
    assert warned == {"open-files", "somaxconn", "tcp-buffers", "huge-pages"}
    assert "LimitNOFILE=" in found["open-files"]["fix"]
    assert found["reserved-ports"]["status"] == "note" and "sysctl -w net.ipv4.ip_local_reserved_ports=50051" in found["reserved-ports"]["fix"]
    assert found["huge-pages"]["fix"].splitlines()[0] == "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"


def test_the_configuration_says_what_is_wanted(wrong, tmp_path):
    file = tmp_path / "starling.toml"
    file.write_text("cores = 2\n[limits]\nlisten_backlog = 100\nconnections = 10\n")
    found = findings("--root", wrong, "--config", file)
    assert found["somaxconn"]["status"] == found["open-files"]["status"] == "ok"
    assert "2 cores" in found["processors"]["found"]


@pytest.mark.parametrize(
    "arguments",
    [["--wat"], ["--root", "/does/not/exist"], ["--config", "/does/not/exist"], ["--cores", "many"], ["--pid", "0"], ["--pid", "4194304999"], ["--json", "--settings"]],
)
def test_wrong_arguments_are_exit_code_2(arguments):
    process = doctor(*arguments)
    assert process.returncode == 2 and process.stderr and not process.stdout


def test_this_machine():
    """Whatever it is like: the shape, and some facts that are known otherwise."""
    found = findings()
    assert len(found) > 20
    for finding in found.values():
        assert set(finding) == {"check", "status", "found", "why", "fix"}
        assert finding["status"] in ("ok", "note", "warning")
        assert finding["found"] and finding["why"]
        assert finding["fix"] is None or finding["fix"]
    assert os.uname().release in found["kernel"]["found"]
    somaxconn = pathlib.Path("/proc/sys/net/core/somaxconn").read_text().strip()
    assert f"net.core.somaxconn is {somaxconn}" in found["somaxconn"]["found"]
    assert f"of {os.cpu_count()} processors" in found["processors"]["found"] or "not known here" in found["processors"]["found"]


def test_the_limits_of_a_process_that_runs(start_server):
    server = start_server()
    found = findings("--pid", server.process.pid)
    assert found["open-files"]["found"].startswith("that process may have ")


def test_tuning_tells_and_changes_nothing(wrong):
    before = files_of(wrong)
    process = tune("--root", wrong, "--", *FLAGS)
    assert process.returncode == 0, process.stderr
    assert "would set net.core.somaxconn: '128' to '4096'" in process.stdout
    assert f"would write /{SYSCTL}:" in process.stdout and f"would write /{UNIT}:" in process.stdout
    assert "reserved_ports" not in process.stdout, "only noted"
    assert process.stdout.endswith("nothing has been changed; --apply does it\n")
    assert "net.ipv4.ip_local_reserved_ports: '' to '50051'" in tune("--root", wrong, "--notes", "--", *FLAGS).stdout
    assert files_of(wrong) == before


def test_tuning_does_what_the_doctor_says(wrong):
    """What is set is what the doctor has told, and then it has nothing more to say."""
    told = [line.split("\t") for line in doctor("--root", wrong, "--settings", *FLAGS).stdout.decode().splitlines()]
    assert {line[1] for line in told} == {"sysctl", "file", "nofile"}
    process = tune("--apply", "--notes", "--user", "starling", "--root", wrong, "--", *FLAGS)
    assert process.returncode == 0, process.stderr
    assert "net.core.somaxconn: before '128', after '4096'" in process.stdout
    after = files_of(wrong)
    for _, kind, name, _, wanted in told:
        if kind == "sysctl":
            assert after["proc/sys/" + name.replace(".", "/")] == wanted + "\n"
            assert f"{name} = {wanted}\n" in after[SYSCTL]
        elif kind == "file":
            assert after[name.lstrip("/")] == wanted + "\n"
            assert f"w {name} - - - - {wanted}\n" in after[TMPFILES]
        else:
            assert after[UNIT].endswith(f"[Service]\nLimitNOFILE={wanted}\n")
            assert f"starling hard nofile {wanted}\n" in after[LOGINS]
    # The same lines stand in the advice to people.
    fixes = "\n".join(finding["fix"] or "" for finding in findings("--root", wrong, *FLAGS).values())
    assert "sysctl" not in fixes and "transparent_hugepage" not in fixes, "all of that is as it should be"
    # The limit of what runs is another thing than that of what will be started.
    assert "LimitNOFILE=" in fixes


def test_tuning_again_changes_nothing(wrong):
    arguments = ["--apply", "--root", wrong, "--", *FLAGS]
    assert tune(*arguments).returncode == 0
    once = files_of(wrong)
    process = tune(*arguments)
    assert process.returncode == 0 and f"unchanged: /{UNIT}" in process.stdout, process.stdout + process.stderr
    assert files_of(wrong) == once
    assert tune("--root", wrong, "--", *FLAGS).stdout.startswith("nothing to set\n")


def test_tuning_is_taken_back(wrong):
    before = files_of(wrong)
    assert tune("--apply", "--notes", "--root", wrong, "--", *FLAGS).returncode == 0
    # Other connections, another limit: what was there at first is what comes back.
    assert tune("--apply", "--notes", "--root", wrong, "--", "--max-connections", "900000").returncode == 0
    assert "LimitNOFILE=" in (wrong / UNIT).read_text()
    process = tune("--undo", "--root", wrong)
    assert process.returncode == 0, process.stderr
    assert "net.core.somaxconn: before '4096', after '128'" in process.stdout and f"removed /{SYSCTL}" in process.stdout
    words = {path: text.split() for path, text in files_of(wrong).items()}
    enabled = "sys/kernel/mm/transparent_hugepage/enabled"
    # A kernel would show all choices again; a file has what was written.
    assert words == {path: text.split() for path, text in before.items()} | {enabled: ["always"]}
    assert tune("--undo", "--root", wrong).stdout == "nothing to undo\n"


def test_what_others_have_written_stays(wrong):
    write(wrong, {SYSCTL: "kernel.panic = 10\n"})
    assert tune("--apply", "--root", wrong).returncode == 0
    assert (wrong / SYSCTL).read_text().startswith("kernel.panic = 10\n#")
    # Somebody has set another value since, and put a line of their own into the file.
    (wrong / "proc/sys/net/core/somaxconn").write_text("65535\n")
    with (wrong / SYSCTL).open("a") as file:
        file.write("kernel.sysrq = 0\n")
    process = tune("--undo", "--root", wrong)
    assert process.returncode == 0 and "left at '65535'" in process.stdout, process.stderr
    assert (wrong / "proc/sys/net/core/somaxconn").read_text() == "65535\n"
    assert (wrong / SYSCTL).read_text() == "kernel.panic = 10\n"
    assert "kernel.sysrq = 0" in (wrong / f"{SYSCTL}.edited").read_text()


@pytest.mark.parametrize(
    "arguments", [["--wat"], ["--root"], ["--root", "/does/not/exist"], ["--apply", "--undo"], ["--user", "a b", "--apply"], ["--", "--cores", "many"]]
)
def test_wrong_arguments_of_tuning(arguments):
    process = tune(*arguments)
    assert process.returncode == 2 and process.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_tuning_needs_root(directory):
    script = pathlib.Path(directory, "tune-host")
    script.write_bytes(TUNE_HOST.read_bytes())
    for what in ["--apply", "--undo"]:
        process = subprocess.run(["bash", script, what], capture_output=True, text=True, timeout=30, user=65534, cwd="/")
        assert process.returncode == 1 and "run it as root" in process.stderr
