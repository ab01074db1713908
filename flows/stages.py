"""The steps of the road and their content addresses: which part of a configuration each one depends on."""

from dataclasses import asdict

from flows.config import PipelineConfig
from storage.fingerprint import fingerprint, stage_key
from storage.specs import SCHEMA_VERSION
from tasks.specs import SYNTHETIC_KINDS

STEPS = ("ingest", "fit_velocity", "integrate", "train_generator", "evaluate")


def stage_keys(config: PipelineConfig, *, source: str = "") -> dict[str, str]:
    """Give the key of each step: what it was asked for, chained with the keys of what it reads.

    The count of trajectories is no part of the trajectories' key, so that a store can grow in place; the generator's
    key has it. Nothing of ``compute`` is in any key.

    Args:
        config: the configuration.
        source: digest of the dataset's files, so that changed data re-use nothing; empty for data that no file holds.
    """
    is_drawn = config.dataset.kind in SYNTHETIC_KINDS
    data = {"dataset": asdict(config.dataset), "seed": config.seed if is_drawn else None}
    ingest = _key("ingest", data | ({"source": source} if source else {}))
    velocity = _key("fit_velocity", _velocity_request(config), ingest)
    trajectories = {key: value for key, value in asdict(config.trajectories).items() if key != "count"}
    integrate = _key("integrate", {"trajectories": trajectories, "seed": config.seed}, velocity)
    generator = _key(
        "train_generator",
        {"generator": asdict(config.generator), "seed": config.seed, "count": config.trajectories.count},
        integrate,
    )
    evaluate = _key("evaluate", {"evaluation": asdict(config.evaluation)}, generator, ingest)
    return dict(zip(STEPS, (ingest, velocity, integrate, generator, evaluate), strict=True))


def run_identity(config: PipelineConfig, *, source: str = "") -> str:
    """Give the fingerprint by which a run recognises its configuration; growth and ``compute`` do not change it."""
    one = config.trajectories.__class__(**(asdict(config.trajectories) | {"count": 1}))
    return fingerprint(stage_keys(config.model_copy(update={"trajectories": one}), source=source))


def _velocity_request(config: PipelineConfig) -> dict[str, object]:
    request: dict[str, object] = {"interpolant": config.interpolant.kind}
    if config.velocity.kind == "oracle":
        return request | {"velocity": "oracle"}
    if config.velocity.kind == "kernel":
        kernel = {key: getattr(config.velocity, key) for key in ("kind", "bandwidth", "conditional")}
        return request | {"velocity": kernel, "seed": config.seed}
    return request | {
        "velocity": asdict(config.velocity),
        "stop": config.trajectories.stop,
        "seed": config.seed,
    }


def _key(step: str, request: dict[str, object], *inputs: str) -> str:
    return stage_key(step, request={"version": SCHEMA_VERSION, **request}, inputs=inputs)
