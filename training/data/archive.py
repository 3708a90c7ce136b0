"""Files of a data set, read from a zip or a folder alike, and zips written whole or not at all."""

from __future__ import annotations

import os
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from dnnlib.util import atomic_write

MAX_MEMBER_BYTES = 1 << 28  # declared size; far above any picture, room for the poses of half a million
WHOLE = "-"  # in the place of a file's name: the zip or folder itself
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same for every member, so that equal content gives equal zips


class Problem(NamedTuple):
    """One fault of a data set: the file's name inside its zip or folder (or WHOLE), and what is wrong with it."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


class DataError(ValueError):
    """A data set that cannot be used; one line that names the file, all faults in `problems`."""

    def __init__(self, path: os.PathLike[str] | str, problems: list[Problem]):
        self.path, self.problems = os.fspath(path), problems
        super().__init__(self.path, problems)

    def __str__(self) -> str:
        more = len(self.problems) - 1
        tail = f" (and {more} more; dataset_tool.py check lists all)" if more else ""
        first = self.problems[0]
        return f"{self.path}: {first.what if first.file == WHOLE else first}{tail}"

    def __reduce__(self):
        return type(self), (self.path, self.problems)  # so that it crosses from a loader's worker


def data_error(path: os.PathLike[str] | str, file: str, what: str) -> DataError:
    """A DataError about one file."""
    return DataError(path, [Problem(file, what)])


class Archive:
    """Read-only view of a zip or a folder.

    Args:
        path: a .zip file or a folder.
    Attributes:
        names: relative names of all files with /, sorted; hidden ones and what macOS adds are left out.
    Raises:
        DataError: no such file, damaged zip, names that leave the archive, double names, names that are not UTF-8,
            links to folders, folders that cannot be read, members that declare more than MAX_MEMBER_BYTES.
    Can be pickled, and used after a fork: each process opens its own handle.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        self._owner = 0  # process id that opened the handle
        if self.path.is_dir():
            self.is_zip, sizes = False, self._list_folder()
        elif self.path.is_file():
            self.is_zip, sizes = True, self._list_zip()
        else:
            raise data_error(self.path, WHOLE, "no such file or folder")
        self.names = sorted(name for name in sizes if not _hidden(name))
        too_large = [name for name in self.names if sizes[name] > MAX_MEMBER_BYTES]
        if too_large:
            what = f"declares {sizes[too_large[0]]} bytes, at most {MAX_MEMBER_BYTES} are read"
            raise DataError(self.path, [Problem(name, what) for name in too_large])
        self._known = set(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_zip": None, "_owner": 0}

    @property
    def stem(self) -> str:
        """Name of the zip or folder without its ending."""
        return self.path.stem if self.is_zip else self.path.resolve().name

    def read(self, name: str) -> bytes:
        """Content of one file; DataError if it is not there or damaged."""
        if name not in self._known:
            raise data_error(self.path, name, "no such file")
        try:
            return self._handle().read(name) if self.is_zip else (self.path / name).read_bytes()
        except Exception as error:  # BadZipFile, zlib.error, NotImplementedError ...: damage has no common base class
            raise data_error(self.path, name, f"cannot be read ({error})") from error

    def _handle(self) -> zipfile.ZipFile:
        if self._zip is None or self._owner != os.getpid():
            # after a fork parent and child would share one file position: the child opens its own
            self._zip, self._owner = zipfile.ZipFile(self.path), os.getpid()
        return self._zip

    def _list_zip(self) -> dict[str, int]:
        try:
            members = [m for m in self._handle().infolist() if not m.is_dir()]
        except Exception as error:  # a damaged directory raises UnicodeDecodeError, IndexError, ... too
            raise data_error(self.path, WHOLE, f"not a whole zip ({error})") from error
        outside = [m.filename for m in members if _leaves(m.filename)]
        if outside:
            raise DataError(self.path, [Problem(name, "path outside the archive") for name in outside])
        sizes: dict[str, int] = {}
        for member in members:
            if member.filename in sizes:
                raise data_error(self.path, member.filename, "is in the zip twice")
            sizes[member.filename] = member.file_size
        return sizes

    def _list_folder(self) -> dict[str, int]:
        sizes = {}
        for folder, folders, files in os.walk(self.path, onerror=self._refuse_folder):
            for name in folders:
                if Path(folder, name).is_symlink():
                    where = self._relative(Path(folder, name))
                    raise data_error(self.path, where, "link to a folder; links are not followed, put the folder here")
            for name in files:
                file = Path(folder, name)
                where = self._relative(file)
                if not file.is_file():
                    raise data_error(self.path, where, "not a file, or a broken link")
                sizes[where] = file.stat().st_size
        return sizes

    def _relative(self, path: Path) -> str:
        """Name inside the folder; one that is no UTF-8 could be written neither to a zip nor to a terminal."""
        name = path.relative_to(self.path).as_posix()
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")
        if shown != name:
            raise data_error(self.path, shown, "its name is not UTF-8; rename it")
        return name

    def _refuse_folder(self, error: OSError) -> None:
        where = self._relative(Path(error.filename))
        raise data_error(self.path, where, f"cannot be read ({error.strerror})") from error


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _leaves(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return name.startswith(("/", "\\")) or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":")


class ArchiveWriter:
    """A zip that appears under its name when the `with` block ends without error; members are stored as they are.

    PNG and JPEG do not shrink further, and stored members are read faster. Content is streamed to a file beside the
    final one: memory does not grow with the number of members.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._open = ExitStack()

    def __enter__(self) -> ArchiveWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self._open.enter_context(atomic_write(self.path))
        self._zip = self._open.enter_context(zipfile.ZipFile(file, "w", zipfile.ZIP_STORED))
        return self

    def add(self, name: str, content: bytes | str) -> None:
        """Append one member."""
        self._zip.writestr(zipfile.ZipInfo(name, ZIP_TIME), content)

    def __exit__(self, *raised: Any) -> None:
        self._open.__exit__(*raised)
