"""Studies: claimed whole or not at all, and what is left of them to do."""

from pathlib import Path

import pytest

from flows.config import load_config
from flows.runs import open_run
from flows.studies import Study, open_study
from storage.atomic import write_atomic
from storage.catalog import Catalog
from storage.errors import InputError
from storage.studies import finish_study
from tests.flows.test_runs import finish

SWEEP = ("trajectories.steps=4,8",)


def study_of(
    root: Path, *changes: str, sweeps: tuple[str, ...] = SWEEP, name: str = "", until: str = "evaluate"
) -> Study:
    return open_study(
        "moons",
        sweeps=sweeps,
        changes=["velocity.kind=kernel", *changes],
        root=root,
        name=name,
        until=until,
    )


def do(study: Study, *, most: int = 99) -> None:
    """Record all steps of pending runs as done."""
    for member in study.pending[:most]:
        run = study.claim(member)
        finish(run, *run.pending)


def conclude(study: Study) -> None:
    write_atomic(study.page, b"")
    finish_study(study.catalog.root, study.record, key=study.key, result={"study": study.name, "points": [1]})


def test_it_is_called_after_its_configuration_and_found_again(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    assert (study.name, study.record.config) == ("moons-study", "moons")
    assert study_of(tmp_path).record == study.record
    assert [member.name for member in study.pending] == [
        "moons-study-steps-4",
        "moons-study-steps-8",
        "moons-study-reference",
    ]
    assert Catalog(tmp_path).runs() == []


def test_other_sweeps_or_configurations_get_another_name_and_other_ends_of_the_road_do_not(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    assert study_of(tmp_path, until="integrate").name == study.name
    assert study_of(tmp_path, "trajectories.count=77").name == study.name  # which grows its runs
    others = [study_of(tmp_path, "seed=3"), study_of(tmp_path, sweeps=("trajectories.steps=4,8,16",))]
    for other in others:
        assert other.name == f"moons-study-{other.record.identity[:6]}"
    assert len({other.name for other in others}) == 2


def test_what_is_done_is_not_pending_and_a_longer_road_is(tmp_path: Path) -> None:
    do(study_of(tmp_path, until="integrate"), most=1)
    assert [member.name for member in study_of(tmp_path, until="integrate").pending] == [
        "moons-study-steps-8",
        "moons-study-reference",
    ]
    do(study_of(tmp_path, until="integrate"))
    assert study_of(tmp_path, until="integrate").pending == []
    # the reference ends with its trajectories whatever was asked of the points
    assert [member.name for member in study_of(tmp_path).pending] == ["moons-study-steps-4", "moons-study-steps-8"]


def test_it_is_finished_when_it_was_measured_as_it_is_now(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    do(study)
    assert not study_of(tmp_path).is_finished
    conclude(study)
    again = study_of(tmp_path)
    assert again.is_finished
    assert again.result == {"study": "moons-study", "path": str(tmp_path / "moons-study"), "points": [1]}
    assert not study_of(tmp_path, until="integrate").is_finished
    assert not study_of(tmp_path, "trajectories.count=70_000").is_finished
    study.page.unlink()
    assert not study_of(tmp_path).is_finished


def test_a_point_whose_run_is_gone_is_done_again(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    do(study)
    conclude(study)
    study.catalog.paths("moons-study-steps-8").record.unlink()
    again = study_of(tmp_path)
    assert [member.name for member in again.pending] == ["moons-study-steps-8"]
    assert not again.is_finished


def test_points_share_what_their_keys_allow(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    first, second = (study.claim(member) for member in study.pending[:2])
    finish(first)
    second.adopt()
    assert second.pending == ("integrate", "train_generator", "evaluate")


def test_the_largest_count_comes_first_and_its_store_serves_the_others(tmp_path: Path) -> None:
    study = study_of(tmp_path, sweeps=("trajectories.count=100,300,200",), until="integrate")
    assert [member.name for member in study.pending] == [f"moons-study-count-{n}" for n in (300, 200, 100)]
    do(study, most=1)
    assert study.claim(study.pending[0]).pending == ()


@pytest.mark.parametrize("until", ["ingest", "fit_velocity", "tomorrow"])
def test_a_study_goes_at_least_to_the_trajectories(until: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--until must be one of integrate, train_generator, evaluate for a study"):
        study_of(tmp_path, until=until)


def open_moons(root: Path, name: str) -> None:
    open_run(load_config("moons"), root=root, name=name, source="moons", until="evaluate")


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        ("mine", "name 'mine' is a run's: choose another name"),
        ("mine-steps-8", "run 'mine-steps-8' of this study is there already and is of something else"),
        ("mine-reference", "run 'mine-reference' of this study is there already"),
    ],
)
def test_a_name_of_something_else_is_refused_and_nothing_is_made(tmp_path: Path, taken: str, message: str) -> None:
    open_moons(tmp_path, taken)
    with pytest.raises(InputError, match=message):
        study_of(tmp_path, name="mine")
    assert [path.name for path in tmp_path.iterdir()] == [taken]


def test_a_name_of_another_study_is_refused(tmp_path: Path) -> None:
    study_of(tmp_path, name="mine")
    with pytest.raises(InputError, match="study 'mine' has other sweeps or another configuration: choose another name"):
        study_of(tmp_path, "seed=3", name="mine")
    assert study_of(tmp_path, name="mine").name == "mine"
    study_of(tmp_path, name="other-steps-4")
    with pytest.raises(InputError, match="run 'other-steps-4' of this study is there already"):
        study_of(tmp_path, name="other")


def test_without_a_name_one_that_is_taken_is_passed_over(tmp_path: Path) -> None:
    open_moons(tmp_path, "moons-study-steps-8")
    study = study_of(tmp_path)
    assert study.name == f"moons-study-{study.record.identity[:6]}"
    assert study_of(tmp_path).name == study.name


@pytest.mark.parametrize(("name", "message"), [("a/b", "name must be letters"), ("x" * 76, "at most 75 characters")])
def test_a_name_that_is_no_folders_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        study_of(tmp_path, name=name)


def test_the_longest_name_leaves_room_for_its_runs(tmp_path: Path) -> None:
    sweeps = (*SWEEP, "interpolant.kind=linear,trigonometric", "velocity.bandwidth=0.123456789,0.987654321")
    study = study_of(tmp_path, sweeps=sweeps, name="x" * 75, until="integrate")
    do(study)
    assert study.pending == []


def test_missing_data_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.npz"):
        study_of(tmp_path / "runs", "dataset.kind=npz", f"dataset.path='{tmp_path / 'absent.npz'}'")
    assert list(tmp_path.iterdir()) == []
