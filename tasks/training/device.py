"""Where a network computes and how: the device, the precision of its matrix products, compilation.

tf32, bf16 and ``torch.compile`` are used on a GPU only; elsewhere they fall back, which is said once.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from storage.errors import InputError

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")

_BLOCK_VALUES = {"cpu": 2**16, "cuda": 2**21}  # numbers of a block, at most: what fits a cache, or fills a GPU
_BLOCK_ROWS = (16, 1024)  # of a block, at least and at most


class Trained(Protocol):
    """What a section of the configuration says about how its network is computed."""

    @property
    def precision(self) -> str:
        """Of the matrix products: ``float32``, ``tf32`` or ``bf16``."""
        ...

    @property
    def compile(self) -> bool:
        """Whether the network goes through ``torch.compile``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a network is computed."""

    device: torch.device = CPU
    is_bf16: bool = False  # weights, sums and the optimiser stay in float32
    is_tf32: bool = False
    is_compiled: bool = False

    def take(self, model: nn.Module) -> nn.Module:
        """Move a model to the device, in place, and compile its calls if asked to; its weights keep their names.

        On a GPU this process's products of float32 are from now on as precise as they are here, those of convolutions
        as well, which torch would round to tf32 unasked.
        """
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.fp32_precision = self._float32
            torch.backends.cudnn.conv.fp32_precision = self._float32  # type: ignore[attr-defined]
        model.to(self.device)
        if self.is_compiled:
            model.compile()
        return model

    def autocast(self) -> AbstractContextManager[object]:
        """Give the context in which the network is computed."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.is_bf16 else nullcontext()

    def facts(self) -> dict[str, float]:
        """Give what a training's journal records of it."""
        return {
            "gpu": self.device.type == "cuda",
            "bf16": self.is_bf16,
            "tf32": self.is_tf32,
            "compiled": self.is_compiled,
        }

    @property
    def _float32(self) -> str:
        return "tf32" if self.is_tf32 else "ieee"


ON_CPU = Placement()


def describe(record: Mapping[str, float]) -> str:
    """Give, from a journal's record, on what and in which precision was trained, as ``cpu, float32``."""
    precision = next((name for name in ("bf16", "tf32") if record.get(name)), "float32")
    words = ["cuda" if record.get("gpu") else "cpu", precision]
    return ", ".join([*words, *(["compiled"] if record.get("compiled") else [])])


def choose_device(asked: str, *, gpus: float) -> str:
    """Give ``cpu`` or ``cuda``, for ``compute.device`` = ``asked`` where there are so many GPUs.

    Raises:
        InputError: a GPU was asked for and there is none.
    """
    if asked == "cuda" and gpus <= 0:
        raise InputError(
            "compute.device = cuda needs a GPU, and there is none here; set it to auto or cpu, or compute.patience to "
            "the seconds that a cluster at compute.address may take to start a node with one"
        )
    return "cpu" if asked == "cpu" or gpus <= 0 else "cuda"


def local_device(asked: str) -> torch.device:
    """Give the device that this process computes on for ``compute.device`` = ``asked``.

    Raises:
        InputError: a GPU was asked for and there is none.
    """
    return torch.device(choose_device(asked, gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0))


def given_device(kind: str) -> torch.device:
    """Give the CPU, or the one GPU that Ray lets this worker see, for ``kind`` = ``cpu`` or ``cuda``.

    Raises:
        InputError: torch cannot use the GPU.
    """
    if kind == "cpu":
        return CPU
    if not torch.cuda.is_available():
        raise InputError(
            "compute.device must be cpu here: Ray has a GPU, but this installation of torch cannot use one"
        )
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    return device


def place(device: torch.device, *, precision: str, is_compiled: bool) -> Placement:
    """Give how a network is computed on a device, as far as that device can do what is asked."""
    is_gpu = device.type == "cuda"
    return Placement(
        device=device,
        is_bf16=is_gpu and precision == "bf16",
        is_tf32=is_gpu and precision == "tf32",
        is_compiled=is_gpu and is_compiled,
    )


def block_rows(dim: tuple[int, ...], device: torch.device = CPU) -> int:
    """Give how many states a network is given at once, a power of two: many points, few images.

    What lies between a U-Net's layers is a hundred times the size of its images; of 16 to 64 of them it stays in a
    processor's cache, which halves the time of 1,024 at once.
    """
    least, most = _BLOCK_ROWS
    fitting = max(1, _BLOCK_VALUES[device.type] // math.prod(dim))
    return min(max(least, 1 << fitting.bit_length() - 1), most)


def suited_threads(dim: tuple[int, ...]) -> AbstractContextManager[None]:
    """Compute in one thread for points, and in as many as there are for images, whose products are large."""
    return one_thread() if block_rows(dim) == _BLOCK_ROWS[1] else nullcontext()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute as the integrate step does; small products gain nothing from a second thread, and wait for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def place_training(spec: Trained, device: torch.device) -> Placement:
    """Give how a section's network is trained on a device."""
    return place(device, precision=spec.precision, is_compiled=spec.compile)


def warn_of_fallback(section: str, spec: Trained, device: str) -> None:
    """Say in one line what was asked of a training and is not done for want of a GPU."""
    warn_on_cpu(device, {f"{section}.precision": spec.precision, f"{section}.compile": spec.compile})


def warn_on_cpu(device: str, asked: Mapping[str, object]) -> None:
    """Say in one line which keys ask in vain, where ``device`` is the CPU: any but float32, and not compiled."""
    vain = [f"{key} = {str(value).lower()}" for key, value in asked.items() if value not in ("float32", False)]
    if vain and device == "cpu":
        logger.warning("%s: for a GPU only; computing on the CPU in float32, not compiled", " and ".join(vain))
