"""Weights from Pilotlight's weight streamer, mapped from shared memory."""

from .client import Lease, StreamerError, TensorReady, open_weights
from .device import DeviceError
from .tensors import load_file, safe_open

__all__ = ["DeviceError", "Lease", "StreamerError", "TensorReady", "load_file", "open_weights", "safe_open"]
