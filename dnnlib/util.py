"""Attribute dict, files that are whole or not there, files by path or URL, the console in a file, time in words."""

from __future__ import annotations

import hashlib
import http
import http.client
import os
import secrets
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from tqdm import tqdm

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30  # without a single byte, then the connection counts as broken
ATTEMPTS = 4  # connections for one download; each goes on where the one before it broke


class EasyDict(dict):
    """A dict whose keys are also attributes: `d.x` is `d["x"]`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(name) from None


# --------------------------------------------------------------------------- files that are whole or not there


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file to write and read that gets its name only when the block ends well, and is on the disk then.

    Until then it lies beside under a name of its own; whatever fails leaves nothing, and an older file as it was.
    """
    path = Path(path)
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with part.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        named = error.filename is not None and not str(error.filename).endswith(part.name)
        if error.errno is None or named:  # an error of its own words, or about another file
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # by the name that the caller knows
    except RuntimeError as error:
        cause = error.__context__
        if isinstance(cause, OSError):  # torch.save hides a full disk behind an error of its own
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Let a power cut not undo a new name; where folders cannot be synced (Windows, some networks) do nothing."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_outdir(outdir: Path) -> None:
    """Find out before any work whether files can be written to a folder that need not exist yet; makes nothing.

    Raises:
        OSError: which says what is in the way.
    """
    there = next(path for path in (outdir.absolute(), *outdir.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there}: is a file; expected a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{there}: no permission to write there")


# --------------------------------------------------------------------------- files by URL


def open_url(
    url: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
    progress: bool = True,
) -> BinaryIO:
    """Open a local path, a file:// or an http(s):// URL for reading; what is downloaded stays in a cache.

    Args:
        url: a path is taken as it is, so a Windows drive letter is not a scheme.
        cache_dir: where downloads are kept; default $PIX2PIX3D_CACHE, else ~/.cache/pix2pix3d.
        sha256: hexadecimal digest that the file must have. A cached file without it is fetched anew.
        progress: show a bar while a download takes its time.
    Returns:
        A seekable binary file at its start; the caller closes it.
    Raises:
        OSError: no such file, no connection, an answer other than the file (ConnectionError).
        ValueError: unknown scheme, or another digest.
    A download appears under its name in the cache only when it is complete and its digest is right.
    """
    url = os.fspath(url)
    parts = urllib.parse.urlsplit(url)
    if parts.scheme in ("http", "https"):
        folder = Path(cache_dir) if cache_dir else default_cache_dir()
        path = folder / _cache_name(url)
        if not _is_cached(path, sha256):
            _download(url, path, sha256, progress)
        return path.open("rb")
    if "://" in url and parts.scheme != "file":
        raise ValueError(f"{url}: cannot open {parts.scheme}:// URLs; give a path, file://, http:// or https://")
    path = Path(urllib.request.url2pathname(parts.path) if parts.scheme == "file" else url)
    file = path.open("rb")
    try:
        _check_digest(url, file, sha256)
    except BaseException:
        file.close()
        raise
    return file


def default_cache_dir() -> Path:
    """$PIX2PIX3D_CACHE, else ~/.cache/pix2pix3d."""
    return Path(os.environ.get("PIX2PIX3D_CACHE") or Path.home() / ".cache" / "pix2pix3d")


def _cache_name(url: str) -> str:
    """One name per URL that still shows a person which file it is."""
    last = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rsplit("/", 1)[-1]
    readable = "".join(c if c.isalnum() or c in "._-" else "_" for c in last)[-80:]
    return f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{readable}"


def _digest(file: BinaryIO) -> str:
    """SHA-256 of the whole file, which is left at its start."""
    file.seek(0)
    sha = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        sha.update(chunk)
    file.seek(0)
    return sha.hexdigest()


def _check_digest(url: str, file: BinaryIO, expected: str | None) -> None:
    if expected and (found := _digest(file)) != expected.lower():
        raise ValueError(f"{url}: sha256 is {found}, expected {expected.lower()}; the file is damaged or another one")


def _is_cached(path: Path, sha256: str | None) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return not sha256 or _digest(file) == sha256.lower()


def _download(url: str, path: Path, sha256: str | None, progress: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file, _download_bar(url, progress) as bar:
        _fetch(url, file, bar)
        _check_digest(url, file, sha256)


def _download_bar(url: str, progress: bool) -> tqdm:
    # delay: a file that is there within a second needs no bar
    return tqdm(desc=url, unit="B", unit_scale=True, unit_divisor=1024, delay=1, disable=not progress)


def _fetch(url: str, file: BinaryIO, bar: tqdm) -> None:
    """Write what `url` holds to `file`; where the connection breaks, ask for the rest.

    The rest is asked for under the condition that the file is still the same (If-Range): a server that cannot tell,
    or whose file has changed, sends all of it again.
    """
    same_file, expected = None, None
    for _ in range(ATTEMPTS):
        rest = {"Range": f"bytes={file.tell()}-", "If-Range": same_file} if same_file and file.tell() else {}
        with _connect(url, rest) as response:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                file.seek(0)
                file.truncate()
                bar.reset()
            same_file = response.headers.get("ETag") or response.headers.get("Last-Modified")
            length = response.headers.get("Content-Length")
            expected = None if length is None else file.tell() + int(length)
            bar.total = expected
            whole = True
            try:
                while chunk := response.read(CHUNK_BYTES):
                    file.write(chunk)
                    bar.update(len(chunk))
            except (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException):
                whole = False
            if whole and expected in (None, file.tell()):  # a closed connection reads like an end: count
                return
    size = "an unknown number of" if expected is None else expected
    raise ConnectionError(f"{url}: the connection broke {ATTEMPTS} times, last after {file.tell()} of {size} bytes")


def _connect(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        raise ConnectionError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"{url}: {getattr(error, 'reason', error)}") from None


# --------------------------------------------------------------------------- console and time


class Logger:
    """While the context lasts, what is printed (stdout and stderr) is appended to a file too."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def __enter__(self) -> Logger:
        self._file = self.path.open("a", encoding="utf-8", buffering=1)  # by lines: a killed run keeps its log
        self._console = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (_Tee(stream, self._file) for stream in self._console)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.stdout, sys.stderr = self._console
        self._file.close()


class _Tee:
    """A text stream, as long as it takes anything, that also writes to a file; everything else is the stream's own."""

    def __init__(self, stream: TextIO, file: TextIO):
        self._stream, self._file = stream, file

    def write(self, text: str) -> int:
        if not self._file.closed:  # a log handler may keep this object longer than the context lasts
            self._file.write(text)
        with suppress(OSError):  # its terminal may be gone; the file has it
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def format_time(seconds: float) -> str:
    """Whole seconds in words: "7s", "2m 07s", "1h 02m 07s", "3d 01h 02m"."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02d}h {m:02d}m"
    if hours:
        return f"{h}h {m:02d}m {s:02d}s"
    return f"{m}m {s:02d}s" if minutes else f"{s}s"
