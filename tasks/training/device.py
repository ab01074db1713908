"""Where a training computes and how: the device, the precision of its matrix products, compilation.

bf16 and ``torch.compile`` are used on a GPU only; asked for elsewhere they fall back, which is said once and recorded.
"""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from storage.errors import InputError

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")


class Trained(Protocol):
    """What a section of the configuration says about how its network is computed."""

    @property
    def precision(self) -> str:
        """Of the matrix products: ``float32`` or ``bf16``."""
        ...

    @property
    def compile(self) -> bool:
        """Whether the network goes through ``torch.compile``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a network is computed while it is trained."""

    device: torch.device = CPU
    is_bf16: bool = False  # weights, sums and the optimiser stay in float32
    is_compiled: bool = False

    def take(self, model: nn.Module) -> nn.Module:
        """Move a model to the device, in place, and compile its calls if asked to; its weights keep their names."""
        model.to(self.device)
        if self.is_compiled:
            model.compile()
        return model

    def autocast(self) -> AbstractContextManager[object]:
        """Give the context in which the loss is computed."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.is_bf16 else nullcontext()

    def facts(self) -> dict[str, float]:
        """Give what a training's journal records of it."""
        return {"gpu": self.device.type == "cuda", "bf16": self.is_bf16, "compiled": self.is_compiled}


ON_CPU = Placement()


def describe(record: Mapping[str, float]) -> str:
    """Give, from a journal's record, on what and in which precision was trained, as ``cpu, float32``."""
    words = ["cuda" if record.get("gpu") else "cpu", "bf16" if record.get("bf16") else "float32"]
    return ", ".join([*words, *(["compiled"] if record.get("compiled") else [])])


def choose_device(asked: str, *, gpus: float) -> str:
    """Give ``cpu`` or ``cuda``, for ``compute.device`` = ``asked`` where there are so many GPUs.

    Raises:
        InputError: a GPU was asked for and there is none.
    """
    if asked == "cuda" and gpus <= 0:
        raise InputError("compute.device = cuda needs a GPU, and there is none here; set it to auto or cpu")
    return "cpu" if asked == "cpu" or gpus <= 0 else "cuda"


def local_device(asked: str) -> torch.device:
    """Give the device that this process computes on for ``compute.device`` = ``asked``.

    Raises:
        InputError: a GPU was asked for and there is none.
    """
    return torch.device(choose_device(asked, gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0))


def place_training(spec: Trained, device: torch.device) -> Placement:
    """Give how a section's network is trained on a device."""
    is_gpu = device.type == "cuda"
    return Placement(device=device, is_bf16=is_gpu and spec.precision == "bf16", is_compiled=is_gpu and spec.compile)


def warn_of_fallback(section: str, spec: Trained, device: str) -> None:
    """Say in one line what was asked for and is not done for want of a GPU."""
    wanted = {f"{section}.precision = bf16": spec.precision == "bf16", f"{section}.compile = true": spec.compile}
    left_out = [words for words, is_wanted in wanted.items() if is_wanted]
    if left_out and device == "cpu":
        logger.warning("%s: for a GPU only; training on the CPU in float32, not compiled", " and ".join(left_out))
