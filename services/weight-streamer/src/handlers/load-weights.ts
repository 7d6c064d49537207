// `LoadWeights`: a load as a stream. The open stream is the lease: when it ends, for whatever reason, the pin is given back.
import type { LoadWeightsRequest, LoadWeightsResponseSchema, MessageInitShape } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import type { CallContext } from "@pilotlight/service";
import type { WeightCache, WeightsEvent } from "../domain/index.ts";

type Response = MessageInitShape<typeof LoadWeightsResponseSchema>;

export async function* loadWeights(
  cache: WeightCache,
  request: LoadWeightsRequest,
  call: CallContext,
  report: LoadReporter,
): AsyncGenerator<Response> {
  if (request.source === "") {
    throw new PlatformError("invalidArgument", "source is empty", {
      field: "source",
      remedy: "Name a repository by URI.",
    });
  }
  const lease = cache.load(request.source);
  call.signal.addEventListener("abort", () => lease.release(), { once: true });
  try {
    for await (const event of lease.events) {
      report.event(request.source, event);
      yield toWire(event);
    }
    await untilAborted(call.signal);
  } catch (error) {
    if (!call.signal.aborted) {
      report.failed(request.source, error);
      throw error;
    }
  } finally {
    lease.release();
  }
}

/** Told what happens, for events and logs. */
export type LoadReporter = {
  event(source: string, event: WeightsEvent): void;
  failed(source: string, error: unknown): void;
};

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

function toWire(event: WeightsEvent): Response {
  switch (event.kind) {
    case "opened":
      return {
        event: {
          case: "opened",
          value: {
            files: Object.fromEntries(event.files),
            bytesTotal: BigInt(event.bytesTotal),
            tensorsTotal: event.tensorsTotal,
            cached: event.cached,
          },
        },
      };
    case "tensor":
      return {
        event: {
          case: "tensor",
          value: {
            name: event.name,
            dtype: event.dtype,
            shape: event.shape.map(BigInt),
            path: event.path,
            offset: BigInt(event.offset),
            length: BigInt(event.length),
          },
        },
      };
    case "progress":
      return { event: { case: "progress", value: wireProgress(event) } };
    case "complete":
      return {
        event: {
          case: "complete",
          value: { bytesFetched: BigInt(event.bytesFetched), durationMs: Math.round(event.durationMs) },
        },
      };
    default:
      return event satisfies never;
  }
}

export const wireProgress = (progress: {
  bytesDone: number;
  bytesTotal: number;
  bytesPerSecond: number;
}) => ({
  bytesDone: BigInt(progress.bytesDone),
  bytesTotal: BigInt(progress.bytesTotal),
  bytesPerSecond: BigInt(Math.round(progress.bytesPerSecond)),
});
