"""A place on an object store, with that part of pathlib's vocabulary that storage uses; requests are made here alone.

An address holds no credentials: each process takes them from its own environment, when it first asks a store. What
obstore raises quotes requests and answers whole, so of its words only a few known ones are passed on.
"""

import fnmatch
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from storage.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

SCHEMES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}  # and how the names of their environment variables begin
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
PIECE_BYTES = 16 * 2**20  # of a request's or an answer's body, at most

# A request is given up after ``timeout``, which 16 MiB keep on a line of 3 Mbit/s, and made again where that is safe.
# An outage of half a minute is sat out; a longer one is an error, and the step's own retries may outlast it.
CLIENT = {"connect_timeout": "5s", "timeout": "60s"}
PATIENCE = {"max_retries": 10, "retry_timeout": timedelta(seconds=60), "backoff": {"max_backoff": timedelta(seconds=5)}}
HASTE = {"max_retries": 1, "retry_timeout": timedelta(seconds=5)}  # where a person waits for the first answer

_PARTS_AT_ONCE = 2  # of an upload
AT_ONCE = 64  # requests; a store answers each after tens of milliseconds, however many there are
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_NAME = re.compile(r"[^#%\\\x00-\x1f]+")  # what stores and addresses spell alike
_NO_CREDENTIALS = "no credentials"
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_STATUS = re.compile(r"status code: (\d{3})\b")
_TOKEN = re.compile(r"/latest/(api/token|meta-data)|computeMetadata|metadata/identity")  # asked of a cloud's machine
_WORDS = {  # that obstore or its parts use, and ours
    "TimedOut": "no answer in time",
    "dns error": "unknown host",
    "ConnectionRefused": "connection refused",
    "kind: Connect": "no connection",
    "kind: Body": "connection lost",
    "error sending request": "connection lost",
    "configured region": "the bucket is in another region",
    "Account must be specified": _NO_CREDENTIALS,
    "BadScheme": "http is not allowed",
}


class RemoteError(OSError):
    """An object store did not do what it was asked; the same request may succeed later."""


class RemoteDeniedError(PermissionError):
    """An object store refused, or there are no credentials for it."""


@dataclass(frozen=True)
class Status:
    """What is known of an object without reading it."""

    st_size: int  # bytes; named as in os.stat_result


