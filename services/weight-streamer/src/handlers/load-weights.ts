// `LoadWeights`: a load as a stream. The open stream is the lease: when it ends, for whatever reason, the pin is given back.
import type { LoadWeightsRequest, LoadWeightsResponseSchema, MessageInitShape } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import type { CallContext } from "@pilotlight/service";
import {
  type Group,
  orderedNames,
  parseTarget,
  rankView,
  Sequence,
  type WeightsEvent,
} from "@pilotlight/weights";
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
  const { expertParallel } = request;
  const order = request.order.length === 0 ? undefined : request.order;
  const dtype = parseTarget(request.dtype);
  const { source, group } = await find(request.source, request, call.signal);
  const report = reporter(request.source);
  const lease = cache.load(source, { ...(order && { order }), dtype });
  const release = (): void => lease.release();
  if (call.signal.aborted) release();
  call.signal.addEventListener("abort", release, { once: true });
  try {
    let view: View | undefined;
    for await (const event of lease.events) {
      report.event(event);
      if (event.kind === "opened") {
        view = viewOf(event, { ...group, expertParallel }, request.inOrder ? request.order : undefined);
        yield openedToWire(event, view.tensors);
      } else if (event.kind === "tensor") {
        for (const tensor of view?.came(event) ?? [])
          yield { event: { case: "tensor", value: wireTensor(tensor) } };
      } else yield toWire(event);
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

type Opened = Extract<WeightsEvent, { kind: "opened" }>;
type TensorReady = Extract<WeightsEvent, { kind: "tensor" }>;

/** A load as the one who asked sees it: cut for its rank, in its order. */
type View = {
  /** Names of those to come. */
  tensors: string[];
  /** A tensor is there; gives those that may be told of now. */
  came(tensor: TensorReady): TensorReady[];
};

/** `order`: hand out in this one; undefined: as they come. */
function viewOf(opened: Opened, group: Group, order: readonly string[] | undefined): View {
  const { has, slice } = rankView(opened.files, group);
  const names = opened.tensors.map(({ name }) => name);
  const sequence = order === undefined ? undefined : new Sequence<TensorReady>(orderedNames(names, order));
  return {
    tensors: opened.tensors.filter(has).map(({ name }) => name),
    came: (tensor) => (sequence?.came(tensor) ?? [tensor]).map(slice).filter((one) => one !== undefined),
  };
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

function openedToWire(opened: Opened, tensorNames: string[]): Response {
  const { files, bytesTotal, cached, metadata } = opened;
  const value = {
    files: Object.fromEntries(files),
    bytesTotal: BigInt(bytesTotal),
    tensorsTotal: tensorNames.length,
    cached,
    tensorNames,
    metadata: Object.fromEntries(metadata),
  };
  return { event: { case: "opened", value } };
}

const wireTensor = ({ name, dtype, shape, path, ...place }: TensorReady) => ({
  name,
  dtype,
  shape: shape.map(BigInt),
  path,
  offset: BigInt(place.offset),
  length: BigInt(place.length),
  runBytes: BigInt(place.runBytes),
  strideBytes: BigInt(place.strideBytes),
  runs: BigInt(place.runs),
});

function toWire(event: Exclude<WeightsEvent, Opened | TensorReady>): Response {
  switch (event.kind) {
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

export const wireProgress = ({ bytesDone, bytesTotal, bytesPerSecond }: Progress) => ({
  bytesDone: BigInt(bytesDone),
  bytesTotal: BigInt(bytesTotal),
  bytesPerSecond: BigInt(Math.round(bytesPerSecond)),
  ...(bytesPerSecond < 1
    ? {}
    : { timeLeftMs: BigInt(Math.round((1000 * (bytesTotal - bytesDone)) / bytesPerSecond)) }),
});

type Progress = Pick<
  Extract<WeightsEvent, { kind: "progress" }>,
  "bytesDone" | "bytesTotal" | "bytesPerSecond"
>;
