"""Configurations: presets, changes, one clear line for whatever is wrong, and a faithful dump."""

from dataclasses import fields
from pathlib import Path

import pytest

from flows.config import as_tree, build_config, config_name, dump_config, flatten, load_config, placed, presets
from storage.errors import InputError
from tasks.specs import KEYS_OF_NETWORK, NETWORK_KINDS, NetworkSpec


@pytest.mark.parametrize("name", sorted(presets()))
def test_a_preset_is_complete_and_survives_a_dump(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    file = tmp_path / "again.toml"
    file.write_text(dump_config(config))
    assert load_config(str(file)) == config


def test_the_promised_presets_are_there_each_with_a_line_about_it() -> None:
    assert {"gaussian", "mixture", "moons", "checkerboard", "digits"} <= presets().keys()
    assert all(len(line) > 20 for line in presets().values())


def test_the_million_is_simulated_by_the_default_perceptron_in_32_steps() -> None:
    config = load_config("million")
    assert (config.trajectories.count, config.trajectories.steps) == (1_000_000, 32)
    assert config.velocity.network == NetworkSpec()
    assert config.dataset.target().kind == "moons"


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


def test_a_sphere_survives_a_dump_and_its_spread_is_written_out(tmp_path: Path) -> None:
    config = load_config("moons", changes=["dataset.kind=sphere", "dataset.dim=4"])
    file = tmp_path / "again.toml"
    file.write_text(dump_config(config))
    assert load_config(str(file)) == config
    leaves = flatten(as_tree(config))
    found = {key: leaves.get(f"dataset.{key}") for key in ("dim", "intrinsic", "std", "mean")}
    assert found == {"dim": 4, "intrinsic": 1, "std": 0.05, "mean": None}


def test_switching_the_kind_of_a_network_inside_a_section_drops_its_former_keys() -> None:
    config = load_config(
        "digits", changes=["velocity.network.kind=unet", "velocity.network.multipliers=[1, 2]", "generator.steps=9"]
    )
    assert config.velocity.network == NetworkSpec(kind="unet", multipliers=(1, 2))
    assert config.generator.network == load_config("digits").generator.network
    back = load_config("digits", changes=["velocity.network.kind=mlp"])
    assert back.velocity.network == load_config("digits").velocity.network


def test_a_network_without_a_kind_is_a_perceptron() -> None:
    tree = {"dataset": {"kind": "digits"}, "generator": {"network": {"width": 8}}}
    assert build_config(tree).generator.network == NetworkSpec(width=8)
    with pytest.raises(InputError, match=r"generator\.network\.blocks = 2 has no meaning .*kind = mlp, only for: unet"):
        build_config({"dataset": {"kind": "digits"}, "generator": {"network": {"blocks": 2}}})


def test_a_unet_survives_a_dump_which_leaves_out_what_a_perceptron_needs(tmp_path: Path) -> None:
    changes = ["velocity.network.kind=unet", "velocity.network.attention=[4, 2]", "generator.network.kind=unet"]
    config = load_config("digits", changes=changes)
    file = tmp_path / "again.toml"
    file.write_text(dump_config(config))
    assert load_config(str(file)) == config
    leaves = flatten(as_tree(config))
    assert leaves["velocity.network.attention"] == (4, 2)
    assert not leaves.keys() & {"velocity.network.width", "generator.network.depth"}
    assert "generator.network.channels" not in flatten(as_tree(load_config("digits")))
    assert leaves["generator.network.spectral"] is False  # of both kinds


def test_the_keys_of_a_network_are_keys_and_kinds_that_exist() -> None:
    assert KEYS_OF_NETWORK.keys() <= {field.name for field in fields(NetworkSpec)}
    assert set().union(*KEYS_OF_NETWORK.values()) == set(NETWORK_KINDS)


@pytest.mark.parametrize(("given", "expected"), [("loo", "loo"), ("0.2", 0.2), ("0", 0.0), ("'loo'", "loo")])
def test_a_bandwidth_is_a_number_or_found(given: str, expected: float | str, tmp_path: Path) -> None:
    config = load_config("digits", changes=["velocity.kind=kernel", f"velocity.bandwidth={given}"])
    assert config.velocity.bandwidth == expected
    assert isinstance(config.velocity.bandwidth, type(expected))
    file = tmp_path / "again.toml"
    file.write_text(dump_config(config))
    assert load_config(str(file)) == config


def test_labelled_data_may_be_asked_for_a_conditional_velocity() -> None:
    assert load_config("digits", changes=["velocity.conditional=true"]).velocity.conditional


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
        (
            ["dataset.intrinsic=2"],
            r"dataset\.intrinsic = 2 has no meaning for dataset\.kind = gaussian, only for: sphere",
        ),
        (["dataset.kind=sphere", "dataset.mean=0"], r"dataset\.mean = 0 has no meaning for dataset\.kind = sphere"),
        (["dataset.mean=nan"], r"dataset\.mean must be finite, got nan"),
        (["dataset.kind=moons", "dataset.std=2"], r"dataset\.std = 2 has no meaning for dataset\.kind = moons"),
        (["dataset.kind=npz"], r"dataset\.path must name a file"),
        (["velocity.steps=5"], r"velocity\.steps = 5 has no meaning for velocity\.kind = oracle"),
        (["generator.network.width=1"], r"generator\.network\.width must be at least 2, got 1"),
        (["generator.network.kind=unet3"], r"generator\.network\.kind must be one of mlp, unet, got 'unet3'"),
        (["generator.network.kind=[1]"], r"generator\.network\.kind: input should be a valid string, got \[1\]"),
        (["generator.network=5"], r"generator\.network must be a section, got 5; its keys: kind, width"),
        (["generator.network.width=abc"], r"generator\.network\.width: input should be a valid integer.*got 'abc'"),
        (
            ["generator.network.channels=8"],
            r"generator\.network\.channels = 8 has no meaning for generator\.network\.kind = mlp, only for: unet",
        ),
        (
            ["generator.network.kind=unet", "generator.network.width=8"],
            r"generator\.network\.width = 8 has no meaning for generator\.network\.kind = unet, only for: mlp",
        ),
        (
            ["generator.network.kind=unet", "generator.network.multipliers=[]"],
            r"generator\.network\.multipliers must be numbers of at least 1, got \[\]",
        ),
        (
            ["generator.network.kind=unet", "generator.network.attention=7"],
            r"generator\.network\.attention: input should be a valid tuple, got 7",
        ),
        (["velocity.network.kind=unet"], r"velocity\.network = .* has no meaning for velocity\.kind = oracle"),
        (["velocity.bandwidth=1"], r"velocity\.bandwidth = 1 has no meaning for velocity\.kind = oracle"),
        (
            ["velocity.kind=kernel", "velocity.bandwidth=auto"],
            r"velocity\.bandwidth must be a number or loo, got 'auto'",
        ),
        (["velocity.kind=kernel", "velocity.bandwidth=-1"], r"velocity\.bandwidth must be at least 0, got -1"),
        (["velocity.kind=kernel", "velocity.bandwidth=[1]"], r"velocity\.bandwidth: .*valid number, got \[1\]"),
        (
            ["velocity.kind=kernel", "velocity.conditional=true"],
            r"velocity\.conditional = true needs a dataset with labels, got dataset\.kind = gaussian",
        ),
        (
            ["dataset.kind=idx", "dataset.path=x", "velocity.kind=network", "dataset.split=val"],
            r"dataset\.split must be one of train, test, got 'val'",
        ),
        (["generator.batch_size=1001"], r"generator\.batch_size must be a multiple of workers \(2\), got 1001"),
        (["generator.full_span_share=1.5"], r"generator\.full_span_share must be in \[0, 1\], got 1\.5"),
        (
            ["generator.form=heun"],
            r"generator\.form must be one of exponential, euler, got 'heun'",
        ),
        (["generator.features=vgg"], r"generator\.features must be module:attribute, got 'vgg'"),
        (["generator.learning_rate=0"], r"generator\.learning_rate must be positive, got 0"),
        (["evaluation.samples=100000"], r"evaluation\.samples must be between 2 and 10000"),
        (["seed=-1"], r"seed: .*greater than or equal to 0, got -1"),
        (["seed"], r"--set must be section\.key=value, got 'seed'"),
        (["seed.x=1"], r"--set seed\.x: seed is a value, not a section"),
        (["compute.device=tpu"], r"compute\.device must be one of auto, cpu, cuda, got 'tpu'"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_key_value_and_what_is_allowed(changes: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_config("gaussian", changes=changes)
    assert "\n" not in str(caught.value)


def test_the_denoiser_of_the_data_is_not_that_of_guided_trajectories() -> None:
    tree = {
        "dataset": {"kind": "digits"},
        "velocity": {"conditional": True},
        "trajectories": {"guidance": 1.5},
        "generator": {"diagonal": 0.1},
    }
    with pytest.raises(InputError, match=r"generator\.diagonal must be 0 for trajectories\.guidance .*\(got 1\.5\)"):
        build_config(tree)
    build_config(tree | {"trajectories": {"guidance": 1.0}})
    build_config(tree | {"velocity": {"conditional": False}})


def test_a_configuration_without_a_dataset_says_what_it_needs() -> None:
    with pytest.raises(InputError, match=r"dataset is missing; a configuration needs at least dataset\.kind"):
        build_config({})
    with pytest.raises(InputError, match=r"dataset\.kind is missing"):
        build_config({"dataset": {}})


def test_a_source_that_is_no_preset_and_no_file_lists_the_presets(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config 'cats' is unknown; it must be .*checkerboard, .*digits"):
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


def test_the_environment_names_the_cluster_of_a_configuration_that_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = load_config("moons"), load_config("moons", changes=["compute.address=host:1"])
    assert placed(here) == here
    monkeypatch.setenv("CHARFLOW_RAY", "auto")
    assert placed(here).compute.address == "auto"
    assert placed(there).compute.address == "host:1"


def test_the_environment_says_how_long_nodes_of_a_cluster_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = load_config("moons"), load_config("moons", changes=["compute.address=host:1"])
    patient = load_config("moons", changes=["compute.address=host:1", "compute.patience=5"])
    monkeypatch.setenv("CHARFLOW_PATIENCE", "600")
    assert placed(here) == here  # a Ray that is started here does not grow
    assert placed(there).compute.patience == 600
    assert placed(patient) == patient
    monkeypatch.setenv("CHARFLOW_RAY", "auto")
    assert placed(here).compute.patience == 600
    for wrong in ("soon", "-1", "inf"):
        monkeypatch.setenv("CHARFLOW_PATIENCE", wrong)
        with pytest.raises(InputError, match=f"^CHARFLOW_PATIENCE must be seconds, at least 0, got '{wrong}'$"):
            placed(here)


RESOURCES = ("integrate.resources.simulator=2", "integrate.gpus=0.25", "train_generator.memory=1.5", "placement=spread")


def test_what_a_step_asks_for_is_set_dumped_and_read_back(tmp_path: Path) -> None:
    config = load_config("gaussian", changes=[f"compute.{change}" for change in RESOURCES])
    demand = config.compute.demand("integrate")
    assert demand.asked.amounts(gpu_share=demand.gpu_share(1.0)) == {"CPU": 1.0, "GPU": 0.25, "simulator": 2.0}
    assert config.compute.demand("train_generator").asked.amounts() == {"CPU": 1.0, "memory": 1.5 * 2**30}
    assert config.compute.demand("evaluate").asked.amounts() == {"CPU": 1.0}
    assert {config.compute.demand(step).placement for step in ("integrate", "fit_velocity")} == {"spread"}
    file = tmp_path / "again.toml"
    file.write_text(dump_config(config))
    assert load_config(str(file)) == config
    leaves = flatten(as_tree(config))
    assert leaves["compute.integrate.resources.simulator"] == 2
    assert leaves["compute.fit_velocity.gpus"] == "auto"
    table = load_config(
        "gaussian", changes=["compute.integrate.resources={simulator = 2}", "compute.integrate.gpus=0.25"]
    )
    assert table.compute.integrate == config.compute.integrate


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("integrate.cpu=1", r"compute\.integrate\.cpu is unknown, got 1; allowed: cpus, gpus, memory, resources"),
        ("ingest.cpus=1", r"compute\.ingest is unknown.*fit_velocity, integrate, train_generator"),
        ("integrate=3", r"compute\.integrate must be a section, got 3; its keys: cpus, gpus, memory, resources"),
        ("integrate.cpus=0", r"compute\.integrate\.cpus must be positive, got 0"),
        ("integrate.cpus=many", r"compute\.integrate\.cpus: input should be a valid number.*got 'many'"),
        (
            "fit_velocity.gpus=1.5",
            r"compute\.fit_velocity\.gpus must be a share from 0 to 1 or a whole number, got 1\.5",
        ),
        ("fit_velocity.gpus=all", r"compute\.fit_velocity\.gpus must be a number or auto, got 'all'"),
        ("train_generator.memory=-1", r"compute\.train_generator\.memory must be at least 0 \(GiB\), got -1"),
        ("integrate.resources=3", r"compute\.integrate\.resources: input should be a valid .*got 3"),
        ("integrate.resources.sim=0", r"compute\.integrate\.resources\.sim must be a positive number, got 0"),
        ("integrate.resources.sim=x", r"compute\.integrate\.resources\.sim: input should be a valid number.*got 'x'"),
        ("integrate.resources.GPU=1", r"compute\.integrate\.resources\.GPU is Ray's own; use compute\.integrate\.gpus"),
        ("placement=scatter", r"compute\.placement must be one of pack, spread, got 'scatter'"),
        ("patience=-1", r"compute\.patience must be at least 0"),
        ("patience=60", r"compute\.patience = 60 needs compute\.address"),
    ],
)
def test_what_cannot_be_asked_of_a_cluster_is_told_in_one_line(change: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_config("gaussian", changes=[f"compute.{change}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 1), ("cuda", 0)])
def test_a_number_of_gpus_and_a_device_must_agree(device: str, gpus: int) -> None:
    with pytest.raises(
        InputError, match=rf"compute\.integrate\.gpus must be .* for compute\.device = {device}, got {gpus}"
    ):
        load_config("gaussian", changes=[f"compute.device={device}", f"compute.integrate.gpus={gpus}"])