class RemotePath:
    """An address on an object store, as ``s3://bucket/prefix/name``.

    It has no ``__fspath__``, so that what is made for local files fails loudly. Pickled, it is its address.

    Every method that asks the store raises:
        RemoteError: the store did not answer, or not sensibly; an OSError that trying again may mend.
        RemoteDeniedError: it refused, or there are no credentials; a PermissionError.
    """

    __slots__ = ("bucket", "key")

    def __init__(self, bucket: str, key: str = "") -> None:
        self.bucket = bucket  # its address: s3://bucket
        self.key = key  # inside it, without a slash at either end; empty: the bucket itself

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and (self.bucket, self.key) == (other.bucket, other.key)

    def __hash__(self) -> int:
        return hash((self.bucket, self.key))

    def __reduce__(self) -> tuple[type["RemotePath"], tuple[str, str]]:
        return RemotePath, (self.bucket, self.key)

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """Last part of the key."""
        return posixpath.basename(self.key)

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return posixpath.splitext(self.name)[0]

    @property
    def parent(self) -> "RemotePath":
        """The place above."""
        return RemotePath(self.bucket, posixpath.dirname(self.key))

    def with_suffix(self, suffix: str) -> "RemotePath":
        """Give the address with another suffix."""
        return self.parent / (self.stem + suffix)

    def is_file(self) -> bool:
        """Tell whether an object lies here."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def exists(self) -> bool:
        """Tell whether an object lies here, or any below."""
        return self.is_file() or any(True for _ in self.files())

    def stat(self) -> Status:
        """Give the object's size.

        Raises:
            FileNotFoundError: there is none.
        """
        return Status(self._ask("look at", lambda store: store.head(self.key))["size"])

    def read_bytes(self) -> bytes:
        """Give the object's content.

        Raises:
            FileNotFoundError: there is none.
        """
        pieces = list(self.pieces())
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_text(self) -> str:
        """Give the object's content, UTF-8."""
        return self.read_bytes().decode()

    def pieces(self) -> Iterator[bytes]:
        """Give the object's content in pieces of at most :data:`PIECE_BYTES`, each asked for by itself.

        Raises:
            FileNotFoundError: there is none.
        """
        size, content = self._ask("read", lambda store: _whole_if_small(store.get(self.key)))
        if content is not None:
            yield content
            return
        for start in range(0, size, PIECE_BYTES):
            yield self._ask("read", partial(_piece, key=self.key, start=start, stop=min(start + PIECE_BYTES, size)))

    def write(self, content: bytes | memoryview | Path) -> None:
        """Put an object, replacing what was there, whole or not at all; a local file goes up in bounded memory."""
        self._ask(
            "write", lambda store: store.put(self.key, content, chunk_size=PIECE_BYTES, max_concurrency=_PARTS_AT_ONCE)
        )

    def create(self, content: bytes) -> bool:
        """Put an object unless one is there; tell whether it was put now.

        Where the answer to a creation is lost the client asks again and is told that there is one: its own. So False
        means "look whether it is what you would have put", and nothing more.
        """
        return bool(self._ask("create", lambda store: _created(store, self.key, content), is_repeated=True))

    def versioned(self) -> tuple[bytes, Any]:
        """Give the object's content and a mark of this version of it, for :meth:`update`.

        Raises:
            FileNotFoundError: there is none.
        """
        found: tuple[bytes, Any] = self._ask("read", lambda store: _versioned(store, self.key))
        return found

    def update(self, content: bytes, version: Any) -> bool:
        """Replace the object if it is still of a version; tell whether it was replaced.

        As with a creation, False means "look what is there": an answer that was lost is asked for again.
        """
        return bool(self._ask("update", lambda store: _updated(store, self.key, content, version), is_repeated=True))

    def unlink(self, missing_ok: bool = True) -> None:
        """Delete the object; that there is none is no error, since the client may have had to ask twice."""
        try:
            self._ask("delete", lambda store: store.delete(self.key), is_repeated=True)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def iterdir(self) -> Iterator["RemotePath"]:
        """Give what lies directly below, folders and objects."""
        found = self._ask("list", lambda store: store.list_with_delimiter(self.key or None))
        names = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        return (RemotePath(self.bucket, name) for name in names)

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Give what lies below and fits ``*.name``, or ``*/name`` for objects one folder deeper."""
        first, _, rest = pattern.partition("/")
        found = (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, first))
        if not rest:
            return found
        deeper = [path / rest for path in found]
        return (path for path, there in zip(deeper, at_once(RemotePath.is_file, deeper), strict=True) if there)

    def files(self) -> Iterator["RemotePath"]:
        """Give every object below, a page of the listing at a time."""
        return (RemotePath(self.bucket, each["path"]) for each in self._listed())

    def sizes(self) -> Iterator[int]:
        """Give the bytes of every object below, a page of the listing at a time."""
        return (each["size"] for each in self._listed())

    def _listed(self) -> Iterator[Any]:
        pages = self._ask("list", lambda store: store.list(self.key or None))
        while page := self._ask("list", lambda _: next(pages, None)):
            yield from page

    def require_reachable(self) -> None:
        """Ask for a page of the listing, with little patience.

        Raises:
            InputError: the store cannot be reached or refuses.
        """
        problem = ""
        try:
            self._ask("list", lambda _: next(open_store(self.bucket, is_hasty=True).list(self.key or None), None))
        except OSError as error:
            problem = str(error)
        if problem:
            raise InputError(f"root {problem}")

    def _ask(self, what: str, request: Callable[[Any], Result], *, is_repeated: bool = False) -> Result:
        """Make a request, and once more where its answer is late and the client itself must not repeat it."""
        from obstore.exceptions import BaseError  # not needed for files

        for last in (not is_repeated, True):
            try:
                return request(_opened(self.bucket))
            except (BaseError, FileNotFoundError) as error:
                failure = _translated(error, self, what)
                if last or "TimedOut" not in str(error):
                    break
        raise failure  # not inside the handler, or whatever shows it would show obstore's error, and all it quotes


def is_address(path: str) -> bool:
    """Tell whether a path is an object store's address, like ``s3://bucket/key``."""
    return "://" in path


def holds_credentials(address: str) -> bool:
    """Tell whether an address has a user or a query, as signed ones do."""
    authority, _, path = address.partition("://")[2].partition("/")
    return "@" in authority or "?" in authority + path


