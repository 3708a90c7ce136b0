"""Read data set files from a zip or a directory; write zips atomically."""

from __future__ import annotations

import os
import unicodedata
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dnnlib.errors import printable
from dnnlib.limits import MAX_MEMBER_BYTES
from dnnlib.util import atomic_write

# File name of a Problem that concerns the zip or directory itself.
WHOLE = "-"

# Files that describe the others: poses, scale of depth maps.
INDEX_FILES = ("dataset.json", "depth.json")

# Further files that a DataError names.
MAX_NAMED = 20

# The same date for every member, so that equal content gives equal zips; the earliest that a zip can store.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


class Problem(NamedTuple):
    """Problem of one file: its name inside the zip or directory (or WHOLE), and the reason."""

    file: str
    reason: str

    def __str__(self) -> str:
        # Both can quote names from the file.
        return printable(f"{self.file}: {self.reason}")


class DataError(ValueError):
    """Invalid data set.

    The message is one line about the first problem; all are in `problems`.

    Args:
        path: zip or directory, or a JSON file about its images.
        problems: at least one.
        check_lists_all: whether dataset_tool.py check shows the other problems; else the message names their files.
    """

    def __init__(self, path: os.PathLike[str] | str, problems: list[Problem], check_lists_all: bool = True):
        # All of them, because pickle calls the class with `args` to pass an error between processes.
        super().__init__(os.fspath(path), problems, check_lists_all)
        self.path = os.fspath(path)
        self.problems = problems
        self._check_lists_all = check_lists_all

    def __str__(self) -> str:
        # One line for the first problem; half a million of them would hide it.
        first, *others = self.problems
        text = printable(first.reason) if first.file == WHOLE else str(first)
        if not others:
            return f"{self.path}: {text}"
        if self._check_lists_all:
            return f"{self.path}: {text} (and {len(others)} more; dataset_tool.py check lists all)"
        names = ", ".join([problem.file for problem in others[:MAX_NAMED]] + ["..."] * (len(others) > MAX_NAMED))
        return f"{self.path}: {text} (and {len(others)} more: {names})"


def data_error(path: os.PathLike[str] | str, file: str, reason: str) -> DataError:
    """Return a DataError with one problem."""
    return DataError(path, [Problem(file, reason)])


