"""Data type and memory format in which a block of convolutions computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from dnnlib.choices import PRECISIONS


def working_format(device: torch.device, dtype: torch.dtype = torch.float32) -> dict:
    """Return arguments of `Tensor.to` for convolutions: channels-last where that is faster, else no change.

    On a CPU it is 1.5 to 3 times as fast; on CUDA, 16-bit tensor cores read it without a transposition.
    """
    channels_last = device.type == "cpu" or (device.type == "cuda" and dtype != torch.float32)
    memory_format = torch.channels_last if channels_last else torch.preserve_format
    return {"dtype": dtype, "memory_format": memory_format}


@dataclass
class Precision:
    """Data type of one block.

    Args:
        use_fp16: float16 on CUDA according to the weights' own arguments.
        clamps: whether the block's convolutions clamp their output, without which float16 could overflow.
        setting: auto (float16 on CUDA if `use_fp16`), fp32, fp16 (if `clamps`), bf16.
    """

    use_fp16: bool
    clamps: bool
    setting: str = "auto"

    def dtype(self, device: torch.device) -> torch.dtype:
        """Return the data type on a device."""
        # Their range is large enough for any block.
        if self.setting == "fp32":
            return torch.float32
        if self.setting == "bf16":
            return torch.bfloat16

        # float16, whose largest number is 65,504: on request wherever it cannot overflow, else where the weights were
        # trained with it.
        half = self.clamps if self.setting == "fp16" else self.use_fp16 and device.type == "cuda"
        return torch.float16 if half else torch.float32

    def format(self, device: torch.device) -> dict:
        """Return arguments of `Tensor.to` for the block's input."""
        return working_format(device, self.dtype(device))


def set_precision(module: nn.Module, setting: str) -> None:
    """Set the precision of all blocks of a module to auto, fp32, fp16 or bf16.

    Raises:
        ValueError: unknown setting.
    """
    if setting not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {setting!r}")
    # Blocks of all networks keep it in an attribute of this name.
    for block in module.modules():
        if isinstance(getattr(block, "precision", None), Precision):
            block.precision.setting = setting


def has_fast(setting: str, device: torch.device) -> bool:
    """Return whether this precision has fast convolutions; a CPU without support is a hundred times slower."""
    if device.type != "cpu" or setting in ("auto", "fp32"):
        return True
    if not torch.backends.mkldnn.is_available():
        return False

    # Whether oneDNN has instructions for the type; PyTorch has no public function for this.
    query = {"bf16": "_is_mkldnn_bf16_supported", "fp16": "_is_mkldnn_fp16_supported"}[setting]
    return bool(getattr(torch.ops.mkldnn, query)())
