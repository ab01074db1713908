"""The places of a run are those of the public format."""

from pathlib import Path

from storage.paths import RunPaths, ledger_path


def test_the_names_are_the_published_ones_and_nothing_is_created(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path, "digits")
    names = {
        name: getattr(paths, name).relative_to(paths.folder).as_posix()
        for name in ("config", "record", "data", "velocity", "trajectories", "generator", "report")
    }
    assert names == {
        "config": "config.toml",
        "record": "run.json",
        "data": "data.zarr",
        "velocity": "velocity",
        "trajectories": "trajectories.zarr",
        "generator": "generator",
        "report": "report",
    }
    assert paths.folder == tmp_path / "digits"
    assert list(tmp_path.iterdir()) == []


def test_the_ledger_lies_beside_its_store() -> None:
    assert ledger_path(Path("runs/a.b/trajectories.zarr")) == Path("runs/a.b/trajectories.ledger")


def test_every_place_of_a_stage_is_told_the_ledger_before_what_it_vouches_for(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path, "digits")
    assert paths.stages["integrate"] == (paths.folder / "trajectories.ledger", paths.trajectories)
    others = [place for step, places in paths.stages.items() if step != "integrate" for place in places]
    assert others == [paths.data, paths.velocity, paths.generator, paths.report]
