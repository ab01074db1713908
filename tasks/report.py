"""What was measured becomes pictures and a page: the part of the evaluate step that a person looks at."""

from collections.abc import Callable, Mapping, Sequence

from storage.journal import read_journal
from storage.paths import Location
from tasks.distances import PROJECTIONS
from tasks.evaluation import images, plots
from tasks.evaluation.budget import ErrorBudget
from tasks.evaluation.choices import StorageTable
from tasks.evaluation.comparison import Measured
from tasks.evaluation.distance import Distance
from tasks.evaluation.paper import DARK, LIGHT, Theme
from tasks.evaluation.report import DistanceRow, Figure, Metric, ReportContent, StepRow
from tasks.facts import ReportFacts
from tasks.gallery import Shown
from tasks.sample import image_shape

_EVALUATIONS = (
    "All but the data begin at the same noise. A sample takes so many evaluations of the generator, along evenly "
    "spaced times; the solver follows the velocity that the trajectories were simulated with."
)
_NEIGHBOURS = "The nearest of all training images by the distance of pixels: a copy would look like its nearest."


def draw_figures(shown: Shown, *, journals: Mapping[str, Location]) -> list[Figure]:
    """Draw what suits the data: images, points in the plane, or histograms of the first coordinates; then the losses.

    Args:
        shown: what there is to be seen.
        journals: the metrics of each training, where there was one.
    """
    figures = _figures_of_points(shown) if image_shape(shown.data.shape[1:]) is None else _figures_of_images(shown)
    records = {name: read_journal(path) for name, path in journals.items()}
    curves = {
        name: ([r["step"] for r in found], [r["loss"] for r in found]) for name, found in records.items() if found
    }
    if curves:
        figures.append(
            _figure("losses", "Training losses, a coordinate", lambda theme: plots.loss_curves(curves, theme=theme))
        )
    return figures


def _figures_of_images(shown: Shown) -> list[Figure]:
    limits = (float(shown.data.min()), float(shown.data.max()))
    return [
        _figure(
            "samples",
            "Data and samples",
            lambda theme: images.image_grid_pair(shown.data, shown.samples, theme=theme),
        ),
        _figure(
            "evaluations",
            "More evaluations a sample, and the solver",
            lambda theme: images.image_rows(shown.evaluations, limits=limits, theme=theme),
            caption=_EVALUATIONS,
        ),
        _figure(
            "neighbours",
            "Samples and their nearest training images",
            lambda theme: images.image_rows(shown.neighbours, limits=limits, theme=theme),
            caption=_NEIGHBOURS,
        ),
        _figure(
            "characteristics",
            "From noise to a sample, along stored trajectories",
            lambda theme: images.image_strip(shown.states, shown.times, theme=theme),
        ),
    ]


def _figures_of_points(shown: Shown) -> list[Figure]:
    data, samples = shown.data, shown.samples
    if data.shape[1:] != (2,):
        return [_figure("samples", "Data and samples", lambda theme: plots.marginals(data, samples, theme=theme))]
    return [
        _figure("samples", "Data and samples", lambda theme: plots.scatter_pair(data, samples, theme=theme)),
        _figure(
            "evaluations",
            "More evaluations a sample, and the solver",
            lambda theme: plots.scatter_panels(shown.evaluations, theme=theme),
            caption=_EVALUATIONS,
        ),
        _figure(
            "characteristics",
            "Stored trajectories over the data",
            lambda theme: plots.trajectories_2d(shown.states, data, theme=theme),
        ),
    ]


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
    details: Mapping[str, str],
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
        details: a line about what each step did and stored, by step.
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
        StepRow(
            name=name,
            status="reused" if facts.is_reused[name] else "done",
            seconds=spent,
            details=details.get(name, ""),
        )
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
    "gaussian_w2": "2-Wasserstein distance of the Gaussians fitted to both sides, a lower bound of w2 of the laws",
    "class_balance": "total variation of the classes' shares, samples to data, by a 1-nearest-neighbour classifier (in "
    "pixel space, with its errors); floor: the mean of as many exact draws",
    "class_agreement": "samples to which a 1-nearest-neighbour classifier in pixel space gives the class asked for",
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


def step_details(facts: ReportFacts, sizes: Mapping[str, int]) -> dict[str, str]:
    """Give a line for each step: the bytes that it stored, and how fast trajectories were simulated.

    Args:
        facts: with the seconds of the steps.
        sizes: bytes by step; 0 where nothing but a specification is stored.
    """
    found = {name: printed_bytes(size) for name, size in sizes.items() if size}
    seconds = facts.seconds.get("integrate", 0.0)
    if facts.simulated and seconds > 0:
        speed = f"{facts.simulated:,} trajectories simulated, {facts.simulated / seconds:,.0f} a second"
        found["integrate"] = f"{speed}, {found['integrate']}" if "integrate" in found else speed
    return found


def printed_bytes(size: int) -> str:
    """Give a number of bytes with three digits, as ``13.2 MB``; a MB has a million."""
    power = sum(size >= 999.5 * 1000**k for k in range(4))
    return f"{size / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def _metric(found: Distance, words: Mapping[str, str]) -> Metric:
    return Metric(
        name=found.name,
        description=words[found.name],
        value=found.value,
        standard_error=found.standard_error,
        n=found.n,
    )


def _figure(name: str, title: str, draw: Callable[[Theme], bytes], *, caption: str = "") -> Figure:
    return Figure(name=name, title=title, caption=caption, png=draw(LIGHT), dark_png=draw(DARK))
