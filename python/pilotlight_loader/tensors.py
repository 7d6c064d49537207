"""Tensors over mapped segments, and the two functions that stand where safetensors' own stood."""

from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Iterator

import torch

from .client import Lease, TensorReady, open_weights
from .device import Copier, DeviceError, library_path

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}

# Leases of what `load_file` gave away: the streamer is to know that the memory is in use.
_held: list[Lease] = []


def _dtype(ready: TensorReady) -> torch.dtype:
    dtype = DTYPES.get(ready.dtype)
    if dtype is None:
        raise TypeError(f"{ready.name}: PyTorch has no tensors of {ready.dtype}")
    return dtype


class Segments:
    """Maps each segment once. Private mappings: nothing is copied until somebody writes, and then only that page."""

    def __init__(self) -> None:
        self._maps: dict[str, mmap.mmap] = {}

    def tensor(self, ready: TensorReady) -> torch.Tensor:
        dtype = _dtype(ready)
        if ready.length == 0:
            return torch.empty(ready.shape, dtype=dtype)
        buffer = self._map(ready.path)
        if ready.runs == 1:
            raw = torch.frombuffer(buffer, dtype=torch.uint8, count=ready.length, offset=ready.offset)
        else:
            span = (ready.runs - 1) * ready.stride_bytes + ready.run_bytes
            whole = torch.frombuffer(buffer, dtype=torch.uint8, count=span, offset=ready.offset)
            pieces = whole.as_strided((ready.runs, ready.run_bytes), (ready.stride_bytes, 1))
            raw = pieces.contiguous().view(-1)
        if ready.offset % dtype.itemsize != 0 and ready.runs == 1:
            raw = raw.clone()
        return raw.view(dtype).view(ready.shape)

    def _map(self, path: str) -> mmap.mmap:
        mapped = self._maps.get(path)
        if mapped is None:
            with open(path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._maps[path] = mapped
        return mapped


class DeviceSegments:
    """Tensors on a CUDA device, copied from the segments by the native copier: pinned, on streams of its own, slices too."""

    def __init__(self, device: torch.device):
        self._device = device
        self._copier = Copier(device.index if device.index is not None else torch.cuda.current_device())
        self._maps: dict[str, tuple[mmap.mmap, torch.Tensor]] = {}

    def tensor(self, ready: TensorReady) -> torch.Tensor:
        target = torch.empty(ready.shape, dtype=_dtype(ready), device=self._device)
        if ready.length > 0:
            self._copier.copy(
                target.data_ptr(),
                self._map(ready.path).data_ptr() + ready.offset,
                ready.run_bytes,
                stride_bytes=ready.stride_bytes,
                runs=ready.runs,
                consumer=torch.cuda.current_stream(self._device).cuda_stream,
            )
        return target

    def close(self) -> None:
        """When the last copy is done."""
        self._copier.close()
        self._maps.clear()

    def _map(self, path: str) -> torch.Tensor:
        known = self._maps.get(path)
        if known is not None:
            return known[1]
        with open(path, "rb") as file:
            # Shared: pinning a private mapping would copy every page of it.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with warnings.catch_warnings():
            # That nobody may write to it is what is wanted.
            warnings.simplefilter("ignore", UserWarning)
            memory = torch.frombuffer(mapped, dtype=torch.uint8)
        try:
            self._copier.register(memory.data_ptr(), memory.numel())
        except DeviceError as error:
            warnings.warn(f"{path} cannot be pinned, copies are slower: {error}", stacklevel=2)
        self._maps[path] = (mapped, memory)
        return memory


def iterate(lease: Lease, device: str | torch.device = "cpu") -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors, as they arrive. On a CUDA device they may be used on the current stream at once."""
    target = torch.device(device)
    if target.type == "cuda" and library_path() is not None:
        on_device = DeviceSegments(target)
        try:
            for ready in lease:
                yield ready.name, on_device.tensor(ready)
        finally:
            on_device.close()
        return
    segments = Segments()
    for ready in lease:
        tensor = segments.tensor(ready)
        yield ready.name, tensor if target.type == "cpu" else tensor.to(target, non_blocking=True)


def load_file(source: str, device: str | torch.device = "cpu", **options: object) -> dict[str, torch.Tensor]:
    """All tensors of a repository by URI, or of a safetensors file by path, as `safetensors.torch.load_file` gives them."""
    if _is_path(source):
        from safetensors.torch import load_file as load_plain

        return load_plain(source, device=device)
    lease = open_weights(source, **options)
    _held.append(lease)
    return dict(iterate(lease, device))


class safe_open:  # noqa: N801: the name that it stands for
    """A repository's tensors by name, each waited for when it is asked for; as `safetensors.safe_open` for a file."""

    def __new__(cls, source: str, framework: str = "pt", device: str | torch.device = "cpu", **options: object):
        if _is_path(source):
            from safetensors import safe_open as open_plain

            return open_plain(source, framework=framework, device=device)
        if framework not in ("pt", "torch", "pytorch"):
            raise ValueError(f"only PyTorch's tensors are made here, not {framework}'s")
        return super().__new__(cls)

    def __init__(self, source: str, framework: str = "pt", device: str | torch.device = "cpu", **options: object):
        self._lease = open_weights(source, **options)
        self._arriving = iterate(self._lease, device)
        self._tensors: dict[str, torch.Tensor] = {}

    def __enter__(self) -> "safe_open":
        return self

    def __exit__(self, *_: object) -> None:
        self._lease.close()

    def keys(self) -> list[str]:
        self._take_until(None)
        return sorted(self._tensors)

    def get_tensor(self, name: str) -> torch.Tensor:
        self._take_until(name)
        if name not in self._tensors:
            raise KeyError(f"there is no tensor {name}")
        return self._tensors[name]

    def get_slice(self, name: str) -> "Slice":
        return Slice(self.get_tensor(name))

    def metadata(self) -> dict[str, str]:
        return {"format": "pt"}

    def _take_until(self, name: str | None) -> None:
        if name is not None and name in self._tensors:
            return
        for arrived, tensor in self._arriving:
            self._tensors[arrived] = tensor
            if arrived == name:
                return


class Slice:
    """Part of a tensor, taken by indexing; as safetensors' own."""

    def __init__(self, tensor: torch.Tensor):
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        return list(self._tensor.shape)

    def __getitem__(self, index: object) -> torch.Tensor:
        return self._tensor[index]


def _is_path(source: str) -> bool:
    return "://" not in source and os.path.exists(source)
