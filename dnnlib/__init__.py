"""Utilities without tensors: command lines, errors of options, files, downloads, console log.

This is the lowest package: it imports no other one of this repository.
"""
