"""The page: it holds all it is given, escapes it, and reaches for nothing outside."""

import base64
import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from tasks.evaluation.budget import ErrorBudget
from tasks.evaluation.choices import StorageRow, StorageTable
from tasks.evaluation.distance import Distance
from tasks.evaluation.images import image_grid
from tasks.evaluation.paper import DARK, LIGHT
from tasks.evaluation.report import DistanceRow, Figure, Metric, ReportContent, StepRow, duration, printed, render

NASTY = "<script>alert('x')</script> & \"quoted\""
PNG, DARK_PNG, OTHER_PNG = (
    image_grid(np.full((1, 8, 8), value), limits=(0, 1), theme=theme)
    for value, theme in ((0.2, LIGHT), (0.2, DARK), (0.9, LIGHT))
)

WAY = StorageRow(
    precision="float16",
    codec="zstd",
    save="every-4",
    bytes=1234.4,
    encode=0.5,
    decode=1.25,
    error=2.1e-4,
    w2_change=-3e-6,
    w2_bound=4e-4,
    is_used=False,
)
STORAGE = StorageTable(
    rows=[
        replace(WAY, precision="float32", codec="none", bytes=4000.0, error=0.0, w2_change=0.0, is_used=True),
        WAY,
        replace(WAY, precision="round-1", error=None, w2_change=None, w2_bound=None),
    ],
    trajectories=1024,
    timed_rows=4096,
    raw_bytes=8448,
    points=1000,
    w2=0.75,
    solver_error=0.0123,
    advice="Take the second.",
)
BUDGET = ErrorBudget(
    terms={
        "velocity": Distance(name="budget.velocity", value=4.0, standard_error=0.2, n=500),
        "fit": Distance(name="budget.fit", value=3.5, standard_error=0.1, n=500),
        "bound": Distance(name="budget.bound", value=7.5, standard_error=0.1, n=500),
    },
    measured=Distance(name="w2_excess", value=6.0, standard_error=2.0, n=500),
    law="the target",
    words={"velocity": "against another", "fit": "", "bound": ""},
    advice="Turn it.",
)
CONTENT = ReportContent(
    run="moons",
    title="preset moons",
    created="25 November 2025",
    headline=[Metric(name="W2", description="exact", value=0.04983, standard_error=0.00121, n=2000)],
    distances=[
        DistanceRow(
            name="w2",
            description="exact distance",
            value=0.0512,
            standard_error=0.0011,
            n=2000,
            floor=0.0402,
            floor_standard_error=0.0009,
            ratio=1.274,
        ),
        DistanceRow(name="frechet_pixel", value=4.12e-5, standard_error=3.1e-6),
    ],
    figures=[
        Figure(name="samples", title="Samples", caption="Of the data.", png=PNG, dark_png=DARK_PNG),
        Figure(name="losses", title="Losses", png=OTHER_PNG),
    ],
    budget=BUDGET,
    storage=STORAGE,
    metrics=[Metric(name="memorised_fraction", value=0.00125, standard_error=0.00079, n=4000)],
    steps=[StepRow(name="ingest", status="reused", seconds=1.2, details="8 shards")],
    overheads={"starting Ray": 6.1},
    configuration='[dataset]\nkind = "moons"\n',
    seeds={"evaluation.seed": 41},
    batches={"train_generator": 4096},
    references={"training set": "sha256 9f2c"},
    lineage={"integrate": ("0123456789abcdef", "older-run")},
    versions={"torch": "2.13.0"},
)
BARE = ReportContent(run="bare", title="t.toml", created="today")


