"""Weights files: reading published pickles, reading and writing our own snapshots, initializing from other weights.

Data flows file -> `WeightsFile` -> `NetworkRecord` -> module, and back the same way. Network classes live in
training/networks; the full training state (optimizers, data position) is saved by the training loop, not here.
"""
