"""The streamer's door: a load as a stream of events. The open stream is the lease of the memory that the tensors lie in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc

from .gen import weight_streamer_pb2 as api

ADDRESS_VARIABLE = "PILOTLIGHT_WEIGHT_STREAMER"
REPLICA_VARIABLE = "PILOTLIGHT_REPLICA_ID"
ADDRESS_DEFAULT = "127.0.0.1:7463"
METHOD = "/pilotlight.api.v1.WeightStreamerService/LoadWeights"
# config.json, tokenizer.json and the like come in one message.
MESSAGE_BYTES_MAX = 256 * 1024 * 1024
REMEDIES = {
    grpc.StatusCode.UNAVAILABLE: f"Start the weight streamer, or name its door with {ADDRESS_VARIABLE}.",
    grpc.StatusCode.PERMISSION_DENIED: (
        f"Set {REPLICA_VARIABLE} to the replica that was given this source, or start a streamer of your own "
        "with STRANGERS_ALLOWED=true."
    ),
    grpc.StatusCode.NOT_FOUND: "Check the source's URI.",
}


class StreamerError(RuntimeError):
    """A load that failed; `code` is gRPC's name of the reason, e.g. `NOT_FOUND`."""

    def __init__(self, error: grpc.RpcError, source: str):
        status = error.code()
        self.code = status.name
        remedy = REMEDIES.get(status)
        super().__init__(f"{source}: {error.details()}" + ("" if remedy is None else f" {remedy}"))


@dataclass(frozen=True)
class TensorReady:
    """A tensor (for a rank: its slice) that can be mapped: `runs` pieces of `run_bytes`, `stride_bytes` apart."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: str
    offset: int
    length: int
    run_bytes: int
    stride_bytes: int
    runs: int


class Lease:
    """An open load. Iterating gives the tensors as they arrive, once; closing gives the memory back to the streamer."""

    def __init__(self, channel: grpc.Channel, stream: grpc.Call, source: str):
        self._channel = channel
        self._stream = stream
        self._source = source
        opened = self._next().opened
        self.files: dict[str, bytes] = dict(opened.files)
        self.bytes_total: int = opened.bytes_total
        self.tensors_total: int = opened.tensors_total
        # Of the tensors to come, in file order.
        self.tensor_names: list[str] = list(opened.tensor_names)
        # The free-form strings of the safetensors headers.
        self.metadata: dict[str, str] = dict(opened.metadata)
        self.complete = False

    def __iter__(self) -> Iterator[TensorReady]:
        while not self.complete:
            event = self._next()
            kind = event.WhichOneof("event")
            if kind == "tensor":
                yield _tensor(event.tensor)
            elif kind == "complete":
                self.complete = True

    def close(self) -> None:
        self._stream.cancel()
        self._channel.close()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> api.LoadWeightsResponse:
        try:
            return next(self._stream)
        except StopIteration:
            raise ConnectionError(f"{self._source}: the weight streamer ended the load") from None
        except grpc.RpcError as error:
            raise StreamerError(error, self._source) from error


def open_weights(
    source: str,
    *,
    address: str | None = None,
    replica_id: str | None = None,
    rank: int = 0,
    ranks: int = 1,
    expert_parallel: bool = False,
    order: Sequence[str] = (),
    in_order: bool = False,
    dtype: str = "",
) -> Lease:
    """Starts or joins a load of a repository by URI. Raises StreamerError.

    `order`: what is fetched first, names or beginnings of names that end in a dot; with `in_order` it is handed out so too. `dtype`:
    floats arrive as `F32`, `F16` or `BF16`. `expert_parallel`: the ranks divide experts among themselves, each whole.
    """
    channel = grpc.insecure_channel(
        address or os.environ.get(ADDRESS_VARIABLE, ADDRESS_DEFAULT),
        options=[("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)],
    )
    request = api.LoadWeightsRequest(
        source=source,
        replica_id=os.environ.get(REPLICA_VARIABLE, "") if replica_id is None else replica_id,
        rank=rank,
        ranks=ranks,
        expert_parallel=expert_parallel,
        order=order,
        in_order=in_order,
        dtype=dtype,
    )
    call = channel.unary_stream(
        METHOD,
        request_serializer=api.LoadWeightsRequest.SerializeToString,
        response_deserializer=api.LoadWeightsResponse.FromString,
    )
    try:
        return Lease(channel, call(request), source)
    except BaseException:
        channel.close()
        raise


def _tensor(ready: api.TensorReady) -> TensorReady:
    return TensorReady(
        name=ready.name,
        dtype=ready.dtype,
        shape=tuple(ready.shape),
        path=ready.path,
        offset=ready.offset,
        length=ready.length,
        run_bytes=ready.run_bytes,
        stride_bytes=ready.stride_bytes,
        runs=ready.runs,
    )
