"""Training states as bytes and back; what a network is made of travels as tensors only, never as code."""

import io
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from storage.checkpoints import Checkpoint, CheckpointFolder
from storage.errors import DamagedError
from tasks.training.loop import TrainingState


def to_checkpoint(state: TrainingState) -> Checkpoint:
    """Give a state as a checkpoint."""
    buffer = io.BytesIO()
    torch.save(state.state_dict(), buffer)
    return Checkpoint(step=state.step, payload=buffer.getvalue())


class CheckpointWriter:
    """Publishes checkpoints of a folder while the training goes on, one at a time; leaving it waits for the last.

    Making them durable takes several times as long as taking them, and hardly any of it is work.

    Raises:
        OSError: on :meth:`save` or on leaving: the checkpoint before could not be written.
    """

    def __init__(self, folder: CheckpointFolder) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write-checkpoints")
        self._coming: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        """Give the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the last checkpoint; an error of the training is told before one of the writing."""
        self._pool.shutdown()
        if self._coming is not None and error is None:
            self._coming.result()

    def save(self, checkpoint: Checkpoint) -> None:
        """Begin to publish a checkpoint, once the one before is published."""
        if self._coming is not None:
            self._coming.result()
        self._coming = self._pool.submit(self._folder.save, checkpoint)


def restore(state: TrainingState, checkpoint: Checkpoint) -> None:
    """Bring a freshly begun state to a checkpoint, on the device that it is on, whichever that was written on.

    Raises:
        DamagedError: it holds other things than tensors and numbers, and may be code; none of it is run.
    """
    device = next(state.model.parameters()).device
    try:
        found = torch.load(io.BytesIO(checkpoint.payload), map_location=device, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a file that is no checkpoint makes the reader raise
        raise DamagedError(
            f"the checkpoint of step {checkpoint.step} is none of tensors and numbers ({type(error).__name__}); "
            "restore it, or delete the checkpoints to train anew"
        ) from error
    state.load_state_dict(found)


def weights_to_bytes(weights: dict[str, Tensor]) -> bytes:
    """Give weights as safetensors."""
    return save_safetensors({name: value.cpu().contiguous() for name, value in weights.items()})


def weights_from_bytes(content: bytes) -> dict[str, Tensor]:
    """Give weights from safetensors."""
    return load_safetensors(content)


def weights_of_file(content: bytes) -> dict[str, Tensor]:
    """Give weights from outside: of a safetensors file, or of one that ``torch.save`` wrote of tensors alone.

    Raises:
        ValueError: it is neither.
    """
    try:
        if content[8:9] == b"{":  # behind the length of a safetensors header
            return load_safetensors(content)
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes either reader raise
        raise ValueError(f"no safetensors, and no torch file of tensors alone ({type(error).__name__})") from error
    if not (isinstance(found, Mapping) and all(isinstance(value, Tensor) for value in found.values())):
        raise ValueError("a torch file that holds other things than tensors by name")
    return dict(found)
