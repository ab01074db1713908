"""Addresses, what is asked of a store, and what is said when it fails; credentials are in nothing of it."""

import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError

from storage import remote
from storage.catalog import Catalog
from storage.checkpoints import Checkpoint, CheckpointFolder
from storage.checksum import digest, digest_file
from storage.errors import DamagedError, IncompleteError, InputError
from storage.export import write_report
from storage.journal import Journal, read_journal
from storage.models import has_model, publish_model, read_model
from storage.paths import RunPaths, follow, ledger_path, relative, root_location, sources_path
from storage.remote import RemoteDeniedError, RemoteError, RemotePath, remote_path
from storage.sources import open_address, source_digest
from storage.specs import SourceSpec
from tests.storage.bucket import (
    CUT,
    FAILED,
    LOST_IN_500,
    SECRETS,
    SOUND,
    TIMEOUT_SECONDS,
    Fault,
    Proxy,
    contents,
    faults,
    slow,
    spoil,
)

PLACE = RemotePath("s3://bucket", "a/b.zarr")


@pytest.mark.parametrize(
    ("address", "bucket", "key"),
    [
        ("s3://bucket/a/b", "s3://bucket", "a/b"),
        ("s3://bucket/a/b/", "s3://bucket", "a/b"),
        ("gs://my-bucket/runs", "gs://my-bucket", "runs"),
        ("az://container/my runs/v1.2", "az://container", "my runs/v1.2"),
        ("s3://bucket", "s3://bucket", ""),
    ],
)
def test_an_address_is_read_and_written_alike(address: str, bucket: str, key: str) -> None:
    found = remote_path(address)
    assert (found.bucket, found.key) == (bucket, key)
    assert str(found) == address.rstrip("/")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://", "must be s3://BUCKET/PREFIX"),
        ("s3:///runs", "must be s3://BUCKET/PREFIX"),
        ("s3://b/runs", "must be s3://BUCKET/PREFIX"),
        ("gs://bucket/a//b", "must be gs://BUCKET/PREFIX"),
        ("az://container/../b", "must be az://BUCKET/PREFIX"),
        ("s3://bucket/a#b", "must be s3://BUCKET/PREFIX"),
        ("ftp://user:sentinel@host/runs", "must be a folder, or an address that begins with s3://, gs:// or az://"),
        ("https://account.blob.core.windows.net/c?sig=sentinel", "must be a folder, or an address"),
        ("s3://key:sentinel@bucket/runs", "credentials belong into the environment"),
        ("az://container/runs?sig=sentinel", "credentials belong into the environment"),
    ],
)
def test_what_is_no_address_is_bad_input_in_one_line_without_its_secrets(address: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        root_location(address)
    assert "sentinel" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dataset_with_credentials_in_its_address_is_refused_without_repeating_them() -> None:
    with pytest.raises(InputError, match=r"dataset\.path must be an address alone") as caught:
        open_address("s3://key:sentinel@bucket/a.zarr")
    assert "sentinel" not in str(caught.value)


def test_a_place_has_pathlibs_words_and_is_no_local_file() -> None:
    assert (PLACE.name, PLACE.stem, str(PLACE.parent)) == ("b.zarr", "b", "s3://bucket/a")
    assert str(PLACE / "x/c") == "s3://bucket/a/b.zarr/x/c"
    assert str(RemotePath("s3://bucket") / "a") == "s3://bucket/a"
    assert str(ledger_path(PLACE)) == "s3://bucket/a/b.ledger"
    assert {PLACE, RemotePath("s3://bucket", "a/b.zarr")} == {PLACE}
    assert pickle.loads(pickle.dumps(PLACE)) == PLACE != RemotePath("s3://bucket", "a")
    calls: tuple[Callable[[Any], object], ...] = (os.fspath, open, Path)
    for call in calls:
        with pytest.raises(TypeError):
            call(PLACE)


@pytest.mark.parametrize("root", [RemotePath("s3://bucket", "p/runs"), RemotePath("s3://bucket"), Path("/data/runs")])
def test_the_way_from_one_place_to_another_leads_there(root: RemotePath | Path) -> None:
    run, other = RunPaths(root, "one"), RunPaths(root, "two")
    assert relative(run.data, start=run.velocity) == "../data.zarr"
    assert relative(other.data, start=run.velocity) == "../../two/data.zarr"
    for place in (run.data, other.data):
        assert follow(run.velocity, relative(place, start=run.velocity)) == place


def test_objects_are_listed_like_files(folder: RemotePath) -> None:
    for name in ("a/run.json", "b/run.json", "b/more/run.json", "c/other", "step-1.json", "step-1.pt", "top"):
        (folder / name).write(b"x")
    names = {path.name for path in folder.iterdir()}
    assert names == {"a", "b", "c", "step-1.json", "step-1.pt", "top"}
    assert {str(path) for path in folder.glob("*/run.json")} == {f"{folder}/a/run.json", f"{folder}/b/run.json"}
    assert [path.name for path in folder.glob("step-*.json")] == ["step-1.json"]
    assert len(list(folder.files())) == 7
    assert [(folder / name).exists() for name in ("a", "top", "to", "nowhere")] == [True, True, False, False]
    assert [(folder / name).is_file() for name in ("a", "top")] == [False, True]
    assert list((folder / "nowhere").iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, 1000, 1001, 3500])
