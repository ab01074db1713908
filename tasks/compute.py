"""Where the work runs, and what each of its Ray tasks and training workers asks of a node: the section ``compute``.

Standard library only, like specs.py. Nothing of it is part of any key, for it changes no result.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks.checks import require, require_at_least, require_one_of

DEVICE_KINDS = ("auto", "cpu", "cuda")
PLACEMENT_KINDS = ("pack", "spread")

TASKS_PER_GPU = 4  # of a simulation: one computes while others draw noise, write and sync
_GIB = 2**30
_RAYS_OWN = {"cpu": "cpus", "gpu": "gpus", "memory": "memory", "object_store_memory": "memory"}  # and the key for it


@dataclass(frozen=True, kw_only=True)
class ResourcesSpec:
    """What one Ray task or training worker of a step asks of its node; checked by :class:`ComputeSpec`."""

    cpus: float = 1.0  # reserved; work is of one thread whatever it says, for sums of more have other bits
    gpus: float | str = "auto"  # or a share of one; auto: a quarter a task of a simulation, a training's shared evenly
    memory: float = 0.0  # GiB that Ray sets aside; 0: none
    resources: Mapping[str, float] = field(default_factory=dict, hash=False)  # amounts of what nodes offer by name

    def check(self, section: str) -> None:
        """Raise ``ValueError`` where a value is out of range; ``section`` is where it stands."""
        require(0 < self.cpus < math.inf, f"{section}.cpus must be positive, got {self.cpus:g}")
        if isinstance(self.gpus, str):
            require(self.gpus == "auto", f"{section}.gpus must be a number or auto, got {self.gpus!r}")
        else:
            is_whole = 0 <= self.gpus < math.inf and (self.gpus <= 1 or self.gpus == int(self.gpus))
            require(is_whole, f"{section}.gpus must be a share from 0 to 1 or a whole number, got {self.gpus:g}")
        require(0 <= self.memory < math.inf, f"{section}.memory must be at least 0 (GiB), got {self.memory:g}")
        for name, amount in self.resources.items():
            own = _RAYS_OWN.get(name.lower())
            require(own is None, f"{section}.resources.{name} is Ray's own; use {section}.{own}")
            require(name.strip() != "", f"{section}.resources must have names, got {name!r}")
            is_amount = 0 < amount < math.inf
            require(is_amount, f"{section}.resources.{name} must be a positive number, got {amount:g}")

    def amounts(self, *, gpu_share: float = 0.0) -> dict[str, float]:
        """Give the amounts by Ray's names, with so much of a GPU."""
        own = {"CPU": self.cpus, "GPU": gpu_share, "memory": float(round(self.memory * _GIB))}
        return {name: amount for name, amount in (own | dict(self.resources)).items() if amount > 0}


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a step asks of a cluster for each of its Ray tasks or training workers."""

    step: str
    asked: ResourcesSpec = ResourcesSpec()
    placement: str = "pack"  # or spread: over as many nodes as there are
    patience: float = 0.0  # seconds to wait for what no node has
    insists_on_gpu: bool = False  # compute.device = cuda: a GPU or nothing

    @property
    def section(self) -> str:
        """Of the configuration."""
        return f"compute.{self.step}"

    @property
    def asks_for_gpu(self) -> bool:
        """Whether a GPU is asked for by number, so that one must be there."""
        return not isinstance(self.asked.gpus, str) and self.asked.gpus > 0

    @property
    def waits_for_gpu(self) -> bool:
        """Whether a GPU that no node has yet is taken for granted, since it is waited for."""
        return self.insists_on_gpu and self.patience > 0

    def gpu_share(self, automatic: float) -> float:
        """Give what of a GPU a task or worker asks for that computes on one."""
        return automatic if isinstance(self.asked.gpus, str) else self.asked.gpus


@dataclass(frozen=True, kw_only=True)
class ComputeSpec:
    """Where the work runs; no part of any key, for it changes no result."""

    address: str = ""  # of a running Ray cluster; empty: start one here
    cpus: int = 0  # of a cluster started here; 0: all
    gpus: int = 0
    device: str = "auto"  # auto: a GPU when there is one
    spread: bool = False  # sum a kernel's shards in Ray tasks of their own, for data larger than a worker's memory
    timeout: float = 0.0  # seconds that a step may take; 0: any
    placement: str = "pack"  # of tasks and workers; spread: over as many nodes as there are
    patience: float = 0.0  # seconds to wait for asked resources on a cluster that may grow
    fit_velocity: ResourcesSpec = ResourcesSpec()
    integrate: ResourcesSpec = ResourcesSpec()
    train_generator: ResourcesSpec = ResourcesSpec()

    def __post_init__(self) -> None:
        require_at_least("compute.cpus", self.cpus, 0)
        require_at_least("compute.gpus", self.gpus, 0)
        require_at_least("compute.timeout", self.timeout, 0)
        require_one_of("compute.device", self.device, DEVICE_KINDS)
        require_one_of("compute.placement", self.placement, PLACEMENT_KINDS)
        require(0 <= self.patience < math.inf, f"compute.patience must be at least 0 (s), got {self.patience:g}")
        require(
            self.patience == 0 or self.address != "",
            f"compute.patience = {self.patience:g} needs compute.address: a Ray that is started here does not grow",
        )
        for step, asked in self._asked.items():
            asked.check(f"compute.{step}")
            self._check_device(step, asked.gpus)

    def demand(self, step: str) -> Demand:
        """Give what a step asks for; one that has no section here runs in the driver and asks for nothing."""
        asked = self._asked.get(step, ResourcesSpec())
        return Demand(
            step=step,
            asked=asked,
            placement=self.placement,
            patience=self.patience,
            insists_on_gpu=self.device == "cuda",
        )

    @property
    def _asked(self) -> dict[str, ResourcesSpec]:
        return {
            "fit_velocity": self.fit_velocity,
            "integrate": self.integrate,
            "train_generator": self.train_generator,
        }

    def _check_device(self, step: str, gpus: float | str) -> None:
        if isinstance(gpus, str):
            return
        key = f"compute.{step}.gpus"
        require(gpus == 0 or self.device != "cpu", f"{key} must be auto or 0 for compute.device = cpu, got {gpus:g}")
        require(gpus > 0 or self.device != "cuda", f"{key} must be auto or above 0 for compute.device = cuda, got 0")
