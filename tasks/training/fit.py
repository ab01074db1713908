"""One worker's training from its newest checkpoint to the published weights, the same for both networks."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

from torch import Tensor, nn

from storage.checkpoints import CheckpointFolder
from storage.journal import Journal
from storage.models import publish_model, read_model
from tasks.specs import OptimiserSpec, TrainingPlace
from tasks.training.checkpoint import restore, to_checkpoint, weights_to_bytes
from tasks.training.group import Group
from tasks.training.loop import Log, TrainingState, begin, train

Batch = TypeVar("Batch")

_CHECKPOINTS = 10  # over a training


def is_published(place: TrainingPlace) -> bool:
    """Tell whether the folder's model was made under this very key."""
    return (place.folder / "spec.json").exists() and read_model(place.folder).spec["key"] == place.key


def resume(model: nn.Module, spec: OptimiserSpec, place: TrainingPlace) -> TrainingState:
    """Give the state of the newest valid checkpoint, or the state before the first step."""
    state = begin(model, spec)
    newest = CheckpointFolder(place.checkpoints).newest()
    if newest is not None:
        restore(state, newest)
    return state


def fit(
    state: TrainingState,
    batches: Iterator[Batch],
    loss: Callable[[Batch], Tensor],
    spec: OptimiserSpec,
    *,
    stream_place: Callable[[], dict[str, int]],
    place: TrainingPlace,
    model_spec: dict[str, Any],
    group: Group,
) -> None:
    """Train to the end; rank 0 alone writes journal, checkpoints and, last, the averaged weights as the model."""
    folder = CheckpointFolder(place.checkpoints)
    with ExitStack() as stack:
        log: Log = _ignore
        checkpoint: Callable[[TrainingState], None] = _ignore
        if group.rank == 0:
            log = stack.enter_context(Journal(place.journal, step=state.step)).append

            def checkpoint(reached: TrainingState) -> None:
                folder.save(to_checkpoint(reached))

        train(
            state,
            batches,
            loss,
            spec,
            average=group.average,
            place=stream_place,
            log=log,
            checkpoint=checkpoint,
            every=max(1, spec.steps // _CHECKPOINTS),
        )
    if group.rank == 0:
        publish_model(
            place.folder, spec={**model_spec, "key": place.key}, weights=weights_to_bytes(state.average.weights)
        )


def _ignore(_: object) -> None:
    """Only rank 0 writes."""
