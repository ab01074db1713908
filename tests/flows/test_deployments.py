"""A prefect.yaml is read strictly: the repository's passes, and a slip anywhere in it is told of by its place."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy import _models
from prefect.utilities.callables import parameter_schema

from flows import deployments
from flows.deployed import config_of
from flows.deployments import read_deployments, require_one_schedule_a_store
from storage.errors import InputError
from tests.conftest import ROOT

FILE = ROOT / "deploy" / "prefect.yaml"

Change = Callable[[Any], object]


def read(tree: Any, folder: Path) -> list[deployments.Deployment]:
    path = folder / "prefect.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return read_deployments(path)


def tree() -> Any:
    return yaml.safe_load(FILE.read_text())


def test_the_file_of_the_repository_is_right() -> None:
    found = read_deployments(FILE)
    assert [d.when for d in found] == ["0 2 * * * UTC", "0 6 * * 0 UTC", "by hand", "by hand"]
    assert all(d.limit is not None and d.limit.limit == 1 for d in found)
    assert [d.is_scheduled for d in found] == [True, True, False, False]


def test_a_step_that_hangs_lets_go_of_the_store_before_the_next_night() -> None:
    asked = {d.entry.name: d.entry.parameters for d in read_deployments(FILE) if "config" in d.entry.parameters}
    assert asked.keys() == {"nightly-growth", "weekly-training", "backfill"}
    for name, parameters in asked.items():
        bound = config_of(parameters["config"], parameters["changes"]).compute.timeout
        assert 3600 <= bound < 24 * 3600, name


def test_every_flow_that_may_be_deployed_is_there_with_a_typed_form() -> None:
    found = {d.flow.fn.__name__: d.flow for d in read_deployments(FILE)}
    assert found.keys() == {"grow", "train", "mend", "backfill"}
    for name, flow in found.items():
        schema = parameter_schema(flow).model_dump_for_openapi()
        assert schema["properties"].keys() == inspect.signature(flow.fn).parameters.keys()
        assert all("description" in field for field in schema["properties"].values()), name
    schema = parameter_schema(found["grow"]).model_dump_for_openapi()
    assert schema["definitions"]["TrajectoriesSpec"]["properties"]["steps"]["type"] == "integer"
    assert schema["properties"]["since"]["format"] == "date"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda t: t.update(deployment=[]), "deployment is unknown, got []; allowed: name, prefect-version, "),
        (lambda t: t.pop("deployments"), "deployments is missing"),
        (
            lambda t: t["deployments"][0].update(schedule=1),
            "deployments[0].schedule is unknown, got 1; allowed: name, ",
        ),
        (lambda t: t["deployments"][0].pop("name"), "deployments[0].name is missing"),
        (
            lambda t: t["deployments"][1]["schedules"][0].update(corn="* * * * *"),
            "deployments[1].schedules[0].corn is unknown, got '* * * * *'; allowed: cron, interval, ",
        ),
        (
            lambda t: t["deployments"][1]["schedules"][0].update(cron="61 * * * *"),
            "deployment weekly-training: schedules[0].cron cannot be parsed, got '61 * * * *' in UTC: ",
        ),
        (
            lambda t: t["deployments"][1]["schedules"][0].update(timezone="Europe/Berlinn"),
            "deployment weekly-training: schedules[0].cron cannot be parsed, got '0 6 * * 0' in Europe/Berlinn: ",
        ),
        (
            lambda t: t["deployments"][1]["schedules"][0].update(interval=60),
            "deployment weekly-training: schedules[0] must have one of cron, interval and rrule, got cron, interval",
        ),
        (
            lambda t: t["deployments"][1]["schedules"][0].pop("cron"),
            "deployment weekly-training: schedules[0] must have one of cron, interval and rrule, got none",
        ),
        (
            lambda t: t["deployments"][0]["concurrency_limit"].update(limits=1),
            "deployments[0].concurrency_limit.limits is unknown, got 1; allowed: limit, collision_strategy",
        ),
        (
            lambda t: t["deployments"][0]["concurrency_limit"].update(collision_strategy="WAIT"),
            "deployments[0].concurrency_limit.collision_strategy: input should be 'ENQUEUE' or ",
        ),
        (
            lambda t: t["deployments"][0]["work_pool"].update(nam="x"),
            "deployments[0].work_pool.nam is unknown, got 'x'; allowed: name, work_queue_name, job_variables",
        ),
        (
            lambda t: t["deployments"][0].update(entrypoint="flows.operations.glow"),
            "deployment nightly-growth: entrypoint 'flows.operations.glow' is no flow: ",
        ),
        (
            lambda t: t["deployments"][0].update(entrypoint="flows/nothing.py:grow"),
            "deployment nightly-growth: entrypoint 'flows/nothing.py:grow' is no flow: ",
        ),
        (
            lambda t: t["deployments"][0]["parameters"].update(nightlies=3),
            "deployment nightly-growth: parameters.nightlies is unknown, got 3; allowed: config, name, since, ",
        ),
        (
            lambda t: t["deployments"][0]["parameters"].pop("since"),
            "deployment nightly-growth: parameters.since is missing, and a schedule gives none",
        ),
        (
            lambda t: t["deployments"][0]["parameters"].update(config={"dataset": {"kind": "digits"}, "sed": 1}),
            "deployment nightly-growth: sed is unknown, got 1; allowed: name, seed, ",
        ),
        (
            lambda t: t["deployments"][0]["schedules"][0].update(parameters={"nightly": -5}),
            "deployment nightly-growth: nightly must be a whole number of at least 1, got -5",
        ),
        (
            lambda t: t["deployments"][2]["parameters"].update(name="a/b"),
            "deployment repair: name must be letters, digits",
        ),
        (
            lambda t: t["deployments"][3]["parameters"].update(first_day="2026-02-01", last_day="2026-01-01"),
            "deployment backfill: last_day must be 0 to 3659 days after first_day",
        ),
        (
            lambda t: t["deployments"][0]["parameters"].update(root="{{ $NOT_SET_HERE }}"),
            "deployments[0].parameters.root needs an environment variable that is not set: {{ $NOT_SET_HERE }}",
        ),
        (lambda t: t["deployments"][1].update(name="nightly-growth"), "deployment nightly-growth is there 2 times"),
    ],
)
def test_a_slip_is_told_of_by_its_place(change: Change, line: str, tmp_path: Path) -> None:
    slipped = tree()
    change(slipped)
    with pytest.raises(InputError) as told:
        read(slipped, tmp_path)
    assert str(told.value).removeprefix(f"{tmp_path / 'prefect.yaml'}: ").startswith(line)
    assert "\n" not in str(told.value)


def test_a_key_given_twice_and_what_is_no_yaml_are_refused(tmp_path: Path) -> None:
    twice = FILE.read_text().replace("name: charflow\n", "name: charflow\nname: other\n", 1)
    with pytest.raises(InputError, match="is not YAML: name is given twice"):
        read(twice, tmp_path)
    with pytest.raises(InputError, match="is not YAML: "):
        read("name: [", tmp_path)
    with pytest.raises(InputError, match="must hold name and deployments, got None"):
        read("", tmp_path)
    with pytest.raises(InputError, match=r"^--file must be a prefect[.]yaml that can be read, got '.*nothing[.]yaml'"):
        read_deployments(tmp_path / "nothing.yaml")


def test_values_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_ROOT", "s3://bucket/runs")
    given = tree()
    given["deployments"][0]["parameters"]["root"] = "{{ $STORE_ROOT }}"
    found = read(given, tmp_path)
    assert found[0].store == ("s3://bucket/runs", "digits")


def test_two_schedules_do_not_grow_one_store_but_a_growth_and_a_training_go_together() -> None:
    store, other = ("", "digits"), ("/runs", "digits")
    require_one_schedule_a_store([("grow", "a", store), ("train", "b", store), ("grow", "c", other)])
    with pytest.raises(
        InputError, match=r"^deployments a and b both schedule grow on run 'digits' under CHARFLOW_ROOT; "
    ):
        require_one_schedule_a_store([("grow", "a", store), ("grow", "b", store)])


def test_a_second_schedule_counts_only_while_it_is_active(tmp_path: Path) -> None:
    given = tree()
    given["deployments"].append(given["deployments"][0] | {"name": "again"})
    with pytest.raises(InputError, match=r"^deployments nightly-growth and again both schedule charflow-grow "):
        read(given, tmp_path)
    given["deployments"][-1]["paused"] = True
    assert len(read(given, tmp_path)) == 5


def test_a_schedule_with_a_name_of_its_own_counts_for_that_run(tmp_path: Path) -> None:
    given = tree()
    other = given["deployments"][0] | {
        "name": "again",
        "parameters": given["deployments"][0]["parameters"] | {"name": "b"},
    }
    given["deployments"].append(other)
    assert len(read(given, tmp_path)) == 5
    other["schedules"] = [{"cron": "0 3 * * *", "parameters": {"name": "digits", "root": "/runs/"}}]
    given["deployments"][0]["parameters"] |= {"root": "/runs"}
    with pytest.raises(InputError, match=r"^deployments nightly-growth and again both schedule .* under /runs; "):
        read(given, tmp_path)


def test_what_is_allowed_is_a_part_of_what_prefect_knows() -> None:
    for ours, theirs in (
        (deployments.DeploymentEntry, _models.DeploymentConfig),
        (deployments.ScheduleEntry, _models.RawScheduleConfig),
        (deployments.PoolEntry, _models.WorkPoolConfig),
        (deployments.LimitEntry, _models.ConcurrencyLimitSpec),
    ):
        assert ours.model_fields.keys() <= theirs.model_fields.keys()
