"""compose.yaml: strictly valid, of one mind with itself, and slips at every depth are noticed."""

import subprocess
import sys
from typing import Any

import pytest

from tests.deploy.compose import complaints
from tests.deploy.files import DEPLOY, Path_, at, document, documents, keys, put, renamed

PATH = DEPLOY / "compose.yaml"
COMPOSE = document(PATH)
SERVICES = COMPOSE["services"]
# whom nothing in this file names; prometheus.yml names two of them, which test_monitoring looks at
FREE = {("services", "worker"), ("services", "ray-worker"), ("services", "grafana")}
SLIPS = [path for path in keys(COMPOSE) if not str(path[0]).startswith("x-") and path not in FREE]


def test_it_is_sound() -> None:
    assert complaints(COMPOSE) == []


def test_the_schema_of_compose_holds_as_its_own_program_says() -> None:
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(PATH)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SLIPS[::5], ids=lambda path: "/".join(map(str, path)))
def test_a_misspelt_key_is_noticed(path: Path_) -> None:
    assert complaints(renamed(COMPOSE, path, f"{path[-1]}x")) != []


def test_the_chosen_keys_are_of_all_depths() -> None:
    assert {len(path) for path in SLIPS[::5]} == {len(path) for path in SLIPS}


SERVER, WORKER, HEAD = (("services", name) for name in ("prefect-server", "worker", "ray-head"))
WRONG: dict[str, tuple[Path_, Any, str]] = {
    "a command": ((*SERVER, "command", 2), "strat", "prefect-server: prefect server strat"),
    "an option": ((*HEAD, "command", 4), "--prot=6379", "ray-head: ray start --head --block --prot=6379"),
    "a command of charflow": (("services", "deployments", "command", 1), "deplyo", "invalid choice: 'deplyo'"),
    "CPUs": (
        ("services", "ray-worker", "command", 4),
        "--num-cpus=${RAY_WORKER_CPUS:-two}",
        "'two' is not a valid integer",
    ),
    "all CPUs": (("services", "ray-worker", "command", 4), "--block", "ray-worker: needs --num-cpus"),
    "all memory": (("services", "ray-worker", "command", 5), "--block", "ray-worker: needs --memory"),
    "a store that is too large": (
        ("services", "ray-worker", "command", 6),
        "--object-store-memory=3000000000",
        "its object store does not fit shm_size",
    ),
    "a variable for CPUs": (
        ("services", "ray-worker", "command", 4),
        "--num-cpus=${RAY_CPUS:-2}",
        "${RAY_CPUS} is not in example.env",
    ),
    "a program": (("services", "ray-worker", "command", 0), "rya", "is no command of the image"),
    "a word in a script": (
        (*WORKER, "command", at(SERVICES, ("worker", "command")).index("--limit=1")),
        "--limti=1",
        "Unknown option",
    ),
    "the head's port in a script": (
        (*WORKER, "command", at(SERVICES, ("worker", "command")).index("--address=ray-head:6379")),
        "--address=ray-head:6378",
        "worker: ray-head:6378 is no port where it listens",
    ),
    "the head's port": ((*HEAD, "command", 4), "--port=6380", "worker: ray-head:6379 is no port"),
    "the head's name": (
        ("services", "ray-worker", "command", 3),
        "--address=ray-haed:6379",
        "ray-haed:6379 is no service",
    ),
    "the server's port": ((*SERVER, "command", 6), "4201", "publishes 127.0.0.1:4200:4200, where it does not listen"),
    "an address": ((*WORKER, "environment", "PREFECT_API_URL"), "http://prefect-server:4220/api", "4220 is no port"),
    "the store": ((*WORKER, "environment", "AWS_ENDPOINT_URL"), "http://sotre:9000", "sotre:9000 is no service"),
    "a port for everybody": ((*HEAD, "ports", 0), "8265:8265", "must be published on 127.0.0.1 alone"),
    "all interfaces": ((*HEAD, "ports", 0), "0.0.0.0:8265:8265", "must be published on 127.0.0.1 alone"),
    "a secret": ((*HEAD, "environment", "RAY_AUTH_TOKEN"), "hunter2", "must come from the env file"),
    "a variable of the env file": (
        (*HEAD, "environment", "RAY_AUTH_TOKEN"),
        "${RAY_TOKEN:?}",
        "${RAY_TOKEN} is not in",
    ),
    "an image without a version": (("services", "store", "image"), "minio/minio:latest", "its image has no version"),
    "another image": ((*HEAD, "image"), "charflow:0.0.1", "image must be charflow:"),
    "a volume": ((*WORKER, "volumes", 0), "cahce:/cache", "mounts the volume cahce"),
    "a file": (("services", "prometheus", "volumes", 0), "./monitoring/prometheus.yaml:/x:ro", "which is missing"),
    "a health port": (
        (*SERVER, "healthcheck", "test", 3),
        'import urllib.request as r; r.urlopen("http://127.0.0.1:4201/api/health")',
        "its health is asked on 4201",
    ),
    "an end that never comes": (("services", "bucket", "restart"), "always", "waits for the end of bucket"),
}


@pytest.mark.parametrize(("path", "value", "told"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_noticed(path: Path_, value: Any, told: str) -> None:
    assert told in "; ".join(complaints(put(COMPOSE, path, value)))


def test_no_service_runs_as_root_or_asks_for_rights() -> None:
    asked = {"privileged", "cap_add", "user", "network_mode", "pid", "devices"}
    assert [name for name, service in SERVICES.items() if asked & set(service)] == []
    assert (DEPLOY / "Dockerfile").read_text().rpartition("USER ")[2].startswith("1000:1000\n")


def test_a_key_that_stands_twice_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(
        PATH.read_text().replace("  database:\n    image:", "  database:\n    image: postgres:1\n    image:", 1)
    )
    with pytest.raises(Exception, match="'image' stands twice"):
        documents(path)


def test_the_example_holds_no_secret_and_its_copy_is_not_committed() -> None:
    lines = (DEPLOY / "example.env").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#") and line.partition("=")[2]] == []
    assert "deploy/.env" in (DEPLOY.parent / ".gitignore").read_text().splitlines()
