"""Tensors over mapped segments, and the two functions that stand where safetensors' own stood."""

from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Iterable, Iterator

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

# PyTorch has them since 2.7 and 2.8.
DTYPES |= {
    name: getattr(torch, newer)
    for name, newer in {"F8_E8M0": "float8_e8m0fnu", "F4": "float4_e2m1fn_x2"}.items()
    if hasattr(torch, newer)
}
# PyTorch counts these in pairs: a byte holds two.
PACKED = {DTYPES["F4"]: 2} if "F4" in DTYPES else {}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

# Leases of what `load_file` gave away: the streamer is to know that the memory is in use.
_held: list[Lease] = []


def _dtype(ready: TensorReady) -> torch.dtype:
    dtype = DTYPES.get(ready.dtype)
    if dtype is None:
        raise TypeError(f"{ready.name}: PyTorch has no tensors of {ready.dtype}")
    return dtype


def _shape(ready: TensorReady, dtype: torch.dtype) -> tuple[int, ...]:
    packed = PACKED.get(dtype, 1)
    if packed == 1:
        return ready.shape
    *outer, last = ready.shape or (1,)
    if last % packed != 0:
        raise TypeError(f"{ready.name}: PyTorch has {ready.dtype} in pairs only, its last dimension is {last}")
    return (*outer, last // packed)


class Segments:
    """Maps each segment once. Private mappings: nothing is copied until somebody writes, and then only that page."""

    def __init__(self) -> None:
        self._maps: dict[str, mmap.mmap] = {}

    def tensor(self, ready: TensorReady) -> torch.Tensor:
        dtype = _dtype(ready)
        if ready.length == 0:
            return torch.empty(_shape(ready, dtype), dtype=dtype)
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
        return raw.view(dtype).view(_shape(ready, dtype))

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
        dtype = _dtype(ready)
        target = torch.empty(_shape(ready, dtype), dtype=dtype, device=self._device)
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


def iterate(
    lease: Iterable[TensorReady], device: str | int | torch.device = "cpu"
) -> Iterator[tuple[str, torch.Tensor]]:
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


def load_file(
    source: str | os.PathLike[str],
    device: str | int | torch.device = "cpu",
    *,
    dtype: torch.dtype | str | None = None,
    **options: object,
) -> dict[str, torch.Tensor]:
    """All tensors of a repository by URI, or of a safetensors file by path, as `safetensors.torch.load_file` gives them."""
    if not _is_uri(source):
        from safetensors.torch import load_file as load_plain

        tensors = load_plain(source, device=device, **options)
        return tensors if dtype is None else {name: _to(tensor, dtype) for name, tensor in tensors.items()}
    lease = open_weights(source, dtype=_dtype_name(dtype), **options)
    _held.append(lease)
    return dict(iterate(lease, device))


def _dtype_name(dtype: torch.dtype | str | None) -> str:
    if dtype is None:
        return ""
    return dtype if isinstance(dtype, str) else NAMES.get(dtype, str(dtype))


def _to(tensor: torch.Tensor, dtype: torch.dtype | str) -> torch.Tensor:
    """As the streamer converts: floats of 16 bits and more, nothing else."""
    wide = tensor.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    return tensor.to(DTYPES[dtype] if isinstance(dtype, str) else dtype) if wide else tensor


class safe_open:  # noqa: N801: the name that it stands for
    """A repository's tensors by name, each waited for when it is asked for; as `safetensors.safe_open` for a file."""

    def __new__(
        cls,
        source: str | os.PathLike[str],
        framework: str = "pt",
        device: str | int | torch.device = "cpu",
        **options: object,
    ):
        if not _is_uri(source):
            from safetensors import safe_open as open_plain

            return open_plain(source, framework=framework, device=device, **options)
        if framework not in ("pt", "torch", "pytorch"):
            raise ValueError(f"only PyTorch's tensors are made here, not {framework}'s")
        return super().__new__(cls)

    def __init__(
        self,
        source: str,
        framework: str = "pt",
        device: str | int | torch.device = "cpu",
        *,
        dtype: torch.dtype | str | None = None,
        **options: object,
    ):
        self._lease = open_weights(source, dtype=_dtype_name(dtype), **options)
        self._names = frozenset(self._lease.tensor_names)
        self._ready: dict[str, TensorReady] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        self._arriving = iterate(_noting(self._lease, self._ready), device)

    def __enter__(self) -> "safe_open":
        return self

    def __exit__(self, *_: object) -> None:
        self._arriving.close()
        self._lease.close()

    def keys(self) -> list[str]:
        return sorted(self._names)

    def offset_keys(self) -> list[str]:
        """In file order."""
        return list(self._lease.tensor_names)

    def get_tensor(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(f"there is no tensor {name}")
        while name not in self._tensors:
            arrived, tensor = next(self._arriving)
            self._tensors[arrived] = tensor
        return self._tensors[name]

    def get_tensors(self) -> dict[str, torch.Tensor]:
        return {name: self.get_tensor(name) for name in self.keys()}

    def get_slice(self, name: str) -> "Slice":
        return Slice(self.get_tensor(name), self._ready[name])

    def metadata(self) -> dict[str, str] | None:
        return self._lease.metadata or None


def _noting(lease: Lease, ready: dict[str, TensorReady]) -> Iterator[TensorReady]:
    for one in lease:
        ready[one.name] = one
        yield one


class Slice:
    """Part of a tensor, taken by indexing; as safetensors' own."""

    def __init__(self, tensor: torch.Tensor, ready: TensorReady):
        self._tensor = tensor
        self._ready = ready

    def get_shape(self) -> list[int]:
        return list(self._ready.shape)

    def get_dtype(self) -> str:
        return self._ready.dtype

    def __getitem__(self, index: object) -> torch.Tensor:
        return self._tensor[index]


def _is_uri(source: str | os.PathLike[str]) -> bool:
    return isinstance(source, str) and "://" in source
