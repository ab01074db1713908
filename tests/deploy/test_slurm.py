"""The Slurm script: typos are noticed, signals and requeues go the right way, a real run is resumed."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.deploy.files import ROOT
from tests.deploy.slurm import SCRIPT, Allocation, complaints
from tests.end_to_end.command import SERVER

TEXT = SCRIPT.read_text()
# small, and slow enough to be caught in the middle
RUN = [
    *("gaussian", "--until", "integrate", "--set", "dataset.count=500", "--set", "trajectories.count=1200"),
    *("--set", "trajectories.chunk_rows=100", "--set", "trajectories.sub_batch=1", "--set", "trajectories.steps=8"),
]


def test_the_script_is_sound(tmp_path: Path) -> None:
    assert complaints(TEXT, tmp_path) == []
    assert os.access(SCRIPT, os.X_OK)


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ('wait "$driver"', "wait $driver", "SC2248"),
        ('kill -TERM "$driver"', 'kill -TERM "$drivr"', "did you mean 'driver'"),
        ("    driver=$!", "    drivers=$!", "drivers appears unused"),
        ("export RAY_AUTH_TOKEN RAY_AUTH_MODE=token", "export RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN appears unused"),
        ('await "$head" "$port"', 'await "$head" "$prt"', "prt is referenced but not assigned"),
        ("-gt 1 ]]; then\n    make", "-gt 1 ]]\n    make", "Did you forget the 'then'"),
        ("#SBATCH --requeue", "#SBATCH --requeu", "no --requeu "),
        ("#SBATCH --requeue\n", "", "--requeue is missing"),
        ("--signal=B:USR1@300", "--signal=USR1@300", "--signal must be"),
        ("--signal=B:USR1@300", "--signal=B:USR2@300", "--signal must be"),
        ("#SBATCH --open-mode", "# SBATCH --open-mode", "--open-mode is missing"),
        ("--node-manager-port=", "--node-manger-port=", "No such option '--node-manger-port'"),
        ("--block", "--blok", "No such option '--blok'"),
        ('"$bin/ray" start', '"$bin/ray" strat', "is no command of ray"),
        ('"$bin/charflow" run', '"$bin/charflow" rnu', "invalid choice: 'rnu'"),
        ("--ray ", "--rya ", "unrecognized arguments: --rya"),
        ('--address="$head:$port"', '--address="$head:$((port + 1))"', "is not where the head is"),
        ('"${nodes[@]:1}"', '"${nodes[@]:2}"', "started 1 of 2"),
        ("trap end_ray EXIT\n", "", "leaves processes behind"),
    ],
)
def test_a_slip_is_noticed(right: str, wrong: str, told: str, tmp_path: Path) -> None:
    assert right in TEXT
    assert told in "; ".join(complaints(TEXT.replace(right, wrong), tmp_path))


def test_nodes_talk_over_the_interface_that_is_asked_for(tmp_path: Path) -> None:
    allocation = Allocation(folder=tmp_path, nodes=2)
    allocation.prepare("srun", "scontrol", "ray", "charflow")
    done = allocation.ended(allocation.start(TEXT, "gaussian", CHARFLOW_INTERFACE="ib0"))
    asked = [note["words"] for note in allocation.notes("srun") if "ip" in note["words"]]
    assert len(asked) == 2, done
    assert all(words[-3:] == ["show", "dev", "ib0"] for words in asked)
    addresses = [word for note in allocation.notes("ray") for word in note["words"] if "--node-ip-address" in word]
    assert addresses == ["--node-ip-address=127.0.1.1", "--node-ip-address=127.0.1.2"]
    assert [note["interfaces"] for note in allocation.notes("ray")] == [["ib0", "ib0"]] * 2


@pytest.mark.parametrize(
    ("sent", "restart", "code", "is_requeued"),
    [
        (signal.SIGUSR1, 0, 130, True),
        (signal.SIGUSR1, 20, 1, False),  # often enough
        (signal.SIGTERM, 0, 130, False),  # cancelled
    ],
)
def test_a_signal_ends_the_run_and_only_time_queues_it_again(
    sent: signal.Signals, restart: int, code: int, is_requeued: bool, tmp_path: Path
) -> None:
    allocation = Allocation(folder=tmp_path, nodes=2, restart=restart)
    allocation.prepare("srun", "scontrol", "ray", "charflow")
    script = allocation.start(TEXT, "gaussian", "--until", "integrate")
    while not allocation.notes("charflow", "ready"):
        assert script.poll() is None, allocation.ended(script)
        time.sleep(0.02)
    script.send_signal(sent)
    done = allocation.ended(script)
    assert (done.code, done.has_left) == (code, False), done
    assert [note["words"] for note in allocation.notes("scontrol")[1:]] == ([["requeue", "7"]] if is_requeued else [])


@pytest.mark.parametrize("code", [1, 2])
def test_a_failure_is_the_jobs_and_does_not_queue_it_again(code: int, tmp_path: Path) -> None:
    allocation = Allocation(folder=tmp_path, code=code)
    allocation.prepare("scontrol", "charflow")
    assert allocation.ended(allocation.start(TEXT, "gaussian")).code == code
    assert len(allocation.notes("scontrol")) == 1


def test_without_words_it_says_what_it_needs(tmp_path: Path) -> None:
    allocation = Allocation(folder=tmp_path)
    done = allocation.ended(allocation.start(TEXT))
    assert (done.code, done.said.count("\n")) == (2, 1)
    assert "needs the words of charflow run" in done.said


@pytest.mark.slow
@pytest.mark.usefixtures("one_server")
def test_a_real_run_is_ended_by_the_signal_and_goes_on_when_the_job_starts_again(tmp_path: Path) -> None:
    allocation = Allocation(folder=tmp_path)
    allocation.prepare("scontrol")
    program = tmp_path / "bin" / "charflow"
    program.write_text(f'#!/bin/bash\nexec "{sys.executable}" -m flows.cli "$@"\n')
    program.chmod(0o755)
    commits = tmp_path / "runs" / "gaussian" / "trajectories.ledger" / "commits"
    first = allocation.start(TEXT, *RUN, **_home(tmp_path))
    while len(list(commits.glob("*.json"))) < 2:
        assert first.poll() is None, allocation.ended(first)
        time.sleep(0.05)
    first.send_signal(signal.SIGUSR1)
    done = allocation.ended(first)
    assert (done.code, done.has_left) == (130, False), done
    kept = {path: path.read_bytes() for path in commits.glob("*.json")}
    assert 2 <= len(kept) < 12
    assert allocation.notes("scontrol")[-1]["words"] == ["requeue", "7"]

    done = allocation.ended(allocation.start(TEXT, *RUN, **_home(tmp_path)), seconds=120)
    assert done.code == 0, done
    assert len(list(commits.glob("*.json"))) == 12
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert re.search(r"^ingest +reused", done.said, flags=re.M)
    assert re.search(r"^integrate +done", done.said, flags=re.M)


def _home(folder: Path) -> dict[str, str]:
    return SERVER | {"XDG_STATE_HOME": str(folder.parent / "state"), "PYTHONPATH": str(ROOT)}
