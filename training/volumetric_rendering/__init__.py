"""Rays, plane sampling, depths and compositing: functions on tensors without state."""
