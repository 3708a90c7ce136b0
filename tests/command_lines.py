"""Results of commands."""


def lines_of(result):
    """Return the lines that a command printed, without the one that says what is being loaded."""
    return [line for line in result.output.splitlines() if not line.startswith("Loading ")]


def existing(path):
    """Return the path of a file that is no network, for errors that come before it is read."""
    path.write_bytes(b"not read")
    return path
