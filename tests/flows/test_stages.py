"""Content addresses: what changes a stage's key, and what must not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.config import load_config
from flows.stages import STEPS, run_identity, stage_keys


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ("evaluation.samples=500", 4),
        ("generator.learning_rate=1e-4", 3),
        ("trajectories.count=123", 3),
        ("trajectories.steps=9", 2),
        ("trajectories.chunk_rows=77", 2),
        ("trajectories.sub_batch=77", 2),
        ("velocity.learning_rate=1e-4", 1),
        ("interpolant.kind=foellmer", 1),
        ("dataset.count=123", 0),
        ("seed=5", 0),
    ],
)
def test_a_change_keeps_the_keys_of_the_steps_before_it(change: str, kept: int) -> None:
    before, after = stage_keys(load_config("moons")), stage_keys(load_config("moons", changes=[change]))
    assert [before[step] == after[step] for step in STEPS] == [k < kept for k in range(5)]


def test_real_data_do_not_depend_on_the_seed() -> None:
    before, after = stage_keys(load_config("digits")), stage_keys(load_config("digits", changes=["seed=5"]))
    assert before["ingest"] == after["ingest"]
    assert before["fit_velocity"] != after["fit_velocity"]


@given(first=st.text("0123456789abcdef", max_size=4), second=st.text("0123456789abcdef", max_size=4))
def test_other_data_change_every_key_and_the_identity_and_equal_data_none(first: str, second: str) -> None:
    config = load_config("digits")
    before, after = stage_keys(config, source=first), stage_keys(config, source=second)
    assert [before[step] == after[step] for step in STEPS] == [first == second] * 5
    assert (run_identity(config, source=first) == run_identity(config, source=second)) == (first == second)


def test_data_that_no_file_holds_have_the_keys_of_their_configuration_alone() -> None:
    config = load_config("moons")
    assert stage_keys(config, source="") == stage_keys(config)
    assert run_identity(config, source="") == run_identity(config)


@pytest.mark.parametrize(
    "change",
    ["compute.cpus=7", "compute.address='127.0.0.1:6379'", "compute.integrate.resources.simulator=1", "name='other'"],
)
def test_where_the_work_runs_and_what_it_is_called_change_no_key(change: str) -> None:
    assert stage_keys(load_config("moons")) == stage_keys(load_config("moons", changes=[change]))


def test_the_count_becomes_part_of_the_generators_key_but_of_no_runs_identity() -> None:
    few, many = load_config("moons"), load_config("moons", changes=["trajectories.count=123456"])
    assert stage_keys(few)["integrate"] == stage_keys(many)["integrate"]
    assert stage_keys(few)["train_generator"] != stage_keys(many)["train_generator"]
    assert run_identity(few) == run_identity(many)
    assert run_identity(few) != run_identity(load_config("moons", changes=["seed=1"]))


def test_an_oracle_does_not_depend_on_where_trajectories_stop() -> None:
    before = stage_keys(load_config("gaussian"))
    after = stage_keys(load_config("gaussian", changes=["trajectories.stop=0.5"]))
    assert before["fit_velocity"] == after["fit_velocity"]
    assert before["integrate"] != after["integrate"]
