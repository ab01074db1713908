"""The runs of a study: which of them need a reference, and what the reference is."""

import pytest

from flows.members import Member, members_of, references_of
from flows.sweep import Point, parse_sweep, points_of
from storage.errors import InputError

STEPS = "trajectories.steps=4,8"
GRID = "trajectories.grid=karras,uniform"


def planned(
    *sweeps: str,
    source: str = "gaussian",
    changes: tuple[str, ...] = ("velocity.kind=kernel",),
    until: str = "evaluate",
) -> tuple[list[Member], list[Member]]:
    points: tuple[Point, ...] = points_of(source, changes=changes, sweeps=[parse_sweep(text) for text in sweeps])
    members = members_of("s", points, digests=[""] * len(points), until=until)
    return members, list(references_of("s", points, members).values())


def test_every_point_is_a_run_called_after_its_values() -> None:
    members, _ = planned(STEPS, until="integrate")
    assert [member.name for member in members] == ["s-steps-4", "s-steps-8"]
    assert {member.until for member in members} == {"integrate"}
    assert members[0].keys["fit_velocity"] == members[1].keys["fit_velocity"]
    assert members[0].identity != members[1].identity


def test_the_reference_is_heun_with_four_times_the_most_steps_for_the_most_trajectories() -> None:
    members, (reference,) = planned(STEPS, GRID, "trajectories.count=30,20", "trajectories.precision=float16,float32")
    spec = reference.config.trajectories
    assert (reference.name, reference.until) == ("s-reference", "integrate")
    assert (spec.solver, spec.steps, spec.grid, spec.count) == ("heun", 32, "karras", 30)
    assert (spec.precision, spec.save) == ("float64", "endpoints")
    assert {member.flow for member in members} == {reference.flow}
    assert reference.keys["fit_velocity"] == members[0].keys["fit_velocity"]
    assert reference.config.velocity == members[0].config.velocity


def test_each_flow_has_its_own() -> None:
    members, references = planned(STEPS, "interpolant.kind=linear,vp", "seed=1,2", GRID)
    assert [reference.name for reference in references] == [
        f"s-reference-kind-{kind}-seed-{seed}" for kind in ("linear", "vp") for seed in (1, 2)
    ]
    assert {member.flow for member in members} == {reference.flow for reference in references}


@pytest.mark.parametrize("key", ["velocity.bandwidth=0.1,0.2", "trajectories.stop=0.5,0.9", "dataset.count=50,60"])
def test_what_changes_the_flow_changes_the_reference(key: str) -> None:
    assert len(planned(STEPS, key)[1]) == 2


@pytest.mark.parametrize(
    ("sweep", "changes"),
    [
        (STEPS, ()),  # the oracle of a Gaussian has its flow map
        ("generator.learning_rate=1e-3,1e-4", ("velocity.kind=kernel",)),
        ("trajectories.count=50,60", ("velocity.kind=kernel",)),
        ("dataset.count=50,60", ("velocity.kind=kernel",)),
    ],
)
def test_no_reference_is_made_that_nothing_is_compared_with(sweep: str, changes: tuple[str, ...]) -> None:
    assert planned(sweep, changes=changes)[1] == []


def test_a_mixture_has_a_reference_though_its_velocity_is_exact() -> None:
    assert len(planned(STEPS, source="mixture", changes=("velocity.kind=oracle",))[1]) == 1


def test_a_flow_that_heun_cannot_follow_to_its_end_is_refused() -> None:
    with pytest.raises(InputError, match=r"a study needs a reference by heun, .*trajectories\.stop must be below 1"):
        planned(STEPS, source="mixture", changes=("trajectories.stop=1",))
