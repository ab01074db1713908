"""The runs that a study needs: one for each point, and references, whose end states count as exact.

A flow is what determines the exact characteristics: the velocity, the seed of the noise and the time they end. Points
of one flow differ in how it is solved, and in what follows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from flows.config import PipelineConfig, as_tree, build_config
from flows.stages import run_identity, stage_keys
from flows.sweep import Point, run_names
from storage.errors import InputError

REFERENCE_STEPS = 4  # times as many as the largest number of steps among the points


@dataclass(frozen=True, kw_only=True)
class Member:
    """One run of a study, made or not."""

    name: str
    config: PipelineConfig
    source_digest: str  # of the dataset's files
    until: str

    @property
    def keys(self) -> dict[str, str]:
        """The key of each step."""
        return stage_keys(self.config, source=self.source_digest)

    @property
    def identity(self) -> str:
        """What its run is recognised by."""
        return run_identity(self.config, source=self.source_digest)

    @property
    def flow(self) -> tuple[object, ...]:
        """What determines the exact end state of each of its trajectories."""
        spec = self.config.trajectories
        return self.keys["fit_velocity"], self.config.seed, spec.stop, spec.guidance, spec.unlabelled_share


def has_exact_flow(config: PipelineConfig) -> bool:
    """Tell whether the flow map of a configuration's velocity is known in closed form."""
    return config.dataset.kind == "gaussian" and config.velocity.kind == "oracle"


def members_of(study: str, points: Sequence[Point], *, digests: Sequence[str], until: str) -> list[Member]:
    """Give the runs of a study's points, in their order; ``digests`` are of their datasets' files."""
    names = run_names(study, [point.values for point in points])
    return [
        Member(name=name, config=point.config, source_digest=digest, until=until)
        for name, point, digest in zip(names, points, digests, strict=True)
    ]


def references_of(study: str, points: Sequence[Point], members: Sequence[Member]) -> dict[tuple[object, ...], Member]:
    """Give the reference of each flow that several points solve differently and whose map has no closed form.

    Raises:
        InputError: the reference's solver cannot follow a flow to where it stops.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for k, member in enumerate(members):
        groups.setdefault(member.flow, []).append(k)
    solved = {
        flow: group
        for flow, group in groups.items()
        if not has_exact_flow(members[group[0]].config) and len({members[k].keys["integrate"] for k in group}) > 1
    }
    shared = [_shared_values([points[k] for k in group]) if len(solved) > 1 else {} for group in solved.values()]
    names = run_names(f"{study}-reference", shared)
    return {
        flow: Member(
            name=name,
            config=_reference_config([members[k].config for k in group]),
            source_digest=members[group[0]].source_digest,
            until="integrate",
        )
        for name, (flow, group) in zip(names, solved.items(), strict=True)
    }


def _shared_values(points: Sequence[Point]) -> Mapping[str, object]:
    """Give the swept values that all of some points have."""
    first = points[0].values
    return {key: value for key, value in first.items() if all(point.values[key] == value for point in points)}


def _reference_config(configs: Sequence[PipelineConfig]) -> PipelineConfig:
    """Give the second-order solver with many more steps, on the grid of the first point, in double precision."""
    specs = [config.trajectories for config in configs]
    changes = {
        "count": max(spec.count for spec in specs),
        "steps": REFERENCE_STEPS * max(spec.steps for spec in specs),
        "solver": "heun",
        "precision": "float64",
        "codec": "none",
        "save": "endpoints",
    }
    tree = as_tree(configs[0])
    try:
        return build_config(tree | {"trajectories": asdict(specs[0]) | changes})
    except InputError as error:
        raise InputError(f"a study needs a reference by heun, which cannot be: {error}") from error