class Page(HTMLParser):
    """Collects tags, text, and whether each tag closes."""

    VOID = ("meta", "link", "img", "source", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize("content", [CONTENT, BARE])
def test_every_tag_closes(content: ReportContent) -> None:
    assert Page(render(content)).open == []


def test_it_holds_every_figure_in_both_renderings() -> None:
    page = Page(render(CONTENT))
    shown = [image["src"] for image in page.attributes("img")] + [s["srcset"] for s in page.attributes("source")]
    held = [base64.b64decode((uri or "").removeprefix("data:image/png;base64,")) for uri in shown]
    assert held == [PNG, OTHER_PNG, DARK_PNG]
    assert [image["alt"] for image in page.attributes("img")] == ["Samples", "Losses"]
    assert "Of the data." in page.text


def test_pictures_reserve_their_place_at_half_their_pixels() -> None:
    image = Page(render(CONTENT)).attributes("img")[0]
    assert (image["width"], image["height"]) == ("80", "80")  # 120 pixels and two margins of 20


def test_it_asks_for_nothing_over_the_network_and_runs_no_script() -> None:
    text = render(CONTENT)
    page = Page(text)
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not page.attributes("script")
    links = [a.get(key) for _, a in page.tags for key in ("src", "href", "srcset") if a.get(key)]
    assert links
    assert all((link or "").startswith(("data:", "#")) for link in links)
    assert not re.search(r"@import|url\(", text)
    assert "default-src 'none'" in (page.attributes("meta")[-1]["content"] or "")


def test_its_links_lead_somewhere() -> None:
    page = Page(render(CONTENT))
    places = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {(a["href"] or "")[1:] for a in page.attributes("a")} <= places


def test_markup_in_any_text_is_escaped() -> None:
    distance = DistanceRow(name=NASTY, description=NASTY, value=1.0, floor=1.0, ratio=1.0)
    content = ReportContent(
        run=NASTY,
        title=NASTY,
        created=NASTY,
        headline=[Metric(name=NASTY, description=NASTY, value=1.0)],
        distances=[distance],
        figures=[Figure(name=NASTY, title=NASTY, caption=NASTY, png=PNG)],
        budget=ErrorBudget(
            terms={"fit": Distance(name=NASTY, value=1.0, standard_error=0.0, n=1)},
            measured=Distance(name=NASTY, value=1.0, standard_error=0.0, n=1),
            law=NASTY,
            words={"fit": NASTY},
            advice=NASTY,
        ),
        metrics=[Metric(name=NASTY, description=NASTY, value=1.0)],
        storage=StorageTable(left_out=NASTY),
        steps=[StepRow(name=NASTY, status=NASTY, seconds=1.0, details=NASTY)],
        overheads={NASTY: 1.0},
        configuration=NASTY,
        seeds={NASTY: 1},
        batches={NASTY: 1},
        references={NASTY: NASTY},
        lineage={NASTY: (NASTY, NASTY)},
        versions={NASTY: NASTY},
    )
    text = render(content)
    assert "<script" not in text
    assert Page(text).text.count(NASTY) > 20
    assert html.escape(NASTY) in text.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")


def test_it_prints_what_it_is_given() -> None:
    text = re.sub(r"\s+", " ", Page(render(CONTENT)).text.replace("\u202f", " "))
    for expected in (
        *("moons", "preset moons", "25 November 2025"),
        *("0.0512 ± 0.0011", "0.04020 ± 0.00090", "1.27×", "n = 2,000", "(4.12 ± 0.31) × 10⁻⁵"),
        *("estimating the velocity", "against another", "7.50 ± 0.10", "to the target", "Turn it.", "w2_excess"),
        "0.00125 ± 0.00079",
        *("reused", "1.20 s", "8 shards", "starting Ray 6.10 s"),
        *("evaluation.seed", "41", "4096", "sha256 9f2c", "0123456789ab older-run", "2.13.0", 'kind = "moons"'),
    ):
        assert expected in text


def test_ways_of_storing_stand_in_a_table_and_the_runs_own_is_marked() -> None:
    section = render(CONTENT).split('id="storage"')[1].split("</section>")[0]
    text = re.sub(r"\s+", " ", Page(f"<section {section}</section>").text.replace("\u202f", " "))
    for expected in (
        *("first 1,024 trajectories", "a chunk of 4,096", "the 8,448 bytes", "solver itself of 1.2e-02", "n = 1,000"),
        *("Take the second.", "float32, none, every-4this run 4,000 0.50 1.25 0 0"),
        *("float16, zstd, every-4 1,234 0.50 1.25 2.1e-04 -3.0e-06at most 4.0e-04", "round-1, zstd, every-4 1,234"),
    ):
        assert expected in text
    assert text.count("this run") == 1 + text.count("on this run's")
    assert text.endswith("out of range ")
    assert re.findall(r'class="bar quiet" style="width: ([\d.]+)%', section) == ["70.00", "21.60", "21.60"]


def test_ways_of_storing_that_were_not_measured_are_left_out_with_a_word() -> None:
    text = Page(render(replace(CONTENT, storage=StorageTable(left_out="the velocity is gone")))).text
    assert "Left out: the velocity is gone." in text
    assert "Bytes a trajectory" not in text


def test_what_is_empty_is_left_out() -> None:
    text = Page(render(BARE)).text
    for heading in (
        "Pictures",
        "Distances",
        "Error budget",
        "Other measures",
        "Ways of storing",
        "Steps",
        "Seeds",
        "Configuration",
    ):
        assert heading not in text


def test_distances_without_floors_show_no_axis() -> None:
    text = render(replace(CONTENT, distances=[DistanceRow(name="w2", value=0.0)]))
    assert "Floor" not in text
    assert 'class="axis"' not in text


@pytest.mark.parametrize("ratio", [0.02, 0.9, 1.0, 40.0, 1e5])
def test_marks_stay_on_the_axis(ratio: float) -> None:
    row = DistanceRow(
        name="w2", value=ratio, standard_error=ratio / 2, floor=1.0, floor_standard_error=0.5, ratio=ratio
    )
    text = render(replace(CONTENT, distances=[row], budget=None))
    axis = re.search(r'<div class="axis".*?</div>', text, re.DOTALL)
    assert axis
    places = re.findall(r'class="(\w+)" style="left: ([\d.]+)%(?:; width: ([\d.]+)%)?"', axis[0])
    assert [name for name, _, _ in places] == ["band", "floor", "whisker", "dot"]
    assert all(float(left) >= 0 and float(left) + float(width or 0) <= 100.01 for _, left, width in places)
    by_name = {name: float(left) for name, left, _ in places}
    assert np.sign(by_name["dot"] - by_name["floor"]) == np.sign(ratio - 1)


def test_terms_are_stacked_to_the_bound_and_the_measured_distance_stands_on_the_same_axis() -> None:
    section = render(CONTENT).split('id="budget"')[1].split("</section>")[0]
    places = re.findall(r'class="block (\w+)" style="left: ([\d.]+)%; width: ([\d.]+)%', section)
    assert places == [  # of 8, the longest end with its error
        ("term", "0.00", "50.00"),
        ("term", "50.00", "43.75"),
        ("bound", "0.00", "93.75"),
        ("measured", "0.00", "75.00"),
    ]
    spreads = re.findall(r'class="spread" style="left: ([\d.]+)%; width: ([\d.]+)%', section)
    assert spreads == [("47.50", "5.00"), ("92.50", "2.50"), ("92.50", "2.50"), ("50.00", "50.00")]


def test_the_page_has_the_papers_of_the_plots() -> None:
    text = render(CONTENT)
    assert text.index(f"--paper: {LIGHT.paper}") < text.index(f"--paper: {DARK.paper}")


def test_equal_content_gives_equal_pages() -> None:
    assert render(CONTENT) == render(replace(CONTENT))


def test_a_figure_must_be_a_png_and_knows_its_size() -> None:
    with pytest.raises(ValueError, match="figure 'x' must be a PNG"):
        Figure(name="x", title="", png=b"GIF89a")
    assert Figure(name="x", title="", png=PNG).size == (160, 160)


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (0.0, None, ("0", "", "")),
        (0.0, 0.0, ("0", "0", "")),
        (0.123456, None, ("0.1235", "", "")),
        (12345.6, None, ("12,346", "", "")),
        (0.123456, 0.00214, ("0.1235", "0.0021", "")),
        (0.123456, 0.0996, ("0.12", "0.10", "")),
        (-0.5, 0.01, ("−0.500", "0.010", "")),
        (1234.5, 234.0, ("1,230", "230", "")),
        (12.0, 0.0, ("12", "0", "")),
        (0.0, 0.0003, ("0.0", "3.0", "10⁻⁴")),
        (4.12e-5, 3.1e-6, ("4.12", "0.31", "10⁻⁵")),
        (2.5e7, None, ("2.5", "", "10⁷")),
    ],
)
def test_numbers_print_the_digits_their_errors_justify(
    value: float, error: float | None, expected: tuple[str, str, str]
) -> None:
    assert printed(value, error) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0.00 s"),
        (0.42, "0.42 s"),
        (9.999, "10.0 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (11_220, "3 h 07 min"),
    ],
)
def test_durations_read_as_people_write_them(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
