"""What the report says of a run's measures and of its steps."""

from dataclasses import replace

import pytest

from tasks.report import about_velocity, printed_bytes, step_details
from tests.tasks.test_evaluate import FACTS as BARE

FACTS = replace(BARE, seconds={"ingest": 1.0, "integrate": 4.0}, simulated=10_000)


def test_the_loss_says_what_it_was_measured_on() -> None:
    found = about_velocity(pairs="stored rows with fresh noise", stop=0.999, is_copying=False)
    assert found == {
        "velocity_loss": "velocity matching a coordinate, in standardised units, on stored rows with fresh noise, "
        "times to 0.999"
    }


def test_a_kernel_of_no_width_is_said_to_end_in_training_points() -> None:
    found = about_velocity(pairs="", stop=1.0, is_copying=True)
    assert found["memorised_fraction"].startswith("samples whose nearest training point")
    assert "bandwidth 0, so the exact end of every trajectory is a training point" in found["memorised_fraction"]


def test_steps_tell_their_bytes_and_the_simulation_its_speed() -> None:
    sizes = {"ingest": 460_000, "fit_velocity": 0, "integrate": 845_000_000}
    found = step_details(FACTS, sizes)
    assert found == {"ingest": "460 kB", "integrate": "10,000 trajectories simulated, 2,500 a second, 845 MB"}
    assert step_details(replace(FACTS, simulated=0), sizes)["integrate"] == "845 MB"


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (7, "7 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (13_249_000, "13.2 MB"),
        (2 * 10**9, "2 GB"),
        (5 * 10**12, "5 TB"),
    ],
)
def test_bytes_have_three_digits(size: int, expected: str) -> None:
    assert printed_bytes(size) == expected
