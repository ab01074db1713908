"""The commit protocol on an object store: attempts that die, run twice or at once, and requests that fail."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import zarr
from obstore.store import from_url
from zarr.storage import ObjectStore

from storage.errors import CommitConflictError, DamagedError, IncompleteError, PlanConflictError
from storage.remote import RemoteError, RemotePath
from storage.specs import TrajectoryPlan
from storage.trajectories import TrajectoryStore
from tests.storage import stores
from tests.storage.bucket import (
    BUSY,
    CUT,
    FAILED,
    LOST,
    LOST_IN_500,
    TIMEOUT_SECONDS,
    TORN,
    Fault,
    Proxy,
    contents,
    deaths,
    environment,
    faults,
    hasten,
    interrupted,
    once_each,
    slow,
    spoil,
)
from tests.storage.stores import CONDITIONAL, PLAN, labels, plan_of, values, write

pytestmark = pytest.mark.slow


def build(folder: RemotePath, *, rows: int = 4, plan: TrajectoryPlan = CONDITIONAL) -> TrajectoryStore:
    """Do what the integrate step does: lay out, write what is missing, seal."""
    store = TrajectoryStore.create(folder / "trajectories.zarr", plan, rows=rows)
    for chunk in store.ledger.missing(store.grid(rows).count):
        write(store, chunk)
    store.seal(rows=rows)
    return store


def place(store: TrajectoryStore) -> RemotePath:
    assert isinstance(store.path, RemotePath)
    return store.path


def x_file(store: TrajectoryStore, chunk: int) -> RemotePath:
    return place(store) / f"x/c/{chunk}/0/0"


@pytest.mark.parametrize("plan", [PLAN, plan_of(codec="zstd"), CONDITIONAL], ids=["none", "zstd", "label"])
def test_a_store_has_the_bytes_that_it_has_on_a_disk(plan: TrajectoryPlan, folder: RemotePath, tmp_path: str) -> None:
    there = build(folder, rows=10, plan=plan)
    here = stores.filled(tmp_path, rows=10, plan=plan)  # type: ignore[arg-type]
    on_disk = {name: content for name, (_, content) in stores.snapshot(here.path).items()}  # type: ignore[arg-type]
    assert contents(place(there)) == on_disk
    assert there.ledger.manifest() == here.ledger.manifest()
    again = TrajectoryStore.open(there.path)
    assert np.array_equal(again.read_rows(0, 10), here.read_rows(0, 10))
    assert again.verify(rows=10) == here.verify(rows=10)
    assert again.sweep() == 0


def test_a_death_before_any_request_leaves_what_a_second_attempt_makes_whole(memory: RemotePath) -> None:
    folder = memory
    undisturbed = build(folder / "reference")
    reference = contents(place(undisturbed))
    seen: set[tuple[tuple[int, ...], bool] | None] = set()

    def check(k: int) -> None:
        path = folder / str(k) / "trajectories.zarr"
        try:
            dead = TrajectoryStore.open(path)
            found = dead.verify(rows=4)
            assert found.bad == ()  # whatever has a record is whole
            assert dead.ledger.manifest() in (None, undisturbed.ledger.manifest())
            seen.add((found.missing, dead.ledger.manifest() is None))
        except IncompleteError:
            seen.add(None)
        assert build(folder / str(k)).verify(rows=4).missing == ()
        assert contents(path) == reference

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            check(k - 1)
        return lambda: build(folder / str(k))

    assert deaths(act) > 25
    assert seen == {None, ((0,), True), ((), True)}


def test_a_death_before_any_request_of_growth_and_retraction_loses_nothing(memory: RemotePath) -> None:
    folder = memory

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            store = TrajectoryStore.open(folder / str(k - 1) / "trajectories.zarr")
            manifest = store.ledger.manifest()
            assert manifest is not None
            assert manifest.rows in (4, 8)
            assert store.rows >= manifest.rows
            found = store.verify(rows=manifest.rows)
            assert (found.bad, found.missing) in (((), ()), ((), (0,)))
            assert np.array_equal(build(folder / str(k - 1), rows=8, plan=PLAN).read_rows(0, 8), both)
        store = build(folder / str(k), plan=PLAN)

        def grow_and_retract() -> None:
            build(folder / str(k), rows=8, plan=PLAN)
            store.retract(0)

        return grow_and_retract

    both = np.concatenate([values(PLAN, 0), values(PLAN, 1)])
    assert deaths(act) > 15


def test_a_death_before_any_request_of_a_write_leaves_nothing_that_a_second_attempt_minds(folder: RemotePath) -> None:
    store = TrajectoryStore.create(folder / "trajectories.zarr", PLAN, rows=40)

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            assert store.verify(rows=40).bad == ()
            write(store, k - 1)
            assert store.read_chunk(k - 1).tobytes() == values(PLAN, k - 1).tobytes()
        return lambda: write(store, k)

    assert deaths(act) == 4


def test_a_second_attempt_before_any_request_of_the_first_commits_one_chunk(memory: RemotePath) -> None:
    folder, k, requests = memory, 0, 0
    while k <= requests:
        k += 1
        store = TrajectoryStore.create(folder / str(k) / "trajectories.zarr", CONDITIONAL, rows=4)
        rival = TrajectoryStore.open(store.path)
        with interrupted(k, lambda rival=rival: write(rival, 0)) as client:  # type: ignore[misc]
            write(store, 0)
        requests = client.requests
        assert store.verify(rows=4).bad == store.verify(rows=4).missing == ()
    assert k > 5


def test_many_writers_at_once_all_succeed(folder: RemotePath) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda rows: build(folder, rows=rows), (6, 8, 7, 8)))
    store = made[0]
    assert store.verify(rows=8).bad == store.verify(rows=8).missing == ()
    assert np.array_equal(store.read_rows(0, 6), np.concatenate([values(PLAN, k) for k in range(2)])[:6])
    assert store.read_labels(1).tolist() == labels(CONDITIONAL, 1).tolist()


def test_of_many_creators_exactly_one_wins(folder: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch, timeout=30)  # one whose answer is late asks again, and hears that the object is there
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda k: (folder / "file").create(b"%d" % k), range(8)))
    assert won.count(True) == 1
    assert (folder / "file").read_bytes() == b"%d" % won.index(True)


def test_other_values_and_other_plans_are_refused_and_touch_nothing(folder: RemotePath) -> None:
    store = build(folder, plan=PLAN)
    before = contents(folder)
    with pytest.raises(CommitConflictError, match="chunk 0"):
        store.write_chunk(0, values(PLAN, 1))
    with pytest.raises(PlanConflictError, match="seed = 7, asked for 8"):
        build(folder, plan=plan_of(seed=8))
    assert contents(folder) == before


@pytest.mark.parametrize("fault", [FAILED, BUSY, CUT, LOST, LOST_IN_500], ids=["500", "503", "cut", "lost", "lost-500"])
def test_a_store_is_made_though_every_request_fails_once(fault: Fault, folder: RemotePath, proxy: Proxy) -> None:
    proxy.script = once_each(fault)
    store = build(folder, plan=PLAN)
    proxy.script = faults()
    assert np.array_equal(store.read_chunk(0), values(PLAN, 0))
    assert store.verify(rows=4).bad == store.verify(rows=4).missing == ()


@pytest.mark.parametrize(
    "method", ["PUT /bucket/{}/trajectories.ledger/commits", "PUT /bucket/{}/trajectories.zarr/x/c", "GET", "POST"]
)
def test_an_answer_that_comes_too_late_is_asked_for_again(method: str, folder: RemotePath, proxy: Proxy) -> None:
    late, fates = method.format(folder.key), faults(slow(1.3 * TIMEOUT_SECONDS))
    proxy.script = lambda request: fates(request) if request.startswith(late) else Fault(is_served=True)
    store = build(folder)
    store.retract(0)
    assert build(folder).verify(rows=4).missing == ()
    assert fates("") == Fault(is_served=True)  # the late one came


def test_a_torn_answer_is_read_to_its_end(folder: RemotePath, proxy: Proxy) -> None:
    store = build(folder, plan=PLAN)
    proxy.script = lambda request: torn(request) if "/x/c/" in request else Fault(is_served=True)
    torn = once_each(TORN)
    assert np.array_equal(store.read_chunk(0), values(PLAN, 0))


def test_a_store_that_stays_away_is_a_world_s_error_and_the_same_command_goes_on(
    folder: RemotePath, proxy: Proxy
) -> None:
    store = TrajectoryStore.create(folder / "trajectories.zarr", PLAN, rows=4)
    proxy.script = faults(then=FAILED)
    with pytest.raises(RemoteError, match=r"^s3://bucket/.*commits/00000000.json: cannot look at it \(status 500"):
        write(store, 0)
    proxy.script = faults()
    assert build(folder, plan=PLAN).verify(rows=4).missing == ()


def test_what_is_damaged_or_gone_is_found_and_mended_to_the_same_bytes(folder: RemotePath) -> None:
    store = build(folder, rows=16)
    before = contents(place(store))
    spoil(x_file(store, 0))
    (place(store) / "label/c/1").unlink()
    (folder / "trajectories.ledger/commits/00000002.json").unlink()
    (folder / "trajectories.ledger/commits/00000003.json").write(b"{")
    found = store.verify(rows=16)
    assert (found.chunks, found.bad, found.missing) == (4, (0, 1, 3), (2,))
    assert store.verify(rows=16, is_quick=True).bad == (1, 3)
    with pytest.raises(DamagedError, match=r"chunk 0 .* is damaged"):
        store.read_chunk(0)
    with pytest.raises(DamagedError, match=r"chunk 1 .* has lost its bytes"):
        store.read_labels(1)
    for chunk in found.bad:
        store.retract(chunk)
    assert contents(place(build(folder, rows=16))) == before


def test_growth_keeps_every_chunk(folder: RemotePath, proxy: Proxy) -> None:
    first = build(folder, rows=6)
    before = contents(folder)
    proxy.log.clear()
    grown = build(folder, rows=12)
    asked = list(proxy.log)
    after = contents(folder)
    assert [name for name in before if after[name] != before[name]] == [
        "trajectories.ledger/digests.json",
        "trajectories.ledger/manifest.json",
        "trajectories.zarr/label/zarr.json",
        "trajectories.zarr/x/zarr.json",
    ]
    assert not {f"GET /bucket/{folder.key}/trajectories.ledger/commits/{k:08d}.json" for k in (0, 1)} & set(asked)
    assert (first.rows, grown.rows) == (6, 12)


def test_any_reader_opens_a_finished_store(folder: RemotePath, proxy: Proxy) -> None:
    build(folder, rows=10)
    options = {key.lower(): value for key, value in environment(proxy).items() if key != "AWS_ALLOW_HTTP"}
    store = from_url(f"{folder}/trajectories.zarr", config=options, client_options={"allow_http": True})  # type: ignore[call-overload]
    group = zarr.open_group(ObjectStore(store, read_only=True), mode="r")
    assert np.array_equal(np.asarray(group["x"]), np.concatenate([values(PLAN, k) for k in range(3)])[:10])
    assert np.array_equal(np.asarray(group["t"]), PLAN.times)
    assert group.attrs["charflow"]


def test_records_are_read_many_at_once(folder: RemotePath, proxy: Proxy) -> None:
    store = TrajectoryStore.create(folder / "trajectories.zarr", PLAN, rows=4)
    commit = write(store, 0)
    for chunk in range(1, 64):
        store.ledger.publish(replace(commit, chunk=chunk))
    proxy.script = faults(then=slow(0.1))
    proxy.most_at_once = 0
    assert [found.chunk for found in store.ledger.read_many(range(64))] == list(range(64))
    assert proxy.most_at_once >= 8
