"""What the report says of a run's measures."""

from tasks.report import about_velocity, shown_paths, shown_points


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


def test_few_images_are_drawn_and_many_points() -> None:
    assert (shown_points((3, 32, 32)), shown_paths((3, 32, 32))) == (64, 6)
    assert (shown_points((2,)), shown_paths((2,))) == (4000, 200)
