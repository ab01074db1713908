"""The features of an evaluation: their weights from a file, and one line that names the key for what cannot serve."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from storage.checksum import digest
from storage.errors import InputError
from tasks.features import count_features, load_law_features
from tasks.specs import EvaluationSpec

SOURCE = """
import torch
from torch import nn

net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
function = lambda x: x.flatten(1)
many = lambda x: x.flatten(1).repeat(1, 2000)
none = lambda x: x.flatten(1)[:, :0]
infinite = lambda x: x.flatten(1) / 0
"""
X = np.random.default_rng(0).standard_normal((150, 1, 2, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "law_features.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "law_features", raising=False)


def other_net() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def spec(name: str = "net", *, weights: Path | str = "", promised: str = "") -> EvaluationSpec:
    return EvaluationSpec(features=f"law_features:{name}", features_weights=str(weights), features_digest=promised)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_of_a_file_replace_the_modules_own_and_leave_it_alone(suffix: str, tmp_path: Path) -> None:
    file, net = tmp_path / f"weights.{suffix}", other_net()
    save_file(net.state_dict(), file) if suffix == "safetensors" else torch.save(net.state_dict(), file)
    found = load_law_features(spec(weights=file, promised=digest(file.read_bytes())))
    with torch.no_grad():
        expected = net(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(found.points(X), expected, rtol=1e-6, atol=1e-7)
    assert found.digest == digest(file.read_bytes())
    own = load_law_features(spec())
    assert own.digest == ""
    assert abs(own.points(X) - expected).max() > 0.1


def test_points_are_rows_in_double_precision_whatever_is_computed_at_once() -> None:
    found = load_law_features(spec("function")).points(X)
    assert found.shape == (150, 4)
    assert found.dtype == np.float64
    assert (found == X.reshape(150, 4)).all()
    assert count_features(load_law_features(spec("function")), (1, 2, 2)) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("many", "must give 1 to 4096 numbers for each state, got 8000"),
        ("none", "must give 1 to 4096 numbers for each state, got 0"),
        ("infinite", "must give finite numbers, and gives others"),
    ],
)
def test_features_of_another_shape_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^evaluation.features = 'law_features:{name}' {message}$"):
        count_features(load_law_features(spec(name)), (1, 2, 2))


def test_what_cannot_be_imported_is_told_by_its_own_key() -> None:
    with pytest.raises(InputError, match=r"^evaluation\.features = 'law_features:nothing' cannot be imported"):
        load_law_features(spec("nothing"))


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("loaded",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"no weights at all", r"is no file of weights: no safetensors, and no torch file of tensors alone"),
        (b"\x08\0\0\0\0\0\0\0{ broken", r"is no file of weights: no safetensors, and"),
        (Evil(), r"is no file of weights: no safetensors, and no torch file of tensors alone"),
        ([1, 2], "is no file of weights: a torch file that holds other things than tensors by name"),
        ({"1.weight": torch.zeros(3, 4)}, "does not fit evaluation.features = 'law_features:net': it misses 1.bias"),
        (
            {"1.weight": torch.zeros(3, 4), "1.bias": torch.zeros(3), "x": torch.zeros(1)},
            "does not fit evaluation.features = 'law_features:net': it has unknown x",
        ),
        (
            {"1.weight": torch.zeros(3, 5), "1.bias": torch.zeros(3)},
            "does not fit evaluation.features = 'law_features:net': it has other shapes of 1.weight",
        ),
    ],
)
def test_wrong_weights_are_refused_in_one_line(
    content: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weights"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(InputError, match=rf"^evaluation\.features_weights = '{file}' {message}") as caught:
        load_law_features(spec(weights=file))
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""  # nothing of the file was run


def test_another_digest_than_promised_is_refused_with_both(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save(other_net().state_dict(), file)
    with pytest.raises(InputError, match=f"has digest {digest(file.read_bytes())}, and .*_digest promises {'0' * 32}"):
        load_law_features(spec(weights=file, promised="0" * 32))


def test_a_function_takes_no_weights(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save({}, file)
    with pytest.raises(
        InputError, match=r"needs a torch module, and evaluation\.features = 'law_features:function' is"
    ):
        load_law_features(spec("function", weights=file))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"features": "net"}, "evaluation.features must be module:attribute, got 'net'"),
        ({"features_weights": "w.pt"}, "evaluation.features_weights needs evaluation.features, got 'w.pt' for none"),
        ({"features": "a:b", "features_digest": "00"}, "evaluation.features_digest needs evaluation.features_weights"),
        ({"frechet_samples": 1}, "evaluation.frechet_samples must be at least 2, got 1"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationSpec(**given)  # type: ignore[arg-type]
