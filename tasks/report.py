"""What was measured becomes pictures and a page: the part of the evaluate step that a person looks at."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from storage.journal import read_journal
from storage.trajectories import Floats
from tasks.evaluation import plots
from tasks.evaluation.comparison import Measured
from tasks.evaluation.distance import Distance
from tasks.evaluation.report import DistanceRow, Figure, Metric, ReportContent, StepRow
from tasks.sample import image_shape
from tasks.specs import ReportFacts

SHOWN_POINTS = 4000
SHOWN_PATHS = 200
PROJECTIONS = 256  # directions of the sliced distance
SINKHORN_POINTS = 500  # its rounds are many, each quadratic in the points
_SHOWN_STRIPS = 6


def draw_figures(
    *, data: Floats, samples: Floats, states: Floats, times: Floats, journals: Mapping[str, Path]
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
    figures: Sequence[Figure],
    references: Mapping[str, str],
    seconds: float,
) -> ReportContent:
    """Gather the page's content; ``seconds`` are those of the evaluation so far."""
    rows = [
        DistanceRow(
            name=m.distance.name,
            description=_ABOUT[m.distance.name],
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
        headline=[_metric(measured[0].ratio), _metric(measured[0].distance), *[_metric(other) for other in others]],
        distances=rows,
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
    "memorised_fraction": "samples whose nearest training point is nearer than a third of the second; by chance 3^-d",
    "budget.fit": "one-step map against the solver's end states, root mean square",
}


def _metric(found: Distance) -> Metric:
    return Metric(
        name=found.name,
        description=_ABOUT[found.name],
        value=found.value,
        standard_error=found.standard_error,
        n=found.n,
    )


def _figure(name: str, title: str, draw: Callable[[plots.Theme], bytes]) -> Figure:
    return Figure(name=name, title=title, png=draw(plots.LIGHT), dark_png=draw(plots.DARK))
