"""Files that a command writes: none is replaced without --overwrite, and all are listed at the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dnnlib.errors import ConfigError
from dnnlib.util import atomic_write

# Files that are listed one by one.
MAX_LISTED = 20


class Outputs:
    """Names of the files that a command writes.

    Args:
        overwrite: files that exist may be replaced.
    """

    def __init__(self, overwrite: bool = False):
        self.overwrite = overwrite
        # In order, by name as the system compares names: on Windows, capitals are small letters.
        self._paths: dict[str, Path] = {}

    def claim(self, *paths: str | os.PathLike[str]) -> None:
        """Announce files before the work that makes them.

        Raises:
            ConfigError: some exist and may not be replaced, or two of them have the same name.
        """
        # Two inputs of the same name would replace each other's files within one call.
        wanted = [Path(path) for path in paths]
        names: set[str] = set()
        for path in wanted:
            name = os.path.normcase(path)
            if name in self._paths or name in names:
                problem = "would be written twice, as inputs have the same name"
                raise ConfigError(str(path), problem=problem, hint="rename one")
            names.add(name)

        # A link to nowhere would be replaced too.
        existing = [path for path in wanted if os.path.lexists(path)]
        if existing and not self.overwrite:
            more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
            hint = "choose another place, or add `outputs` to replace what is there"
            raise ConfigError(str(existing[0]), problem=f"exists already{more}", hint=hint)
        self.add(*wanted)

    def add(self, *paths: str | os.PathLike[str]) -> None:
        """Announce files that are appended to, or that keep their content; they are only listed."""
        self._paths.update((os.path.normcase(Path(path)), Path(path)) for path in paths)

    def claim_small(self, path: str | os.PathLike[str], content: bytes) -> Callable[[], None]:
        """Announce a small file, which may exist with this very content: other commands may have made the same.

        Returns:
            Function that writes it, unless it exists with this content; it raises OSError if that fails.
        Raises:
            ConfigError: it exists with other content and may not be replaced, or was announced before.
        """
        path = Path(path)
        if os.path.normcase(path) not in self._paths and path.is_file() and path.read_bytes() == content:
            self.add(path)
            return lambda: None
        self.claim(path)

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                file.write(content)

        return write

    def lines(self) -> list[str]:
        """Return the list of files, shortened if it is long."""
        paths = list(self._paths.values())
        listed = [f"Wrote {path}" for path in paths[:MAX_LISTED]]
        if len(paths) > MAX_LISTED:
            listed.append(f"Wrote {len(paths) - MAX_LISTED} more files, the last is {paths[-1]}")
        return listed
