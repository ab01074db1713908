"""A short round of the benchmark: what a chunk costs beside its solution, and a driver that does not grow with them."""

import json
import subprocess
import sys

import pytest

from tests.end_to_end.command import ROOT

pytestmark = pytest.mark.slow

CHUNKS = 3000
MOST_MS = 10.0  # a chunk; 1.4 on two idle cores, 2.7 on busy ones
MOST_MB = 4.0  # by which 2,700 chunks may let the driver grow: 1.5 kB each, of which a receipt has 0.5


def test_a_chunk_costs_at_most_ten_milliseconds_and_no_memory_of_the_driver() -> None:
    words = ["-m", "tests.benchmarks.orchestration", "--chunks", str(CHUNKS)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    results, detail = found["results"], found["detail"]
    assert results["charflow"] <= MOST_MS, results
    assert results["driver"] <= MOST_MS, results
    assert detail["chunks"] == CHUNKS
    assert detail["driver_mb_at_100%"] - detail["driver_mb_at_10%"] <= MOST_MB, detail
