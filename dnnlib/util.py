"""Atomic writes, files by path or URL, console output copied to a log file, formatted durations."""

from __future__ import annotations

import hashlib
import http.client
import os
import secrets
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from tqdm import tqdm

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30  # without receiving a byte

# --------------------------------------------------------------------------- writing


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` if the block succeeds, and is removed if it fails.

    After the block the file is on the disk, not only in the system's cache.

    Raises:
        OSError: cannot be written; names `path`.
    """
    path = Path(path)
    # In the same directory, because renaming is atomic only within a file system.
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        # Keep errors of other files and those without a number, whose message is all they have.
        of_other_file = error.filename is not None and not str(error.filename).endswith(temporary.name)
        if error.errno is None or of_other_file:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except RuntimeError as error:
        # torch.save reports a full disk as RuntimeError.
        cause = error.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Make a rename survive a power failure, on systems that can sync directories."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_outdir(outdir: Path) -> None:
    """Check that files can be written to a directory, which need not exist yet and is not created.

    Raises:
        OSError: a file is in its place, or there is no permission.
    """
    # The nearest directory that exists decides.
    existing = next(path for path in (outdir.absolute(), *outdir.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing}: expected a directory, got a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{existing}: no write permission")


# --------------------------------------------------------------------------- reading by path or URL


def open_url(
    url: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
    progress: bool = True,
) -> BinaryIO:
    """Open a local path, a file:// URL or an http(s):// URL for reading; downloads are cached.

    Args:
        url: path or URL; a Windows drive letter is not a scheme.
        cache_dir: directory of downloads; default see `default_cache_dir`.
        sha256: expected hexadecimal digest. A cached file with another one is downloaded again.
        progress: show a progress bar during downloads longer than a second.
    Returns:
        A seekable binary file at its start, to be closed by the caller.
    Raises:
        OSError: no such file; ConnectionError if the download fails.
        ValueError: unknown scheme, or another digest.
    """
    url = os.fspath(url)
    parts = urllib.parse.urlsplit(url)

    # Downloads.
    if parts.scheme in ("http", "https"):
        path = (Path(cache_dir) if cache_dir else default_cache_dir()) / _cache_name(url)
        if not _is_cached(path, sha256):
            _download(url, path, sha256, progress)
        return path.open("rb")
    if "://" in url and parts.scheme != "file":
        raise ValueError(f"{url}: cannot open {parts.scheme}:// URLs; use a path, file://, http:// or https://")

    # Local files.
    path = Path(urllib.request.url2pathname(parts.path) if parts.scheme == "file" else url)
    file = path.open("rb")
    try:
        _check_digest(url, file, sha256)
    except BaseException:
        file.close()
        raise
    return file


def default_cache_dir() -> Path:
    """Return $PIX2PIX3D_CACHE, or ~/.cache/pix2pix3d if it is not set."""
    return Path(os.environ.get("PIX2PIX3D_CACHE") or Path.home() / ".cache" / "pix2pix3d")


def _cache_name(url: str) -> str:
    """Return a unique file name for the URL, ending in the file name in the URL."""
    # The digest makes it unique, the file name helps people to find it.
    file_name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rsplit("/", 1)[-1]
    readable = "".join(c if c.isalnum() or c in "._-" else "_" for c in file_name)[-80:]
    return f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{readable}"


def _digest(file: BinaryIO) -> str:
    """Return the SHA-256 of the whole file, and rewind it."""
    file.seek(0)
    sha = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        sha.update(chunk)
    file.seek(0)
    return sha.hexdigest()


def _check_digest(url: str, file: BinaryIO, expected: str | None) -> None:
    if expected and _digest(file) != expected.lower():
        raise ValueError(f"{url}: sha256 is {_digest(file)}, expected {expected.lower()}; damaged or another file")


def _is_cached(path: Path, sha256: str | None) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return not sha256 or _digest(file) == sha256.lower()


def _download(url: str, path: Path, sha256: str | None, progress: bool) -> None:
    """Download to `path`; the file appears only once it is complete and its digest is right."""
    path.parent.mkdir(parents=True, exist_ok=True)

    # Connect.
    with _connection_errors(url):
        response = urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)
    length = response.headers.get("Content-Length")
    total = None if length is None else int(length)

    # Receive, with a bar if that takes longer than a second.
    bar = tqdm(desc=url, total=total, unit="B", unit_scale=True, unit_divisor=1024, delay=1, disable=not progress)
    with response, bar, atomic_write(path) as file:
        chunk = None
        while chunk != b"":
            with _connection_errors(url):
                chunk = response.read(CHUNK_BYTES)
            file.write(chunk)
            bar.update(len(chunk))
        # A lost connection can look like the end of the file.
        if total is not None and file.tell() != total:
            raise ConnectionError(f"{url}: connection lost after {file.tell()} of {total} bytes; try again")
        _check_digest(url, file, sha256)


@contextmanager
def _connection_errors(url: str) -> Iterator[None]:
    """Convert errors of a connection to a ConnectionError that names the URL."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise ConnectionError(f"{url}: the server answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"{url}: {getattr(error, 'reason', error)}") from None


# --------------------------------------------------------------------------- console and time


@contextmanager
def log_to_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Copy all output of the block to stdout and stderr into a file, appending to it."""
    # Buffered by lines, so that a killed run keeps its log.
    with (
        open(path, "a", encoding="utf-8", buffering=1) as file,
        redirect_stdout(_Tee(sys.stdout, file)),
        redirect_stderr(_Tee(sys.stderr, file)),
    ):
        yield


class _Tee:
    """Text stream that also writes to a file, and ignores errors of the stream; other attributes are the stream's."""

    def __init__(self, stream: TextIO, file: TextIO):
        self._stream = stream
        self._file = file

    def write(self, text: str) -> int:
        # A logging handler may use this object after the block.
        if not self._file.closed:
            self._file.write(text)
        # The terminal may be closed.
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def format_time(seconds: float) -> str:
    """Format a duration as "7s", "2m 07s", "1h 02m 07s" or "3d 01h 02m"."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02d}h {m:02d}m"
    if hours:
        return f"{h}h {m:02d}m {s:02d}s"
    return f"{m}m {s:02d}s" if minutes else f"{s}s"
