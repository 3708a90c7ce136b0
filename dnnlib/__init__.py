"""Small helpers without a tensor in them: attribute dict, files by URL, log files, time in words."""

from dnnlib.util import EasyDict

__all__ = ["EasyDict"]
