"""The layers, read from the imports: one engine per layer, nothing points upward."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "tasks", "storage")
STEPS = ("ingest", "fit_velocity", "integrate", "train_generator", "sample", "evaluate", "export")
STDLIB = set(sys.stdlib_module_names)

# folder or file -> what it may import beside the standard library; the longest match counts
ALLOWED: dict[str, set[str]] = {
    "flows": {
        "prefect",
        "pydantic",
        "rich",
        "tomli_w",
        "flows",
        "tasks.executor",
        "tasks.session",
        "tasks.capacity",
        "tasks.facts",
        "tasks.specs",
    }
    | {"tasks.orders", "tasks.study"}
    | {f"tasks.{step}" for step in STEPS}
    | {
        f"storage.{name}"
        for name in (
            "catalog",
            "journal",
            "paths",
            "specs",
            "errors",
            "fingerprint",
            "sources",
            "studies",
            "progress",
            "admissions",
            "garbage",
            "sizes",
        )
    },
    "flows/server.py": {"prefect", "uvicorn"},
    "flows/metrics.py": {"prometheus_client", "flows.progress", "storage.errors", "tasks.facts"},
    "flows/registration.py": {"httpx", "prefect", "flows", "storage.errors"},
    "flows/artifacts.py": {"httpx", "prefect", "flows", "tasks.facts"},
    "flows/deployments.py": {"prefect", "pydantic", "yaml", "flows", "storage.errors"},
    "tasks": {"torch", "numpy", "tasks", "storage"},
    "tasks/executor.py": {"tasks.compute", "tasks.capacity", "tasks.flight", "tasks.session", "storage.errors"},
    "tasks/flight.py": {"ray", "tasks.capacity", "tasks.session", "tasks.worker_metrics"},
    "tasks/session.py": {
        "ray",
        "storage.errors",
        "tasks.compute",
        "tasks.capacity",
        "tasks.reaper",
        "tasks.worker_logs",
    },
    "tasks/capacity.py": {"tasks.compute", "storage.errors"},
    "tasks/compute.py": {"tasks.checks"},
    "tasks/worker_logs.py": set(),
    "tasks/worker_metrics.py": set(),
    "tasks/reaper.py": set(),
    "tasks/ray_data.py": {"ray", "numpy", "storage"},
    "tasks/facts.py": {"storage.paths"},
    "tasks/specs.py": {"tasks.checks", "tasks.compute", "tasks.saving"},
    "tasks/saving.py": {"tasks.checks"},
    "tasks/checks.py": set(),
    "tasks/training": {"torch", "numpy", "safetensors", "tasks", "storage"},
    "tasks/training/ddp.py": {"torch", "ray", "tasks", "storage"},
    "tasks/training/starts.py": {"ray", "tasks", "storage"},
    "tasks/training/follow.py": {"storage.journal", "tasks.facts"},
    "tasks/training/meeting.py": {"psutil", "torch"},
    "tasks/transport": {"numpy", "torch", "tasks.transport", "tasks.specs"},
    "tasks/networks": {"numpy", "torch", "tasks.transport", "tasks.networks", "tasks.specs"},
    "tasks/evaluation": {"numpy", "torch", "scipy", "ot", "sklearn", "jinja2", "tasks.evaluation"},
    "tasks/evaluation/plots.py": {"numpy", "matplotlib", "tasks.evaluation"},
    "tasks/evaluation/images.py": {"numpy", "matplotlib", "tasks.evaluation"},
    "tasks/evaluation/loglog.py": {"numpy", "matplotlib", "tasks.evaluation"},
    "tasks/evaluation/paper.py": {"matplotlib"},
    "storage": {"zarr", "numpy", "numcodecs", "obstore", "google_crc32c", "storage"},
    "storage/specs.py": set(),
    "storage/chunks.py": {"numpy", "storage"},
    "storage/ordering.py": {"numpy", "storage.chunks"},
    "storage/datasets": {"numpy", "pyarrow", "sklearn", "PIL", "zarr", "obstore", "storage"},
}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def rule(name: str) -> set[str]:
    best = max((key for key in ALLOWED if name == key or name.startswith(f"{key}/")), key=len)
    return ALLOWED[best]


def complaints(path: Path) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    allowed = rule(name)
    found = []
    for line, module in imports(path):
        top = module.split(".")[0]
        is_allowed = any(module == entry or module.startswith(f"{entry}.") for entry in allowed)
        if top not in STDLIB and not is_allowed:
            found.append(f"{name}:{line} imports {module}")
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_imports_only_what_its_layer_may(path: Path) -> None:
    assert complaints(path) == []


def test_a_forbidden_import_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "tasks" / "transport").mkdir(parents=True)
    bad = tmp_path / "tasks" / "transport" / "new.py"
    bad.write_text("def f():\n    import ray.train\n    from storage import paths\n    import torch\n")
    assert complaints(bad) == [
        "tasks/transport/new.py:2 imports ray.train",
        "tasks/transport/new.py:3 imports storage.paths",
    ]


def test_no_file_of_flows_is_called_like_a_package() -> None:
    """Prefect loads an entrypoint with its folder first on the path, so such a file would hide the package."""
    names = {path.stem for path in (ROOT / "flows").glob("*.py")}
    assert not names & {"tasks", "storage", "flows", "tests", "prefect", "ray", "torch", "zarr", *STDLIB}


def test_starting_the_command_line_loads_no_engine() -> None:
    import subprocess

    code = "import sys, flows.cli; print(sorted({'torch','ray','prefect','zarr','matplotlib'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