def test_content_larger_than_a_request_goes_and_comes_in_pieces(
    size: int, folder: RemotePath, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(k % 251 for k in range(size))
    (folder / "bytes").write(content)
    (tmp_path / "file").write_bytes(content)
    (folder / "file").write(tmp_path / "file")
    monkeypatch.setattr(remote, "PIECE_BYTES", 1000)
    proxy.log.clear()
    assert max(map(len, (folder / "bytes").pieces())) <= 1000
    assert len(proxy.log) == (1 if size <= 1000 else 1 + -(-size // 1000))
    assert (folder / "bytes").read_bytes() == (folder / "file").read_bytes() == content
    assert (folder / "bytes").stat().st_size == size
    assert digest_file(folder / "bytes") == digest(content)


def test_deleting_what_is_not_there_is_no_error(folder: RemotePath) -> None:
    (folder / "file").write(b"x")
    (folder / "file").unlink()
    (folder / "file").unlink()
    with pytest.raises(FileNotFoundError, match="file is missing"):
        (folder / "file").read_bytes()


def forms(error: BaseException) -> str:
    """Give all that a person or another process may see of an error."""
    return "".join(traceback.format_exception(error)) + repr(pickle.dumps(error)) + str(error)


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (FAILED, RemoteError, "cannot read it (status 500, InternalError); check the network, and AWS_..."),
        (CUT, RemoteError, "cannot read it (connection lost); check the network"),
        (slow(1.3 * TIMEOUT_SECONDS), RemoteError, "cannot read it (no answer in time)"),
        (Fault(status=301), RemoteError, "cannot read it (the bucket is in another region)"),
        (
            Fault(status=403),
            RemoteDeniedError,
            "may not read it (status 403, InternalError); set AWS_ACCESS_KEY_ID and",
        ),
        (Fault(status=401), RemoteDeniedError, "may not read it (status 401, InternalError)"),
    ],
    ids=["500", "cut", "late", "301", "403", "401"],
)
def test_a_store_that_fails_is_told_of_in_one_line_that_quotes_nothing(
    fault: Fault, kind: type[OSError], words: str, folder: RemotePath, proxy: Proxy
) -> None:
    proxy.script = faults(then=fault)
    with pytest.raises(kind) as caught:
        (folder / "file").read_bytes()
    assert str(caught.value).startswith(f"{folder}/file: {words}")
    assert caught.value.errno is None
    text = forms(caught.value)
    assert not any(secret in text for secret in (*SECRETS.values(), proxy.url, "Signature", "Debug source"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            r"may not list it \(no credentials\); set AWS_ACCESS_KEY",
        ),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
            r"cannot list it \(connection refused\); check the network, and AWS_",
        ),
        ({"AWS_ALLOW_HTTP": ""}, r"cannot list it \(http is not allowed\)"),
    ],
    ids=["no credentials", "nobody", "http"],
)
def test_a_root_that_cannot_be_reached_is_bad_input(
    changes: dict[str, str], words: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1/latest/meta-data")
    for name, value in changes.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(InputError, match=rf"^root s3://bucket/runs: {words}"):
        root_location("s3://bucket/runs")


def test_a_bucket_that_is_not_there_is_bad_input_and_never_looks_like_an_empty_one(proxy: Proxy) -> None:
    with pytest.raises(InputError, match=r"NoSuchBucket\); make the bucket s3://nobody first"):
        root_location("s3://nobody/runs")
    for act in (RemotePath.read_bytes, lambda path: path.create(b"")):
        with pytest.raises(RemoteError, match=r"NoSuchBucket\); make the bucket s3://nobody first"):
            act(RemotePath("s3://nobody", "runs/file"))


def test_azure_without_an_account_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    words = r"may not list it \(no credentials\); set AZURE_STORAGE_ACCOUNT_NAME and"
    with pytest.raises(InputError, match=rf"^root az://container/runs: {words}"):
        root_location("az://container/runs")


def test_google_without_credentials_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client says then, since asking it would go to the network for the machine's own token."""
    asked = "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token?audience=sentinel"

    def refuse(address: str, *, is_hasty: bool = False) -> None:
        raise GenericError(f"Generic GCS error: Error performing token request: Error performing GET {asked} in 1ms")

    monkeypatch.setattr(remote, "open_store", refuse)
    words = r"may not list it \(no credentials\); set GOOGLE_APPLICATION_CREDENTIALS"
    with pytest.raises(InputError, match=rf"^root gs://bucket/runs: {words}") as caught:
        root_location("gs://bucket/runs")
    assert "sentinel" not in forms(caught.value)


def test_at_once_gives_results_in_order_and_the_first_error() -> None:
    assert list(remote.at_once(lambda k: k * k, iter(range(200)), workers=3)) == [k * k for k in range(200)]
    assert list(remote.at_once(str, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(remote.at_once(lambda k: 1 // (k - 7), range(50), workers=3))


def test_runs_are_claimed_listed_and_updated(folder: RemotePath) -> None:
    catalog = Catalog(folder)
    made = [catalog.claim(name, identity=name * 32, config="moons", is_explicit=True) for name in "ab"]
    assert catalog.claim("a", identity="a" * 32, config="moons", is_explicit=True) == made[0]
    (folder / "not a run" / "file").write(b"")
    with catalog.held("a"), catalog.held("a"):  # nothing is locked there
        catalog.update(made[0], status="running")
    assert {record.name: record.status for record in catalog.runs()} == {"a": "running", "b": "new"}
    with pytest.raises(InputError, match=rf"run 'c' is unknown under {folder}; known: a, b"):
        catalog.get("c")


def test_a_record_whose_answer_was_lost_is_still_ours(folder: RemotePath, proxy: Proxy) -> None:
    script = faults(LOST_IN_500)
    proxy.script = lambda request: script(request) if request.startswith("PUT") else SOUND
    record = Catalog(folder).claim("a", identity="1" * 32, config="moons", is_explicit=True)
    assert Catalog(folder).runs() == [record]
    assert [line.split("/")[0] for line in proxy.log].count("PUT ") == 2


def test_models_are_published_read_and_checked(folder: RemotePath) -> None:
    with pytest.raises(IncompleteError):
        read_model(folder)
    publish_model(folder, spec={"kind": "kernel"})
    made = publish_model(folder, spec={"kind": "network"}, weights=b"weights")
    assert has_model(folder)
    assert (read_model(folder).digest, read_model(folder).weights) == (made, b"weights")
    assert set(contents(folder)) == {"model.safetensors", "spec.json"}
    spoil(folder / "model.safetensors", at=2)
    with pytest.raises(DamagedError, match=r"is not what spec\.json promises"):
        read_model(folder)


def test_checkpoints_are_kept_and_damaged_ones_passed_over(folder: RemotePath) -> None:
    checkpoints = CheckpointFolder(folder)
    assert checkpoints.newest() is None
    for step in (1, 2, 3):
        checkpoints.save(Checkpoint(step=step, payload=b"state %d" % step))
    assert checkpoints.steps() == [2, 3]
    spoil(folder / "step-00000003.pt", at=0)
    newest = checkpoints.newest()
    assert newest == Checkpoint(step=2, payload=b"state 2")


def test_a_journal_is_put_now_and_then_and_at_its_end(
    folder: RemotePath, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("storage.journal.time.monotonic", lambda: now[0])
    path = folder / "journal.jsonl"
    assert read_journal(path) == []
    with Journal(path, step=0) as journal:
        for step in range(1, 31):
            now[0] += 0.5
            journal.append({"step": step})
            assert len(read_journal(path)) == step - step % 4
    assert [record["step"] for record in read_journal(path)] == list(range(1, 31))
    with Journal(path, step=10) as journal:
        journal.append({"step": 11})
        journal.flush()
        assert len(read_journal(path)) == 11
    assert [record["step"] for record in read_journal(path)] == list(range(1, 12))
    assert sum(line.startswith("PUT") for line in proxy.log) == 1 + 7 + 1 + 2


def test_reports_and_digests_of_sources_lie_on_the_store(folder: RemotePath, tmp_path: Path) -> None:
    page = write_report(folder / "report", page="<html>", pictures={"a": b"png"}, metrics={"w2": 1.0})
    assert str(page) == f"{folder}/report/index.html"
    assert set(contents(folder / "report")) == {"a.png", "index.html", "metrics.json"}
    (tmp_path / "a.npz").write_bytes(b"123")
    os.utime(tmp_path / "a.npz", (1e9, 1e9))
    spec = SourceSpec(kind="npz", path=str(tmp_path / "a.npz"))
    cached: Callable[[], str] = lambda: source_digest(spec, cache=sources_path(folder))  # noqa: E731
    assert cached() == cached()