def remote_path(address: str) -> RemotePath:
    """Read an address.

    Raises:
        InputError: it is not ``s3://bucket/prefix``, or gs or az alike.
    """
    scheme, _, rest = address.partition("://")
    if scheme not in SCHEMES:
        raise InputError(f"root {scheme}://... must be a folder, or an address that begins with s3://, gs:// or az://")
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.rstrip("/")
    if holds_credentials(address):  # which the message does not repeat
        raise InputError(
            f"root {scheme}://... must be {scheme}://BUCKET/PREFIX alone; credentials belong into the environment"
        )
    is_clean = not prefix or all(part.strip(".") and _NAME.fullmatch(part) for part in prefix.split("/"))
    if not _BUCKET.fullmatch(bucket) or not is_clean:
        raise InputError(f"root {address!r} must be {scheme}://BUCKET/PREFIX, with the name of a bucket and of folders")
    return RemotePath(f"{scheme}://{bucket}", prefix)


def open_store(address: str, *, is_hasty: bool = False) -> Any:
    """Give the obstore store of an address, credentials and endpoint from the environment.

    Args:
        address: with or without a prefix; also such as ``file:///folder``.
        is_hasty: give up soon.

    Raises:
        obstore.exceptions.BaseError: no store has such an address, or the environment lacks what it takes.
    """
    from obstore.store import from_url  # not needed for files

    name = f"{SCHEMES.get(address.partition('://')[0], '')}_ALLOW_HTTP"
    is_allowed = os.environ.get(name, "").lower() in ("1", "true")  # obstore does not look where it is given options
    options: Any = CLIENT | {"allow_http": is_allowed}
    patience: Any = HASTE if is_hasty else PATIENCE
    return from_url(address, client_options=options, retry_config=patience)


def reason(error: BaseException) -> str:
    """Give what went wrong in words that hold no part of a request: obstore quotes addresses and answers whole."""
    text = str(error)
    if _TOKEN.search(text):
        return _NO_CREDENTIALS
    status, code = _STATUS.search(text), _CODE.search(text)
    if status:
        return f"status {status[1]}" + (f", {code[1]}" if code else "")
    return next((ours for theirs, ours in _WORDS.items() if theirs in text), "no sensible answer")


def at_once(function: Callable[[Item], Result], items: Iterable[Item], *, workers: int = AT_ONCE) -> Iterator[Result]:
    """Give a function's results in order, many requests on their way at once, and few results waiting."""
    waiting = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="ask-store") as pool:
        coming = [pool.submit(function, item) for item in islice(waiting, 2 * workers)]
        while coming:
            batch, coming = coming[:workers], coming[workers:]
            for future in batch:
                yield future.result()
            coming += [pool.submit(function, item) for item in islice(waiting, workers)]


@lru_cache(maxsize=64)
def _opened(bucket: str) -> Any:
    return open_store(bucket)


def _whole_if_small(answer: Any) -> tuple[int, bytes | None]:
    size = answer.meta["size"]
    return size, answer.bytes().to_bytes() if size <= PIECE_BYTES else None


def _piece(store: Any, *, key: str, start: int, stop: int) -> bytes:
    return bytes(store.get_range(key, start=start, end=stop))


def _created(store: Any, key: str, content: bytes) -> bool:
    from obstore.exceptions import AlreadyExistsError

    try:
        store.put(key, content, mode="create")
    except AlreadyExistsError:
        return False
    return True


def _versioned(store: Any, key: str) -> tuple[bytes, Any]:
    answer = store.get(key)
    version = {name: value for name in ("e_tag", "version") if (value := answer.meta.get(name)) is not None}
    return answer.bytes().to_bytes(), version


def _updated(store: Any, key: str, content: bytes, version: Any) -> bool:
    from obstore.exceptions import PreconditionError

    try:
        store.put(key, content, mode=version)
    except PreconditionError:
        return False
    return True


def _translated(error: BaseException, path: RemotePath, what: str) -> OSError:
    """Give our error for obstore's: missing, denied, or out of order."""
    why = reason(error)
    if "NoSuchBucket" in why or "ContainerNotFound" in why:
        return RemoteError(f"{path}: cannot {what} it ({why}); make the bucket {path.bucket} first")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{path} is missing")
    scheme = path.bucket.partition("://")[0]
    if why == _NO_CREDENTIALS or re.match(r"status 40[13]\b", why):
        return RemoteDeniedError(
            f"{path}: may not {what} it ({why}); set {_CREDENTIALS[scheme]} in the environment to those of one who may"
        )
    return RemoteError(
        f"{path}: cannot {what} it ({why}); check the network, and {SCHEMES[scheme]}_... in the environment"
    )
