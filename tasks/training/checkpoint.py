"""Training states as bytes and back; what a network is made of travels as tensors only, never as code."""

import io

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from storage.checkpoints import Checkpoint
from tasks.training.loop import TrainingState


def to_checkpoint(state: TrainingState) -> Checkpoint:
    """Give a state as a checkpoint."""
    buffer = io.BytesIO()
    torch.save(state.state_dict(), buffer)
    return Checkpoint(step=state.step, payload=buffer.getvalue())


def restore(state: TrainingState, checkpoint: Checkpoint) -> None:
    """Bring a freshly begun state to a checkpoint, on the device that it is on, whichever that was written on."""
    device = next(state.model.parameters()).device
    state.load_state_dict(torch.load(io.BytesIO(checkpoint.payload), map_location=device, weights_only=True))


def weights_to_bytes(weights: dict[str, Tensor]) -> bytes:
    """Give weights as safetensors."""
    return save_safetensors({name: value.cpu().contiguous() for name, value in weights.items()})


def weights_from_bytes(content: bytes) -> dict[str, Tensor]:
    """Give weights from safetensors."""
    return load_safetensors(content)
