"""Configurations: presets, changes, one clear line for whatever is wrong, and a faithful dump."""

from pathlib import Path

import pytest

from flows.config import build_config, config_name, dump_config, flatten, load_config, presets
from storage.errors import InputError


@pytest.mark.parametrize("name", sorted(presets()))
def test_a_preset_is_complete_and_survives_a_dump(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    file = tmp_path / "again.toml"
    file.write_text(dump_config(config))
    assert load_config(str(file)) == config


def test_the_promised_presets_are_there_each_with_a_line_about_it() -> None:
    assert {"gaussian", "mixture", "moons", "checkerboard", "digits"} <= presets().keys()
    assert all(len(line) > 20 for line in presets().values())


def test_a_configuration_may_be_one_key_long() -> None:
    assert build_config({"dataset": {"kind": "moons"}}).trajectories.count == 100_000


def test_a_change_is_read_as_toml_and_a_bare_word_as_a_string() -> None:
    config = load_config(
        "gaussian",
        changes=["seed=7", "dataset.mean=[1, 2]", "dataset.std=[1.0, 3]", "interpolant.kind=foellmer", "name='x'"],
    )
    assert config.seed == 7
    assert config.dataset.mean == (1.0, 2.0)
    assert config.dataset.std == (1.0, 3.0)
    assert config.interpolant.kind == "foellmer"
    assert config.name == "x"


def test_switching_a_kind_drops_the_keys_of_the_former_kind_only() -> None:
    config = load_config("mixture", changes=["dataset.kind=moons", "dataset.count=50"])
    assert config.dataset.kind == "moons"
    assert config.dataset.count == 50
    assert config.dataset.components == 8  # the default: what the preset said went with its kind
    oracle = load_config("mixture", changes=["velocity.kind=oracle"])
    assert oracle.velocity.kind == "oracle"
    assert "network" not in flatten({"velocity": oracle.velocity.kind})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["trajectories.stepz=2"], r"trajectories\.stepz is unknown, got 2; allowed: count, steps"),
        (["x.y=1"], r"x is unknown, got .*allowed: name, seed, dataset"),
        (["trajectories.count=-5"], r"trajectories\.count must be at least 1, got -5"),
        (["trajectories.count=abc"], r"trajectories\.count: input should be a valid integer.*got 'abc'"),
        (["trajectories.count=1.5"], r"trajectories\.count: .*got 1\.5"),
        (["trajectories.stop=0"], r"trajectories\.stop must be in \(0, 1\], got 0"),
        (["trajectories.stop=1.01"], r"trajectories\.stop must be in \(0, 1\], got 1\.01"),
        (["trajectories.solver=rk4"], r"trajectories\.solver must be one of euler, exponential, heun, got 'rk4'"),
        (["interpolant.kind=cubic"], r"interpolant\.kind must be one of linear, foellmer"),
        (["dataset.kind=cats"], r"dataset\.kind must be one of gaussian.*got 'cats'"),
        (["dataset=3"], r"dataset must be a section, got 3"),
        (["dataset.std=0"], r"dataset\.std must be positive, got 0"),
        (["dataset.mean=[1, 2, 3]"], r"dataset\.mean and dataset\.std must have the same length"),
        (["dataset.mean=nan"], r"dataset\.mean must be finite, got nan"),
        (["dataset.kind=moons", "dataset.std=2"], r"dataset\.std = 2 has no meaning for dataset\.kind = moons"),
        (["dataset.kind=npz"], r"dataset\.path must name a file"),
        (["velocity.steps=5"], r"velocity\.steps = 5 has no meaning for velocity\.kind = oracle"),
        (["generator.network.width=1"], r"generator\.network\.width must be at least 2, got 1"),
        (["generator.network.kind=unet3"], r"generator\.network\.kind must be one of mlp"),
        (["generator.batch_size=1001"], r"generator\.batch_size must be a multiple of workers \(2\), got 1001"),
        (["generator.full_span_share=1.5"], r"generator\.full_span_share must be in \[0, 1\], got 1\.5"),
        (["generator.learning_rate=0"], r"generator\.learning_rate must be positive, got 0"),
        (["evaluation.samples=100000"], r"evaluation\.samples must be between 2 and 10000"),
        (["seed=-1"], r"seed: .*greater than or equal to 0, got -1"),
        (["seed"], r"--set must be section\.key=value, got 'seed'"),
        (["seed.x=1"], r"--set seed\.x: seed is a value, not a section"),
        (["compute.device=cuda"], r"compute\.device must be one of cpu, got 'cuda'"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_key_value_and_what_is_allowed(changes: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_config("gaussian", changes=changes)
    assert "\n" not in str(caught.value)


def test_a_configuration_without_a_dataset_says_what_it_needs() -> None:
    with pytest.raises(InputError, match=r"dataset is missing; a configuration needs at least dataset\.kind"):
        build_config({})
    with pytest.raises(InputError, match=r"dataset\.kind is missing"):
        build_config({"dataset": {}})


def test_a_source_that_is_no_preset_and_no_file_lists_the_presets(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config 'cats' is unknown; it must be .*checkerboard, digits"):
        load_config("cats")
    with pytest.raises(InputError, match="is no file"):
        load_config(str(tmp_path / "absent.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("seed = = 3")
    with pytest.raises(InputError, match="is not TOML"):
        load_config(str(broken))


def test_a_run_is_called_after_its_preset_or_file() -> None:
    assert config_name("digits") == "digits"
    assert config_name("/some/where/mine.toml") == "mine"
