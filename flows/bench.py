"""The benchmarks of a checkout, each a script of its own that is run as a process: no layer imports one."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from storage.errors import InputError

_ROOT = Path(__file__).resolve().parent.parent


def benchmarks() -> dict[str, str]:
    """Give each benchmark's name and the first line of what it says of itself.

    Raises:
        InputError: charflow was installed without its tests.
    """
    folder = _ROOT / "tests" / "benchmarks"
    if not folder.is_dir():
        raise InputError(f"benchmarks come with a checkout, in tests/benchmarks; {_ROOT} has none")
    scripts = (path for path in sorted(folder.glob("*.py")) if not path.stem.startswith(("_", "test_")))
    return {path.stem: (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0] for path in scripts}


def run_benchmark(name: str) -> dict[str, Any]:
    """Run a benchmark and give its JSON object; what it tells on the way goes to standard error.

    Raises:
        InputError: there is none of that name.
        RuntimeError: it failed, or printed something else.
    """
    known = benchmarks()
    if name not in known:
        raise InputError(f"benchmark {name!r} is unknown; known: {', '.join(known)}")
    command = [sys.executable, "-m", f"tests.benchmarks.{name}"]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"benchmark {name} ended with exit code {done.returncode}")
    try:
        found = json.loads(done.stdout)
        return {key: found[key] for key in ("bench", "unit", "results", "detail")}
    except (ValueError, KeyError, TypeError) as error:
        raise RuntimeError(f"benchmark {name} printed no JSON object with bench, unit, results and detail") from error
