"""Layers of PyTorch below the networks: operators, precision, devices, processes, statistics, safe unpickling.

Nothing here knows about images, cameras or training; that is in training/.
"""
