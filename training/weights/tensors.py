"""Tensors of weights files: dense, on the CPU, of a known type, and within their storage."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dnnlib.limits import MAX_NAME, MAX_TENSORS
from torch_utils.safe_pickle import WeightsError

MAX_AXES = 64  # of a tensor, as in PyTorch

# Element types by the class of storage that pickles name.
STORAGES = {
    "torch FloatStorage": torch.float32, "torch DoubleStorage": torch.float64,
    "torch HalfStorage": torch.float16, "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64, "torch IntStorage": torch.int32, "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8, "torch ByteStorage": torch.uint8, "torch BoolStorage": torch.bool,
}  # fmt: skip


def values_from_bytes(data: bytes | memoryview, dtype: torch.dtype) -> Tensor:
    """Copy the raw little-endian values of a storage into a tensor of shape (count,)."""
    if not data:
        return torch.empty(0, dtype=dtype)

    # Copied because `bytes` are read-only and tensors are not. Bytes other than 0 and 1 are not valid bools.
    values = bytearray(data)
    if dtype == torch.bool:
        return torch.frombuffer(values, dtype=torch.uint8).bool()
    return torch.frombuffer(values, dtype=dtype)


def rebuild_tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_unused: Any) -> Tensor:
    """View a storage as a tensor; gradient flag, hooks and metadata, which follow, are ignored.

    Args:
        storage: shape (count,), see `values_from_bytes`.
        offset, size, stride: in elements; from the file, so of any type.
    Raises:
        WeightsError: the tensor would be larger than its storage.
    """
    # Python integers, of which products and sums with strides stay in a safe range; `type` rejects booleans too.
    numbers = (offset, *size, *stride)
    valid = len(size) <= MAX_AXES and all(type(number) is int and 0 <= number < 2**62 for number in numbers)
    if not isinstance(storage, Tensor) or not valid:
        raise WeightsError("tensor: invalid storage, offset, size or stride")

    # The last element must be inside the storage. A stride of 0 could repeat one value without limit, so the number of
    # elements must not exceed the storage either.
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count > storage.numel() or (count and last >= storage.numel()):
        raise WeightsError(f"tensor: size {size} is beyond its storage of {storage.numel()} values")
    return storage.as_strided(size, stride, offset)


def check_tensors(network: str, state: Mapping[str, Tensor]) -> None:
    """Check the tensors of a network from a file of any format.

    Args:
        network: name in messages.
        state: tensors of any shape, by name.
    Raises:
        WeightsError: too many tensors, an unusual type or layout, or together much larger than what is stored.
    """
    if len(state) > MAX_TENSORS:
        raise WeightsError(f"{network}: {len(state)} tensors, expected at most {MAX_TENSORS}")

    for name, tensor in state.items():
        if len(name) > MAX_NAME:
            raise WeightsError(f"{network}: a tensor's name of {len(name)} characters, expected at most {MAX_NAME}")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in STORAGES.values():
            got = f"{tensor.dtype}, {tensor.layout} on {tensor.device}"
            raise WeightsError(f"{network}: {name!r}: got {got}, expected a dense tensor of floats, integers or bools")

    # Tensors may share a storage, but a few kilobytes must not become thousands of large tensors when they are copied.
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in state.values()}
    if sum(tensor.nbytes for tensor in state.values()) > 2 * sum(storages.values()):
        raise WeightsError(f"{network}: its tensors are much larger than the values that are stored")