class Archive:
    """Read-only view of a zip or a directory.

    Can be pickled and used after a fork: each process opens its own handle.

    Args:
        path: a .zip file or a directory.
    Attributes:
        names: relative paths of all files in normal form (see `normalize_name`), in the order of their stored names,
            without hidden files and __MACOSX. If all are in one folder with an INDEX_FILE, as in zips of a whole
            folder, paths are relative to that folder.
    Raises:
        DataError: missing or damaged zip, paths outside the archive, duplicate names, names that are not UTF-8,
            symbolic links to directories, unreadable directories, members larger than MAX_MEMBER_BYTES.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.is_zip = self.path.is_file()

        # The open zip, and the process that opened it (see `_handle`).
        self._zip: zipfile.ZipFile | None = None
        self._zip_pid = 0

        # List the files.
        if not self.is_zip and not self.path.is_dir():
            raise data_error(self.path, WHOLE, "no such file or directory")
        sizes = self._list_zip() if self.is_zip else self._list_directory()
        self._stored = self._stored_names(sizes)
        self._sizes = {name: sizes[stored] for name, stored in self._stored.items()}
        self.names = list(self._stored)

        # Reject zip bombs by their declared size, before anything is read.
        too_large = [
            Problem(name, f"declares {size} bytes, expected at most {MAX_MEMBER_BYTES}")
            for name, size in self._sizes.items()
            if size > MAX_MEMBER_BYTES
        ]
        if too_large:
            raise DataError(self.path, too_large)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def __getstate__(self) -> dict:
        # File handles cannot be pickled; the process that unpickles opens its own.
        return {**self.__dict__, "_zip": None, "_zip_pid": 0}

    @property
    def stem(self) -> str:
        """Name of the zip or directory without its extension."""
        return self.path.stem if self.is_zip else self.path.resolve().name

    def size(self, name: str) -> int:
        """Return the size of one file in bytes; DataError if it is missing."""
        if name not in self._sizes:
            raise data_error(self.path, name, "no such file")
        return self._sizes[name]

    def read(self, name: str) -> bytes:
        """Return the content of one file; DataError if it is missing or damaged."""
        if name not in self._stored:
            raise data_error(self.path, name, "no such file")
        stored = self._stored[name]
        try:
            return self._handle().read(stored) if self.is_zip else (self.path / stored).read_bytes()
        except Exception as error:
            # BadZipFile, zlib.error, NotImplementedError (compression method), ... have no common base class.
            raise data_error(self.path, name, f"cannot be read ({error})") from error

    def decode(self, name: str, decode: Callable[[bytes], Any]) -> Any:
        """Read a file and return decode(content); its ValueError becomes a DataError that names the file."""
        content = self.read(name)
        try:
            return decode(content)
        except ValueError as error:
            raise data_error(self.path, name, str(error)) from error

    def _handle(self) -> zipfile.ZipFile:
        # After a fork, parent and child would share one file position: the child opens its own handle.
        if self._zip is None or self._zip_pid != os.getpid():
            self._zip = zipfile.ZipFile(self.path)
            self._zip_pid = os.getpid()
        return self._zip

    def _stored_names(self, stored_names: Iterable[str]) -> dict[str, str]:
        """Return the stored names by those in normal form."""
        names: dict[str, str] = {}
        for stored in sorted(stored_names):
            name = normalize_name(stored)
            if not _is_hidden(name) and names.setdefault(name, stored) != stored:
                raise data_error(self.path, name, "two files have this name, but for the form of accents or slashes")

        # Names in dataset.json do not have the folder that it is in.
        folder = _index_folder(names)
        return {name.removeprefix(folder): stored for name, stored in names.items()}

    def _list_zip(self) -> dict[str, int]:
        """Return declared sizes by name."""
        try:
            members = [member for member in self._handle().infolist() if not member.is_dir()]
        except Exception as error:
            # A damaged zip directory also raises UnicodeDecodeError, IndexError, ...
            raise data_error(self.path, WHOLE, f"not a complete zip ({error})") from error

        # Nothing is extracted here, but such a zip could overwrite files of a user who extracts it.
        outside = [member.filename for member in members if _is_outside(member.filename)]
        if outside:
            raise DataError(self.path, [Problem(name, "path outside the archive") for name in outside])

        # zipfile reads only the last of several members with one name, so the other's pixels would be ignored.
        sizes: dict[str, int] = {}
        for member in members:
            if member.filename in sizes:
                raise data_error(self.path, member.filename, "is in the zip twice")
            sizes[member.filename] = member.file_size
        return sizes

    def _list_directory(self) -> dict[str, int]:
        """Return file sizes by name."""
        # Hidden files are listed too, and left out by the caller.
        sizes: dict[str, int] = {}
        for directory, subdirectories, files in os.walk(self.path, onerror=self._raise_unreadable):
            # os.walk skips linked directories silently; following them could loop.
            for subdirectory in subdirectories:
                path = Path(directory, subdirectory)
                if path.is_symlink():
                    reason = "symbolic link to a directory; links are not followed, copy the directory here"
                    raise data_error(self.path, self._relative_name(path), reason)

            # Links to files are read like files.
            for file in files:
                path = Path(directory, file)
                name = self._relative_name(path)
                if not path.is_file():
                    raise data_error(self.path, name, "not a regular file, or a broken link")
                sizes[name] = path.stat().st_size
        return sizes

    def _relative_name(self, path: Path) -> str:
        """Return the path inside the directory; DataError if it is not UTF-8 and so cannot be printed or zipped."""
        name = path.relative_to(self.path).as_posix()

        # Python keeps such bytes of a file name as lone surrogates, which cannot be encoded again.
        printable = os.fsencode(name).decode("utf-8", "backslashreplace")
        if printable != name:
            raise data_error(self.path, printable, "the file name is not UTF-8; rename the file")
        return name

    def _raise_unreadable(self, error: OSError) -> None:
        name = self._relative_name(Path(error.filename))
        raise data_error(self.path, name, f"cannot be read ({error.strerror})") from error


def normalize_name(name: str) -> str:
    """Return a relative path in normal form, in which names of files are compared.

    Unicode form NFC, as file systems differ in how they encode accents; / between folders, also for the backslashes of
    Windows; no ./ and no //.
    """
    return unicodedata.normalize("NFC", str(PurePosixPath(name.replace("\\", "/"))))


def _index_folder(names: Collection[str]) -> str:
    """Return the folder, with /, that all files are in if it holds one of INDEX_FILES; else ""."""
    folders = {name.split("/")[0] + "/" for name in names}
    folder = min(folders, default="")
    return folder if len(folders) == 1 and any(folder + file in names for file in INDEX_FILES) else ""


def _is_hidden(name: str) -> bool:
    # macOS adds .DS_Store to directories, and __MACOSX with a shadow of every file to zips.
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _is_outside(name: str) -> bool:
    """Return whether a zip member's name is absolute, starts with a drive, or contains '..'."""
    # Zips written on Windows may separate directories by backslashes.
    parts = name.replace("\\", "/").split("/")
    has_drive = len(parts[0]) == 2 and parts[0][1] == ":"
    return parts[0] == "" or ".." in parts or has_drive


@contextmanager
def write_archive(path: str | os.PathLike[str]) -> Iterator[Callable[[str, bytes | str], None]]:
    """Write a zip, which gets its name only if the `with` block ends without an error.

    The block gets a function that appends a member: add(name, content). Members are streamed to a temporary file beside
    the final one, so memory does not grow with their number.

    Args:
        path: zip to write; missing directories are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)

    # Uncompressed: PNG and JPEG do not shrink further, and reading is faster.
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        yield lambda name, content: archive.writestr(zipfile.ZipInfo(name, ZIP_TIME), content)
