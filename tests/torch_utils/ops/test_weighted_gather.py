"""Weighted sums of table rows: the gradient by the CPU kernel against the reference."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck

from torch_utils.ops import build
from torch_utils.ops import weighted_gather as module
from torch_utils.ops.weighted_gather import weighted_gather

CPU = torch.device("cpu")


@pytest.fixture
def kernel():
    if not build.kernels_ready(CPU, build.CPU_KERNELS):
        pytest.skip("the kernel cannot be built here: see the warning")


def example(table_size=50, channels=7, points=40, neighbors=3, dtype=torch.float32):
    table = torch.randn(table_size, channels, dtype=dtype, requires_grad=True)
    rows = torch.randint(table_size, (points, neighbors), dtype=torch.int32)
    return table, rows, torch.rand(points, neighbors, dtype=dtype)


def gradient(table, rows, weights, dy, impl):
    (result,) = torch.autograd.grad(weighted_gather(table, rows, weights, impl), table, dy)
    return result


def assert_kernel_equals_reference(table, rows, weights):
    dy = torch.randn(len(rows), table.shape[1])
    torch.testing.assert_close(
        weighted_gather(table, rows, weights, "kernel"), weighted_gather(table, rows, weights, "ref"), rtol=0, atol=0
    )
    fast, plain = (gradient(table, rows, weights, dy, impl) for impl in ("kernel", "ref"))
    torch.testing.assert_close(fast, plain, rtol=1e-6, atol=1e-6 * max(1, plain.abs().max().item()))


def test_reference_is_the_weighted_sum_of_rows_with_gradients():
    table, rows, weights = example(6, 3, 5, 2, torch.float64)
    weights.requires_grad_()
    expected = (table[rows.long()] * weights[..., None]).sum(dim=1)
    torch.testing.assert_close(weighted_gather(table, rows, weights), expected)
    assert gradcheck(lambda t, w: weighted_gather(t, rows, w), (table, weights))


@pytest.mark.parametrize("channels", [1, 7, 8, 16, 33])
@pytest.mark.parametrize("points", [0, 1, 2, 63])
def test_kernel_equals_reference_at_odd_sizes(kernel, points, channels):
    assert_kernel_equals_reference(*example(points=points, channels=channels))


def test_kernel_adds_rows_that_occur_many_times(kernel):
    table, rows, weights = example(points=100)
    assert_kernel_equals_reference(table, torch.full_like(rows, 3), weights)
    assert_kernel_equals_reference(table, rows % 2, weights)


def test_kernel_reads_tensors_in_any_layout(kernel):
    table, rows, weights = example()
    dy = torch.randn(7, 40).T
    fast = gradient(table, rows.T.contiguous().T, weights.T.contiguous().T, dy, "kernel")
    torch.testing.assert_close(fast, gradient(table, rows, weights, dy.contiguous(), "ref"))
    ones = torch.autograd.grad(weighted_gather(table, rows, weights, "kernel").sum(), table)[0]
    torch.testing.assert_close(ones, gradient(table, rows, weights, torch.ones(40, 7), "ref"))


def test_gradient_is_the_same_bits_with_any_number_of_threads(kernel):
    # A table of more rows than one thread takes.
    table, rows, weights = example(table_size=20_000, points=9_000)
    dy = torch.randn(len(rows), table.shape[1])
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            results.append(gradient(table, rows, weights, dy, "kernel"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], result) for result in results[1:])


def test_second_derivative_through_the_kernel_equals_the_definition(kernel):
    table, rows, weights = example()

    def second(gathered):
        (first,) = torch.autograd.grad(gathered.square().sum(), table, create_graph=True)
        return torch.autograd.grad(first.pow(3).sum(), table)[0]

    definition = (table[rows.long()] * weights[..., None]).sum(dim=1)
    torch.testing.assert_close(second(weighted_gather(table, rows, weights, "kernel")), second(definition))


@pytest.mark.parametrize("case", ["no gradients", "gradients of weights", "float64", "bfloat16"])
def test_nothing_is_compiled_where_the_reference_runs(case, monkeypatch):
    monkeypatch.setattr(module, "use_kernel", lambda *_: pytest.fail("compiled"))
    dtypes = {"float64": torch.float64, "bfloat16": torch.bfloat16}
    table, rows, weights = example(dtype=dtypes.get(case, torch.float32))
    if case == "gradients of weights":
        weights.requires_grad_()
    with torch.set_grad_enabled(case != "no gradients"):
        assert weighted_gather(table, rows, weights).dtype == table.dtype


def test_without_a_compiler_the_reference_runs_with_one_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "no_compiler"))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(module, "CPU_KERNELS", replace(build.CPU_KERNELS, name="without_compiler"))
    table, rows, weights = example()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = [gradient(table, rows, weights, torch.ones(40, 7), "auto") for _ in range(2)]
    plain = gradient(table, rows, weights, torch.ones(40, 7), "ref")
    assert all(torch.equal(result, plain) for result in results)
    assert ["CPU kernels could not be built" in str(w.message) for w in caught].count(True) == 1


def test_without_ninja_the_reference_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    library = replace(build.CPU_KERNELS, name="without_ninja")
    with pytest.warns(UserWarning, match=r"CPU kernels could not be built .*C\+\+ compiler and ninja"):
        assert not build.kernels_ready(CPU, library)


def test_binding_rejects_tensors_that_the_kernel_cannot_read(kernel):
    _, rows, weights = example()
    dy = torch.zeros(40, 7)
    scatter = torch.ops.pix2pix3d.weighted_scatter
    bad = [(dy.double(), rows, weights), (dy, rows.long(), weights), (dy, rows, weights.double())]
    bad += [(dy[:, ::2], rows, weights), (dy[0], rows, weights), (dy[:9], rows, weights), (dy, rows, weights[:9])]
    for case in bad:
        with pytest.raises(ValueError, match="expected"):
            scatter(*case, 50)
    with pytest.raises(ValueError, match="table_size"):
        scatter(dy, rows, weights, -1)


def test_kernel_writes_no_row_outside_the_table(kernel):
    dy, weights = torch.ones(2, 3), torch.ones(2, 1)
    table = torch.ops.pix2pix3d.weighted_scatter(dy, torch.tensor([[-1], [4]], dtype=torch.int32), weights, 4)
    assert table.count_nonzero() == 0
