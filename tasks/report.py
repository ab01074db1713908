"""What was measured becomes pictures and a page: the part of the evaluate step that a person looks at."""

from collections.abc import Callable, Mapping, Sequence

from storage.journal import read_journal
from storage.paths import Location
from storage.trajectories import Floats
from tasks.evaluation import plots
from tasks.evaluation.budget import ErrorBudget
from tasks.evaluation.choices import StorageTable
from tasks.evaluation.comparison import Measured
from tasks.evaluation.distance import Distance
from tasks.evaluation.paper import DARK, LIGHT, Theme
from tasks.evaluation.report import DistanceRow, Figure, Metric, ReportContent, StepRow
from tasks.sample import image_shape
from tasks.specs import ReportFacts

PROJECTIONS = 256  # directions of the sliced distance
SINKHORN_POINTS = 500  # its rounds are many, each quadratic in the points
_SHOWN_STRIPS = 6
_SHOWN_IMAGES = 64


def shown_points(dim: tuple[int, ...]) -> int:
    """Give how many points of each side are drawn."""
    return _SHOWN_IMAGES if image_shape(dim) else 4000


def shown_paths(dim: tuple[int, ...]) -> int:
    """Give how many trajectories are drawn."""
    return _SHOWN_STRIPS if image_shape(dim) else 200


def draw_figures(
    *, data: Floats, samples: Floats, states: Floats, times: Floats, journals: Mapping[str, Location]
) -> list[Figure]:
    """Draw what suits the data: images, points in the plane, or histograms of the first coordinates; then the losses.

    Args:
        data: ``[n, *dim]`` in data units, as the rest.
        samples: one-step samples, ``[n, *dim]``.
        states: stored trajectories, ``[rows, times, *dim]``.
        times: ``[times]``.
        journals: the metrics of each training, where there was one.
    """
    dim = data.shape[1:]
    figures = []
    if image_shape(dim):
        figures = [
            _figure("samples", "Data and samples", lambda theme: plots.image_grid_pair(data, samples, theme=theme)),
            _figure(
                "characteristics",
                "From noise to a sample, along stored trajectories",
                lambda theme: plots.image_strip(states[:_SHOWN_STRIPS], times, theme=theme),
            ),
        ]
    elif dim == (2,):
        figures = [
            _figure("samples", "Data and samples", lambda theme: plots.scatter_pair(data, samples, theme=theme)),
            _figure(
                "characteristics",
                "Stored trajectories over the data",
                lambda theme: plots.trajectories_2d(states, data, theme=theme),
            ),
        ]
    else:
        figures = [_figure("samples", "Data and samples", lambda theme: plots.marginals(data, samples, theme=theme))]
    records = {name: read_journal(path) for name, path in journals.items()}
    curves = {
        name: ([r["step"] for r in found], [r["loss"] for r in found]) for name, found in records.items() if found
    }
    if curves:
        figures.append(
            _figure("losses", "Training losses, a coordinate", lambda theme: plots.loss_curves(curves, theme=theme))
        )
    return figures


def compose(
    facts: ReportFacts,
    *,
    measured: Sequence[Measured],
    others: Sequence[Distance],
    budget: ErrorBudget,
    velocity: Sequence[Distance],
    about: Mapping[str, str],
    storage: StorageTable,
    figures: Sequence[Figure],
    references: Mapping[str, str],
    seconds: float,
) -> ReportContent:
    """Gather the page's content.

    Args:
        facts: what only the flow knows.
        measured: distances with their floors.
        others: further measures of the samples, shown at the top.
        budget: the error budget.
        velocity: measures of the velocity.
        about: what this run has to say of measures, in place of what is said otherwise.
        storage: the ways of storing its trajectories.
        figures: the pictures.
        references: digests of what was measured against.
        seconds: spent on the evaluation so far.
    """
    words = {**_ABOUT, **about}
    rows = [
        DistanceRow(
            name=m.distance.name,
            description=words[m.distance.name],
            value=m.distance.value,
            standard_error=m.distance.standard_error,
            n=m.distance.n,
            floor=m.floor.value,
            floor_standard_error=m.floor.standard_error,
            ratio=m.ratio.value,
        )
        for m in measured
    ]
    steps = [
        StepRow(name=name, status="reused" if facts.is_reused[name] else "done", seconds=spent)
        for name, spent in facts.seconds.items()
        if name != "evaluate"
    ]
    return ReportContent(
        run=facts.run,
        title=facts.title,
        created=facts.created,
        headline=[_metric(each, words) for each in (measured[0].ratio, measured[0].distance, *others)],
        distances=rows,
        budget=budget,
        metrics=[_metric(each, words) for each in velocity],
        storage=storage,
        figures=figures,
        steps=[*steps, StepRow(name="evaluate", status="done", seconds=seconds)],
        overheads=facts.orchestration,
        configuration=facts.configuration,
        seeds=facts.seeds,
        batches=facts.batches,
        references=references,
        lineage=facts.lineage,
        versions=facts.versions,
    )


_ABOUT = {
    "w2_ratio": "one-step samples against fresh data, over two fresh samples of the data",
    "w2": "exact 2-Wasserstein distance to fresh data",
    "sliced_w2": f"2-Wasserstein distance over {PROJECTIONS} random directions",
    "sinkhorn": "root of the debiased Sinkhorn divergence",
    "frechet_pixel": "Frechet distance of raw pixels, Gaussians fitted to both sides",
    "memorised_fraction": "samples whose nearest training point is nearer than a third of the second; by chance 3^−d",
    "fit_error": "one-step map against the solver's end states from the same noise, root mean square a coordinate, "
    "in standardised units",
    "velocity_floor": "the least that velocity_loss can be: the loss of the exact velocity",
    "velocity_error": "velocity against the exact one, root mean square a coordinate",
    "lipschitz": "largest change of the velocity per change of x, by central differences and the power method at "
    "stored states; its error is the jackknife's over trajectories",
    "lipschitz_mean": "mean of that constant over the same states",
}


def about_velocity(*, pairs: str, stop: float, is_copying: bool) -> dict[str, str]:
    """Give what depends on the run in the words about its velocity.

    Args:
        pairs: what the held-out pairs are made of.
        stop: the end of their times.
        is_copying: the velocity is a kernel of bandwidth 0, whose flow ends in training points.
    """
    found = {"velocity_loss": f"velocity matching a coordinate, in standardised units, on {pairs}, times to {stop:g}"}
    if is_copying:
        note = "; the kernel has bandwidth 0, so the exact end of every trajectory is a training point"
        found["memorised_fraction"] = _ABOUT["memorised_fraction"] + note
    return found


def _metric(found: Distance, words: Mapping[str, str]) -> Metric:
    return Metric(
        name=found.name,
        description=words[found.name],
        value=found.value,
        standard_error=found.standard_error,
        n=found.n,
    )


def _figure(name: str, title: str, draw: Callable[[Theme], bytes]) -> Figure:
    return Figure(name=name, title=title, png=draw(LIGHT), dark_png=draw(DARK))
