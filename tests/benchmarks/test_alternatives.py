"""The benchmark of alternatives on short trainings: one budget, one evaluation, and every contender its own law."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from flows.config import PipelineConfig
from storage.data import DataStore
from storage.journal import read_journal
from storage.models import read_model
from tasks.evaluate import EvaluateRequest, evaluate
from tasks.fit_velocity import build_stored_denoiser
from tasks.transport.noise import SAMPLES, standard_normal
from tests.benchmarks import _contenders, alternatives
from tests.benchmarks._contenders import Contender, Workshop, draw_map, make_contenders
from tests.benchmarks.alternatives import Evaluation, as_table, configs_of, measure_all
from tests.tasks.test_evaluate import FACTS

pytestmark = pytest.mark.slow  # six trainings of two datasets, and reports

SECONDS = {  # that each piece of work is said to take
    "flow_matching": 1,
    "teacher": 2,
    "trajectories": 4,
    "endpoint_distillation": 8,
    "charflow": 16,
    "charflow_semigroup_0.1": 32,
    "consistency": 64,
}
MADE = [name for name in SECONDS if name != "trajectories"]


def counted(name: str, work: Callable[[], object]) -> float:
    work()
    return SECONDS[name]


@pytest.fixture(scope="module", params=["moons", "digits"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workshop, list[Contender]]:
    name = str(request.param)
    config = configs_of([name], mnist="", quick=True)[name]
    if name == "moons":
        config = config.model_copy(update={"dataset": replace(config.dataset, count=2000)})
    folder = tmp_path_factory.mktemp(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_contenders, "timed", counted)
        return Workshop(config=config, folder=folder), make_contenders(config, folder, semigroup=(0.1,))


def as_evaluated(shop: Workshop) -> float:
    """Give w2_ratio of charflow as ``charflow evaluate`` measures it."""
    config = shop.config
    request = EvaluateRequest(
        evaluation=config.evaluation,
        dataset=config.dataset,
        data=shop.data,
        velocity=shop.place("teacher"),
        generator=shop.place("charflow"),
        store=shop.folder / "trajectories.zarr",
        count=config.trajectories.count,
        report=shop.folder / "report",
        facts=FACTS,
    )
    return evaluate(request, progress=lambda *_: None).metrics["w2_ratio"]


def one(contenders: list[Contender], name: str, evaluations: int) -> Contender:
    (found,) = (each for each in contenders if (each.name, each.evaluations) == (name, evaluations))
    return found


def test_contenders_are_measured_as_charflow_evaluate_does(made: tuple[Workshop, list[Contender]]) -> None:
    shop, contenders = made
    evaluation = Evaluation(shop.config, DataStore(shop.data))
    floors = {evaluation.measure(one(contenders, name, 1)).floor for name in ("flow_matching", "consistency")}
    found = evaluation.measure(one(contenders, "charflow", 1))
    assert found.ratio.value == pytest.approx(as_evaluated(shop), rel=1e-12)
    assert floors == {found.floor}


def test_every_contender_has_the_same_steps_in_all_and_weights_of_its_own(
    made: tuple[Workshop, list[Contender]],
) -> None:
    shop, _ = made
    steps = {name: read_journal(shop.place(name).journal)[-1]["step"] for name in MADE}
    velocity, generator = shop.config.velocity.steps, shop.config.generator.steps
    assert steps == dict.fromkeys(MADE, generator) | {"flow_matching": velocity + generator, "teacher": velocity}
    assert len({read_model(shop.folder / name).digest for name in MADE}) == len(MADE)


def test_seconds_are_those_of_all_that_a_contender_needs(made: tuple[Workshop, list[Contender]]) -> None:
    _, contenders = made
    assert {each.name: each.seconds for each in contenders} == {
        "flow_matching": 1,
        "endpoint_distillation": 8 + 4 + 2,
        "charflow": 16 + 4 + 2,
        "charflow_semigroup_0.1": 32 + 4 + 2,
        "consistency": 64 + 2,
    }


def test_the_flow_takes_eulers_steps_from_the_noise_of_all(made: tuple[Workshop, list[Contender]]) -> None:
    shop, contenders = made
    data, stop = DataStore(shop.data), shop.config.trajectories.stop
    field = build_stored_denoiser(read_model(shop.folder / "flow_matching"))
    x0 = standard_normal(0, 5, 9, data.dim, stream=SAMPLES).to(torch.float32)
    assert shop.config.interpolant.kind == "trigonometric"  # so v(0, x) = (pi / 2) D(0, x)
    with torch.no_grad():
        end = x0 + stop * math.pi / 2 * field(torch.tensor(0.0), x0)
    np.testing.assert_allclose(
        one(contenders, "flow_matching", 1).draw(5, 9), data.standardisation.to_data(end.numpy()), atol=1e-5
    )


def test_one_evaluation_of_the_consistency_map_is_a_generators(made: tuple[Workshop, list[Contender]]) -> None:
    shop, contenders = made
    found = one(contenders, "consistency", 1).draw(0, 8)
    np.testing.assert_allclose(found, draw_map(shop, 0, 8, name="consistency", steps=1), atol=1e-5)


def test_more_evaluations_are_other_samples(made: tuple[Workshop, list[Contender]]) -> None:
    _, contenders = made
    for before, after in pairwise(contenders):
        assert not np.allclose(before.draw(0, 4), after.draw(0, 4), atol=1e-3), (before, after)


def test_the_object_has_a_value_for_each_contender(
    made: tuple[Workshop, list[Contender]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, contenders = made

    def ready(_: PipelineConfig, folder: Path, *, semigroup: tuple[float, ...]) -> list[Contender]:
        assert semigroup == (0.1,)
        (folder / "data.zarr").symlink_to(shop.data)
        return contenders

    monkeypatch.setattr(alternatives, "make_contenders", ready)
    found = measure_all({"it": shop.config}, semigroup=(0.1,))
    assert set(found) == {"bench", "unit", "results", "detail"}
    assert set(found["results"]) == {f"it.{each.name}.{each.evaluations}" for each in contenders} | {"limit"}
    assert all(value > 0 for value in found["results"].values())
    detail = found["detail"]["it"]
    assert detail["optimiser_steps"] == 40
    table = as_table(found)
    for row in detail["rows"]:
        assert f"| {row['contender']} | {row['evaluations']} | {row['w2_ratio']:.3f} ± " in table


def test_mnist_is_measured_where_a_folder_is_given_and_without_its_classes() -> None:
    assert list(configs_of(["moons"], mnist="", quick=False)) == ["moons"]
    config = configs_of([], mnist='a "folder"', quick=True)["mnist"]
    assert (config.dataset.path, config.velocity.conditional, config.velocity.steps) == ('a "folder"', False, 20)
