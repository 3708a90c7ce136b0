"""Free memory of the machine and of the container."""

import pytest

from torch_utils.host_memory import free_memory


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ({}, 8_192_000),
        ({"memory.max": "max\n", "memory.current": "5000\n"}, 8_192_000),
        ({"memory.max": "9000\n", "memory.current": "5000\n", "memory.stat": "anon 7\ninactive_file 300\n"}, 4300),
        ({"memory.max": "9000\n", "memory.current": "5000\n"}, 4000),
        ({"memory.max": "9000\n", "memory.current": "9500\n"}, 0),
        ({"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "5000"}, 8_192_000),
        (
            {
                "memory/memory.limit_in_bytes": "9000",
                "memory/memory.usage_in_bytes": "5000",
                "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 40",
            },
            4040,
        ),
    ],
)
def test_free_memory_is_limited_by_the_container(tmp_path, group, expected):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (tmp_path / "groups" / "memory").mkdir(parents=True)
    for name, content in group.items():
        (tmp_path / "groups" / name).write_text(content)
    assert free_memory(tmp_path / "meminfo", tmp_path / "groups") == expected


def test_free_memory_is_unknown_without_linux_statistics(tmp_path):
    assert free_memory(tmp_path / "meminfo", tmp_path / "groups") is None
