"""A model's folder: weights and specification belong together, or it is no model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.errors import DamagedError, IncompleteError, VersionError
from storage.models import publish_model, read_model
from tests.storage.disk import deaths

SPEC: dict[str, Any] = {"kind": "network", "sizes": [64, 64], "key": "k1"}


def test_a_published_model_is_read_back(tmp_path: Path) -> None:
    digest = publish_model(tmp_path / "velocity", spec=SPEC, weights=b"weights")
    model = read_model(tmp_path / "velocity")
    assert (model.weights, model.digest) == (b"weights", digest)
    assert {key: model.spec[key] for key in SPEC} == SPEC


def test_a_model_without_weights_is_whole(tmp_path: Path) -> None:
    digest = publish_model(tmp_path, spec=SPEC)
    assert (read_model(tmp_path).weights, read_model(tmp_path).digest) == (b"", digest)
    assert not (tmp_path / "model.safetensors").exists()


def test_the_digest_is_of_specification_and_weights_and_of_no_order_or_place(tmp_path: Path) -> None:
    digests = {
        publish_model(tmp_path / "a", spec=SPEC, weights=b"w"),
        publish_model(tmp_path / "b", spec=SPEC, weights=b"v"),
        publish_model(tmp_path / "c", spec=SPEC),
        publish_model(tmp_path / "d", spec=SPEC | {"kind": "oracle"}, weights=b"w"),
    }
    assert len(digests) == 4
    assert publish_model(tmp_path / "e", spec=dict(reversed(SPEC.items())), weights=b"w") in digests


@pytest.mark.parametrize("weights", [b"", b"old weights"])
def test_a_later_model_replaces_an_earlier_one_whole(weights: bytes, tmp_path: Path) -> None:
    for now, then in ((weights, b"new"), (b"new", weights)):
        publish_model(tmp_path, spec=SPEC, weights=now)
        digest = publish_model(tmp_path, spec=SPEC | {"key": "k2"}, weights=then)
        model = read_model(tmp_path)
        assert (model.weights, model.spec["key"], model.digest) == (then, "k2", digest)


@pytest.mark.parametrize("content", [None, b"", b"weights!", b"weightr"])
def test_weights_that_are_not_the_promised_ones_are_damage(content: bytes | None, tmp_path: Path) -> None:
    publish_model(tmp_path, spec=SPEC, weights=b"weights")
    file = tmp_path / "model.safetensors"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(DamagedError, match=r"model\.safetensors is not what spec\.json promises"):
        read_model(tmp_path)


def test_a_specification_cannot_name_another_digest_than_the_weights(tmp_path: Path) -> None:
    digest = publish_model(tmp_path, spec=SPEC | {"weights": "0" * 32, "version": 9}, weights=b"weights")
    assert read_model(tmp_path).digest == digest


def test_a_folder_without_a_model_is_incomplete(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(IncompleteError, match="holds no finished model"):
            read_model(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version": 1}', '{"version": "x", "weights": ""}'])
def test_a_specification_that_makes_no_sense_is_damaged(content: str, tmp_path: Path) -> None:
    publish_model(tmp_path, spec=SPEC)
    (tmp_path / "spec.json").write_text(content)
    with pytest.raises(DamagedError, match=r"spec\.json is no specification"):
        read_model(tmp_path)


def test_a_model_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    publish_model(tmp_path, spec=SPEC)
    content = json.loads((tmp_path / "spec.json").read_text())
    (tmp_path / "spec.json").write_text(json.dumps(content | {"version": 2}))
    with pytest.raises(VersionError, match="upgrade"):
        read_model(tmp_path)


def test_a_death_at_any_call_of_a_publication_leaves_a_whole_model_or_none(tmp_path: Path) -> None:
    seen: set[object] = set()

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            try:
                model = read_model(tmp_path)
            except IncompleteError:
                seen.add(None)
            else:
                seen.add((model.spec["key"], model.weights))
        publish_model(tmp_path, spec=SPEC, weights=b"old")
        return lambda: publish_model(tmp_path, spec=SPEC | {"key": "k2"}, weights=b"new")

    assert deaths(act) > 5
    assert seen == {("k1", b"old"), None, ("k2", b"new")}
