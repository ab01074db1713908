"""Sweeps: what is written, what it becomes, and what is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.config import load_config
from flows.sweep import MOST_POINTS, Point, parse_sweep, points_of, run_names, short_keys
from storage.catalog import require_name
from storage.errors import InputError

WORDS = st.text(alphabet="abcXYZ019._-/ü =", min_size=1, max_size=60)
VALUES = st.one_of(
    st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), WORDS, st.tuples(st.floats(0, 9))
)


def points(*sweeps: str, changes: tuple[str, ...] = ()) -> tuple[Point, ...]:
    return points_of("gaussian", changes=changes, sweeps=[parse_sweep(text) for text in sweeps])


def test_points_are_all_combinations_the_last_sweep_fastest() -> None:
    found = points("trajectories.steps=4, 8", "trajectories.solver=euler,heun", changes=("seed=3",))
    assert [tuple(point.values.values()) for point in found] == [(4, "euler"), (4, "heun"), (8, "euler"), (8, "heun")]
    assert found[3].config == load_config(
        "gaussian", changes=["seed=3", "trajectories.steps=8", "trajectories.solver=heun"]
    )
    assert list(found[0].values) == ["trajectories.steps", "trajectories.solver"]


def test_values_are_numbers_words_or_lists_as_the_configuration_has_them() -> None:
    assert [p.values["dataset.mean"] for p in points("dataset.mean=[0, 1],[2,-3.5]")] == [(0, 1), (2, -3.5)]
    assert [p.values["trajectories.stop"] for p in points("trajectories.stop=0.5,1")] == [0.5, 1]
    kinds = points("velocity.kind=oracle,kernel")
    assert [p.config.velocity.kind for p in kinds] == ["oracle", "kernel"]


@pytest.mark.parametrize(
    ("sweeps", "message"),
    [
        ((), "a study needs at least one --sweep"),
        (("trajectories.steps",), "--sweep must be section.key=v1,v2,..., got 'trajectories.steps'"),
        (("=4,8",), "--sweep must be section.key=v1,v2,..."),
        (("trajectories.steps=",), "--sweep trajectories.steps must list values with commas between them, got ''"),
        (("trajectories.steps=4,,8",), "must list values with commas between them, got '4,,8'"),
        (("trajectories.steps=4,8,4",), "--sweep trajectories.steps has a value twice, got 4, 8, 4"),
        (("trajectories.stop=0.5,0.50",), "--sweep trajectories.stop has a value twice"),
        (("seed=1", "seed=2"), "--sweep seed is there twice"),
        (("seed=" + ",".join(map(str, range(201))),), f"at most {MOST_POINTS} points, the sweeps make 201"),
        (("trajectories.step=4,8",), "trajectories.step is unknown"),
        (("trajectories.steps=4,none",), "got 'none'"),
        (("trajectories.solver=euler,rk4",), "trajectories.solver must be one of euler, exponential, heun, got 'rk4'"),
        (("interpolant={kind='vp'}",), "--sweep interpolant must be a key with a value, not a section"),
        (("compute.cpus=1,2",), "--sweep compute.cpus is of no use"),
        (("name=a,b",), "--sweep name is of no use"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_in_one_line(sweeps: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        points(*sweeps)
    assert "\n" not in str(caught.value)


def test_too_many_points_are_refused_before_any_is_built() -> None:
    thousand = ",".join(map(str, range(1, 1001)))
    with pytest.raises(InputError, match="the sweeps make 1,000,000,000"):
        points(f"seed={thousand}", f"trajectories.steps={thousand}", f"trajectories.count={thousand}")


def test_keys_are_shortened_where_they_stay_different() -> None:
    assert short_keys(["trajectories.steps", "seed"]) == {"trajectories.steps": "steps", "seed": "seed"}
    both = ["trajectories.steps", "generator.steps", "trajectories.grid"]
    assert list(short_keys(both).values()) == ["trajectories.steps", "generator.steps", "grid"]


def test_a_runs_name_tells_its_values() -> None:
    values = [{"trajectories.steps": k, "trajectories.solver": "heun", "trajectories.stop": 0.999} for k in (4, 8)]
    assert run_names("s", values) == ["s-steps-4-solver-heun-stop-0.999", "s-steps-8-solver-heun-stop-0.999"]


def test_values_that_read_alike_are_told_apart() -> None:
    names = run_names("s", [{"dataset.path": path} for path in ("a b", "a_b", "c")])
    assert len(set(names)) == 3
    assert names[2] == "s-path-c"
    assert all(len(name) == len("s-") + 12 for name in names[:2])


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=6, unique_by=repr))
def test_names_are_different_and_good_for_runs_whatever_the_values(values: list[tuple[object, object]]) -> None:
    names = run_names("s" * 85, [{"dataset.path": a, "velocity.bandwidth": b} for a, b in values])
    assert len(set(names)) == len(values)
    for name in names:
        require_name(name)
