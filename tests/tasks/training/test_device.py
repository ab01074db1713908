"""Where a training computes: what is asked for, what there is, and what is said of the difference."""

import logging

import pytest
import torch
from torch import nn

from storage.errors import InputError
from tasks.capacity import Node, worker_amounts
from tasks.specs import Demand, VelocitySpec
from tasks.training.device import (
    CPU,
    ON_CPU,
    Placement,
    block_rows,
    choose_device,
    describe,
    local_device,
    place,
    place_training,
    suited_threads,
    warn_of_fallback,
)
from tasks.training.meeting import backend

GPU = torch.device("cuda", 0)
FAST = VelocitySpec(precision="bf16", compile=True)


@pytest.mark.parametrize(
    ("asked", "gpus", "chosen"),
    [("auto", 0, "cpu"), ("auto", 1, "cuda"), ("cpu", 4, "cpu"), ("cuda", 2, "cuda")],
)
def test_a_gpu_is_used_where_there_is_one_and_it_is_not_refused(asked: str, gpus: int, chosen: str) -> None:
    assert choose_device(asked, gpus=gpus) == chosen


def test_a_gpu_that_is_not_there_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"compute\.device = cuda needs a GPU, and there is none here; .* auto or cpu"):
        choose_device("cuda", gpus=0)


def test_this_process_asks_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_device("auto") == CPU
    with pytest.raises(InputError, match="cuda needs a GPU"):
        local_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_device("auto").type == "cuda"
    assert local_device("cpu") == CPU


def test_bf16_and_compilation_are_for_a_gpu() -> None:
    assert place_training(FAST, GPU) == Placement(device=GPU, is_bf16=True, is_compiled=True)
    assert place_training(VelocitySpec(), GPU) == Placement(device=GPU)
    assert place_training(FAST, CPU) == ON_CPU


def test_a_gpu_computes_in_tf32_only_if_asked_convolutions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "to", lambda module, device: module)
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, conv.fp32_precision
    try:
        for precision, found in (("tf32", "tf32"), ("float32", "ieee"), ("bf16", "ieee")):
            place(GPU, precision=precision, is_compiled=False).take(nn.Linear(1, 1))
            assert (matmul.fp32_precision, conv.fp32_precision) == (found, found)
        place(CPU, precision="tf32", is_compiled=False).take(nn.Linear(1, 1))
        assert (matmul.fp32_precision, conv.fp32_precision) == ("ieee", "ieee")  # a CPU's training leaves them alone
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


def test_the_cpu_computes_in_float32_what_a_gpu_would_in_bf16() -> None:
    layer, x = nn.Linear(4, 4), torch.ones(2, 4)
    with place_training(FAST, CPU).autocast():
        assert layer(x).dtype == torch.float32
    with Placement(device=CPU, is_bf16=True).autocast():  # what autocast does is torch's, and the same on a GPU
        assert layer(x).dtype == torch.bfloat16
        assert ((layer(x) - x) ** 2).dtype == torch.float32


def test_a_compiled_network_keeps_the_names_of_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, compiled = nn.Linear(4, 4), list[nn.Module]()
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    assert ON_CPU.take(layer) is layer
    assert compiled == []
    Placement(is_compiled=True).take(layer)
    assert compiled == [layer]
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_what_falls_back_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_fallback("velocity", FAST, "cuda")
        warn_of_fallback("velocity", VelocitySpec(), "cpu")
        assert caplog.records == []
        warn_of_fallback("velocity", FAST, "cpu")
        warn_of_fallback("generator", VelocitySpec(compile=True), "cpu")
    both, one = (record.getMessage() for record in caplog.records)
    assert both.startswith(
        "velocity.precision = bf16 and velocity.compile = true: for a GPU only; computing on the CPU"
    )
    assert one.startswith("generator.compile = true: for a GPU only")


def test_a_journal_tells_how_was_trained() -> None:
    assert describe(ON_CPU.facts()) == "cpu, float32"
    assert describe(place_training(FAST, GPU).facts()) == "cuda, bf16, compiled"
    assert describe(place(GPU, precision="tf32", is_compiled=False).facts()) == "cuda, tf32"
    assert describe({"step": 3.0}) == "cpu, float32"  # written before there was another way


@pytest.mark.parametrize(("workers", "gpus", "share"), [(2, 4, 1.0), (2, 2, 1.0), (3, 2, 0.5), (4, 1, 0.25)])
def test_workers_have_a_gpu_each_or_share_evenly(workers: int, gpus: int, share: float) -> None:
    nodes = [Node(id="a", address="", resources={"CPU": 64.0, "GPU": float(gpus)})]
    demand = Demand(step="train_generator")
    assert worker_amounts(demand, nodes, workers=workers, device="cuda") == {"CPU": 1.0, "GPU": share}
    assert workers <= gpus * round(1 / share)  # they all fit
    assert backend(share) == ("nccl" if share == 1 else "gloo")


def test_workers_of_a_cpu_ask_for_no_gpu_and_talk_over_gloo() -> None:
    assert worker_amounts(Demand(step="train_generator"), [], workers=2, device="cpu") == {"CPU": 1.0}
    assert backend(0.0) == "gloo"


@pytest.mark.parametrize(
    ("dim", "rows", "on_gpu"),
    [((2,), 1024, 1024), ((64,), 1024, 1024), ((1, 28, 28), 64, 1024), ((3, 32, 32), 16, 512), ((3, 256, 256), 16, 16)],
)
def test_images_go_through_a_network_in_small_blocks(dim: tuple[int, ...], rows: int, on_gpu: int) -> None:
    assert (block_rows(dim), block_rows(dim, GPU)) == (rows, on_gpu)


@pytest.mark.parametrize(("dim", "threads"), [((2,), 1), ((1, 8, 8), 1), ((1, 28, 28), 2)])
def test_images_take_all_threads_and_points_one(dim: tuple[int, ...], threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with suited_threads(dim):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
