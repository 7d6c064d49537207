// `LoadWeights`: a load as a stream. The open stream is the lease: when it ends, for whatever reason, the pin is given back.
import type { LoadWeightsRequest, LoadWeightsResponseSchema, MessageInitShape } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import type { CallContext } from "@pilotlight/service";
import { type Group, rankView, type WeightsEvent } from "@pilotlight/weights";
import type { WeightCache } from "../domain/index.ts";
import type { Admission } from "./admission.ts";
import type { FindForRank } from "./find-for-rank.ts";

type Response = MessageInitShape<typeof LoadWeightsResponseSchema>;

export async function* loadWeights(
  cache: WeightCache,
  request: LoadWeightsRequest,
  call: CallContext,
  { admit, find, reporter }: { admit: Admission; find: FindForRank; reporter: LoadReporter },
): AsyncGenerator<Response> {
  if (request.source === "") {
    throw new PlatformError("invalidArgument", "source is empty", {
      field: "source",
      remedy: "Name a repository by URI.",
    });
  }
  await admit(request.replicaId, request.source, call.signal);
  const { source, group } = await find(request.source, request, call.signal);
  let view = (event: WeightsEvent): WeightsEvent => event;
  const report = reporter(request.source);
  const lease = cache.load(source);
  call.signal.addEventListener("abort", () => lease.release(), { once: true });
  try {
    for await (const event of lease.events) {
      if (event.kind === "opened") view = slicing(event.files, group);
      report.event(event);
      yield toWire(view(event));
    }
    await untilAborted(call.signal);
  } catch (error) {
    if (!call.signal.aborted) {
      report.failed(error);
      throw error;
    }
  } finally {
    lease.release();
  }
}

/** Cuts tensors for the rank that asks; everything else passes. */
function slicing(
  files: ReadonlyMap<string, Uint8Array>,
  group: Group,
): (event: WeightsEvent) => WeightsEvent {
  const view = rankView(files, group);
  return (event) => (event.kind === "tensor" ? view(event) : event);
}

/** Makes somebody to tell what happens in one load of a source, for events and logs. */
export type LoadReporter = (source: string) => {
  event(event: WeightsEvent): void;
  failed(error: unknown): void;
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
            runBytes: BigInt(event.runBytes),
            strideBytes: BigInt(event.strideBytes),
            runs: BigInt(event.runs),
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
