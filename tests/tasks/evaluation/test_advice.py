"""What a budget advises: the largest term decides, and the numbers are those of the budget."""

from dataclasses import replace

import pytest

from tasks.evaluation.advice import Knobs, advise, describe
from tasks.evaluation.budget import TERMS
from tasks.evaluation.distance import Distance


def number(value: float, error: float = 0.001) -> Distance:
    return Distance(name="x", value=value, standard_error=error, n=100)


KNOBS = Knobs(
    solver="heun",
    steps=32,
    expected_order=2,
    order=1.5,
    stop=0.99,
    later=0.999,
    later_stopping=0.04,
    trajectories=50_000,
    trained_fit=number(0.39),
    velocity="network",
    is_exact=False,
    is_guided=False,
    losses=(number(0.04), number(0.039)),
)


def terms(largest: str, second: str = "") -> dict[str, Distance]:
    values = {name: 0.4 if name == largest else 0.2 if name == second else 0.1 for name in TERMS}
    return {name: number(value) for name, value in values.items()} | {"bound": number(sum(values.values()))}


def test_more_steps_are_worth_what_the_observed_order_says() -> None:
    assert advise(terms("euler"), KNOBS) == (
        "Next: trajectories.steps. Twice the 32 take euler from 0.4 to 0.141 and the bound from 0.7 to 0.441, by the "
        "observed order of 1.50."
    )


@pytest.mark.parametrize("order", [None, -0.2, 0.0])
def test_where_gaps_do_not_fall_nothing_is_promised(order: float | None) -> None:
    found = advise(terms("euler"), replace(KNOBS, order=order))
    assert found.startswith("Next: trajectories.steps; that can take euler from 0.4 to 0 and the bound from 0.7 to 0.3")
    assert "do not fall yet" in found


def test_a_later_stop_is_worth_its_formula() -> None:
    assert advise(terms("early_stopping"), KNOBS) == (
        "Next: trajectories.stop. 0.999 in place of 0.99 takes early_stopping from 0.4 to 0.04 and the bound from 0.7 "
        "to 0.34."
    )


@pytest.mark.parametrize(
    ("trained", "error", "knob"),
    [
        (0.2, 0.01, "trajectories.count"),
        (0.39, 0.001, "generator.steps"),
        (0.3, 0.1, "generator.steps"),
        (0.45, 0.001, "generator.steps"),
    ],
)
def test_a_fit_that_is_worse_on_fresh_noise_wants_trajectories(trained: float, error: float, knob: str) -> None:
    found = advise(terms("fit"), replace(KNOBS, trained_fit=number(trained, error)))
    assert found.startswith(f"Next: {knob}")
    assert "fit from 0.4 to 0 and the bound from 0.7 to 0.3, at most" in found
    assert f"0.4 off on fresh noise and {trained:g} on its own trajectories" in found


@pytest.mark.parametrize(
    ("kind", "own", "knob"),
    [
        ("network", 0.01, "dataset.count"),
        ("network", -0.01, "dataset.count"),
        ("network", 0.039, "velocity.steps"),
        ("kernel", 0.01, "dataset.count, or a larger velocity.bandwidth"),
        ("kernel", 0.039, "a smaller velocity.bandwidth"),
    ],
)
def test_a_velocity_that_is_worse_on_fresh_draws_wants_rows(kind: str, own: float, knob: str) -> None:
    found = advise(terms("velocity"), replace(KNOBS, velocity=kind, losses=(number(0.04), number(own))))
    assert found.startswith(f"Next: {knob}")
    assert "velocity from 0.4 to 0 and the bound from 0.7 to 0.3, at most" in found


def test_without_an_oracle_a_velocity_cannot_be_told_from_generalisation() -> None:
    blind = replace(KNOBS, losses=None)
    found = advise(terms("velocity", "fit"), blind)
    assert "0.4 of a bound of 0.8" in found
    assert "cannot be told. Of the others, next: generator.steps" in found
    alone = {**{name: number(0.0) for name in TERMS}, "velocity": number(0.4), "bound": number(0.4)}
    assert advise(alone, blind).endswith("cannot be told.")
    assert advise(terms("fit"), blind) == advise(terms("fit"), KNOBS)


def test_nothing_is_advised_where_nothing_is_left() -> None:
    assert advise({name: number(0.0) for name in (*TERMS, "bound")}, KNOBS).startswith("Nothing is left")


def test_the_words_say_what_each_term_is_of() -> None:
    words = describe(KNOBS, law="the target")
    assert words["euler"] == (
        "end states of 32 steps of heun against their limit, by Richardson's rule; order 1.50 observed, 2 expected"
    )
    assert "T = 0.99" in words["early_stopping"]
    assert "0.39 ± 0.001" in words["fit"]
    assert words["bound"].endswith("to the target")
    assert "rows of the data" not in words["velocity"]
    assert "generalises" in describe(replace(KNOBS, losses=None), law="")["velocity"]
    assert describe(replace(KNOBS, is_guided=True), law="")["velocity"].endswith("guidance counts as well")
    exact = describe(replace(KNOBS, is_exact=True, order=None), law="")
    assert exact["velocity"] == "the velocity is the exact one"
    assert exact["euler"].endswith("against the exact characteristics")
