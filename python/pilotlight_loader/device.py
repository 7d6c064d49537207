"""From mapped segments to a CUDA device: the streamer's native copier, called through ctypes. Needs no CUDA toolkit; the driver is
looked for when a device is asked for."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

LIBRARY_VARIABLE = "PILOTLIGHT_STREAMER_LIBRARY"
# Beside this package, or in the checkout that it is part of.
PLACES = ("streamer.node", "../../native/streamer/streamer.node")
STREAMS = 2
ERROR_BYTES = 512


class DeviceError(RuntimeError):
    """What the driver, or the lack of one, has to say."""


class _ErrorText(ctypes.Structure):
    _fields_ = [("text", ctypes.c_char_p), ("bytes", ctypes.c_size_t)]


_SIGNATURES = {
    "pilotlight_device_open": (ctypes.c_void_p, [ctypes.c_int, ctypes.c_uint32, _ErrorText]),
    "pilotlight_device_register": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, _ErrorText]),
    "pilotlight_device_copy": (
        ctypes.c_int,
        [
            ctypes.c_void_p,
            ctypes.c_uint64,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_size_t,
            ctypes.c_size_t,
            ctypes.c_void_p,
            _ErrorText,
        ],
    ),
    "pilotlight_device_wait": (ctypes.c_int, [ctypes.c_void_p, _ErrorText]),
    "pilotlight_device_close": (None, [ctypes.c_void_p]),
}


def library_path() -> str | None:
    """Where the native part is; None where it is not installed."""
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        return named
    here = Path(__file__).resolve().parent
    return next((str(here / place) for place in PLACES if (here / place).exists()), None)


class Copier:
    """One device and the streams that copy to it. Used by one thread at a time."""

    def __init__(self, ordinal: int = 0):
        path = library_path()
        if path is None:
            raise DeviceError(f"the streamer's native part is not installed: name it with {LIBRARY_VARIABLE}")
        try:
            self._library = ctypes.CDLL(path)
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(self._library, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            raise DeviceError(f"{path} is not the streamer's native part: {error}") from error
        self._message = ctypes.create_string_buffer(ERROR_BYTES)
        self._error = _ErrorText(ctypes.cast(self._message, ctypes.c_char_p), ERROR_BYTES)
        self._copier = self._library.pilotlight_device_open(ordinal, STREAMS, self._error)
        if not self._copier:
            raise DeviceError(self._said())

    def register(self, address: int, length: int) -> None:
        """Pins memory of this process; it stays mapped until the copier is closed."""
        self._check(self._library.pilotlight_device_register(self._copier, address, length, self._error))

    def copy(
        self, target: int, address: int, run_bytes: int, *, stride_bytes: int = 0, runs: int = 1, consumer: int = 0
    ) -> None:
        """Queues a copy, ordered with the consumer's stream; the source stays as it is until `wait` has returned."""
        self._check(
            self._library.pilotlight_device_copy(
                self._copier, target, address, run_bytes, stride_bytes, runs, consumer, self._error
            )
        )

    def wait(self) -> None:
        """Returns when every copy is done."""
        self._check(self._library.pilotlight_device_wait(self._copier, self._error))

    def close(self) -> None:
        """Waits, gives the memory free. May be called again."""
        copier, self._copier = self._copier, None
        if copier:
            self._library.pilotlight_device_close(copier)

    def _check(self, status: int) -> None:
        if status != 0:
            raise DeviceError(self._said())

    def _said(self) -> str:
        return self._message.value.decode("utf-8", "replace")
