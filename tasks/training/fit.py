"""One worker's training from its newest checkpoint to the published weights, the same for both networks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

from torch import Tensor, nn

from storage.checkpoints import CheckpointFolder
from storage.errors import InputError
from storage.journal import Journal
from storage.models import has_model, publish_model, read_model
from tasks.facts import TrainingPlace
from tasks.networks.build import require_fitting
from tasks.specs import GeneratorSpec, NetworkSpec, OptimiserSpec
from tasks.training.backward import backward
from tasks.training.checkpoint import CheckpointWriter, restore, to_checkpoint, weights_to_bytes
from tasks.training.device import ON_CPU, Placement
from tasks.training.dropout import reproducible
from tasks.training.failure import Numbering
from tasks.training.features import require_features
from tasks.training.feed import Feed
from tasks.training.graph import GraphedBackward
from tasks.training.group import Group
from tasks.training.loop import Log, MisfitError, TrainingState, begin, train

Batch = TypeVar("Batch")

_CHECKPOINTS = 10  # over a training


def require_network(section: str, network: NetworkSpec, dim: tuple[int, ...]) -> None:
    """Refuse, before any worker starts, a section's network that cannot take states of shape ``dim``.

    Raises:
        InputError: as :func:`tasks.networks.build.require_fitting` says, with the section's name.
    """
    try:
        require_fitting(network, dim)
    except ValueError as error:
        raise InputError(f"{section}.{error}") from error


def require_generator(spec: GeneratorSpec, dim: tuple[int, ...]) -> None:
    """Refuse, before any worker starts, a generator that cannot be fitted to states of shape ``dim``.

    Raises:
        InputError: its network cannot take them, or its features do not.
    """
    require_network("generator", spec.network, dim)
    if spec.features:
        require_features(spec.features, dim)


def is_published(place: TrainingPlace) -> bool:
    """Tell whether the folder's model was made under this very key."""
    return has_model(place.folder) and read_model(place.folder).spec["key"] == place.key


def resume(
    model: nn.Module, spec: OptimiserSpec, place: TrainingPlace, *, placement: Placement = ON_CPU
) -> TrainingState:
    """Give the state of the newest valid checkpoint, or the state before the first step, on the training's device.

    Raises:
        InputError: that checkpoint was written for another key, or does not fit the model.
    """
    state = begin(placement.take(model), spec, key=place.key)
    folder = CheckpointFolder(place.checkpoints)
    newest = folder.newest()
    if newest is not None:
        try:
            restore(state, newest)
        except MisfitError as error:
            raise InputError(
                f"checkpoint of step {newest.step} in {folder.folder} is another training's: {error}; "
                "remove that folder"
            ) from error
    return state


def fit(
    state: TrainingState,
    batches: Iterator[Batch],
    loss: Callable[[Batch], Tensor],
    spec: OptimiserSpec,
    *,
    stream_place: Callable[[], Mapping[str, Any]],
    numbering: Numbering,
    place: TrainingPlace,
    model_spec: dict[str, Any],
    group: Group,
    seed: int,
    dropout: float = 0.0,
    placement: Placement = ON_CPU,
    is_static: bool = True,
) -> None:
    """Train to the end; rank 0 alone writes journal, checkpoints and, last, the averaged weights as the model.

    Args:
        state: as :func:`resume` gave it.
        batches: this rank's part of each global batch, on the CPU.
        loss: of each row of such a batch, or of a part of one, once it is on the device, ``[batch]``.
        spec: the knobs.
        stream_place: where ``batches`` stands.
        numbering: which rows a batch has.
        place: where the files go.
        model_spec: what the published specification says, beside the key.
        group: who we are.
        seed: of the dropout's masks.
        dropout: of the network.
        placement: how the network is computed.
        is_static: whether the loss is a fixed sequence of the device's own operations; then a GPU replays it.
    """

    def placed_loss(batch: Batch) -> Tensor:
        with placement.autocast():
            return loss(batch)

    def placed_backward(batch: Batch) -> Tensor:
        return backward(placed_loss, batch, rows=spec.micro_batch_size)

    passes = placed_backward
    if is_static and placement.device.type == "cuda":
        passes = GraphedBackward(placed_backward, [p for p in state.model.parameters() if p.requires_grad])
    with ExitStack() as stack:
        feed = stack.enter_context(Feed(batches, stream_place, device=placement.device))
        log: Log = group.tell
        checkpoint: Callable[[TrainingState], None] = _ignore
        if group.rank == 0:
            journal = stack.enter_context(Journal(place.journal, step=state.step))
            writer = stack.enter_context(CheckpointWriter(CheckpointFolder(place.checkpoints)))

            def log(record: Mapping[str, float]) -> None:
                journal.append({**record, **placement.facts()})
                group.tell(record)

            def checkpoint(reached: TrainingState) -> None:
                journal.flush()
                writer.save(to_checkpoint(reached))

        train(
            state,
            feed,
            reproducible(passes, state, seed=seed, group=group, dropout=dropout),
            spec,
            average=group.average,
            place=lambda: feed.place,
            numbering=numbering,
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
