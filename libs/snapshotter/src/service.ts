// containerd's snapshot service: requests into calls of the snapshotter, results into messages.
import type { MessageInitShape } from "@pilotlight/contracts";
import { type InfoSchema, Kind, Snapshots } from "@pilotlight/contracts/containerd";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { type GrpcHandlers, grpcService } from "@pilotlight/service";
import { histogram, LATENCY_BUCKETS_S } from "@pilotlight/telemetry";
import type { SnapshotRecord } from "./record.ts";
import type { Snapshotter } from "./snapshotter.ts";

const INFOS_AT_ONCE = 100;
const NS_PER_S = 1_000_000_000n;

const KINDS = { view: Kind.VIEW, active: Kind.ACTIVE, committed: Kind.COMMITTED } as const satisfies Record<
  SnapshotRecord["kind"],
  Kind
>;

const durations = histogram({
  name: "pilotlight_snapshotter_call_seconds",
  help: "Time of containerd's calls, by method and how they ended.",
  labelNames: ["method", "code"],
  buckets: LATENCY_BUCKETS_S,
});

/** The service as a gRPC door serves it. */
export function snapshotsService(snapshotter: Snapshotter) {
  const handlers: GrpcHandlers<typeof Snapshots> = {
    prepare: ({ key, parent, labels }) =>
      timed("prepare", async () => ({ mounts: await snapshotter.prepare(key, parent, labels) })),
    view: ({ key, parent, labels }) =>
      timed("view", async () => ({ mounts: await snapshotter.view(key, parent, labels) })),
    mounts: ({ key }) => timed("mounts", async () => ({ mounts: await snapshotter.mounts(key) })),
    commit: ({ name, key, labels, parent }) =>
      timed("commit", async () => {
        await snapshotter.commit(name, key, labels, parent);
        return {};
      }),
    remove: ({ key }) =>
      timed("remove", async () => {
        await snapshotter.remove(key);
        return {};
      }),
    stat: ({ key }) => timed("stat", async () => ({ info: infoOf(snapshotter.stat(key)) })),
    update: ({ info, updateMask }) =>
      timed("update", async () => {
        const paths = updateMask?.paths ?? [];
        return { info: infoOf(await snapshotter.update(info?.name ?? "", info?.labels ?? {}, paths)) };
      }),
    async *list({ filters }) {
      const found = await timed("list", async () => snapshotter.list(filters));
      for (let i = 0; i < found.length; i += INFOS_AT_ONCE)
        yield { info: found.slice(i, i + INFOS_AT_ONCE).map(infoOf) };
    },
    usage: ({ key }, { signal }) =>
      timed("usage", async () => {
        const { bytes, inodes } = await snapshotter.usage(key, signal);
        return { size: BigInt(bytes), inodes: BigInt(inodes) };
      }),
    cleanup: () =>
      timed("cleanup", async () => {
        await snapshotter.cleanup();
        return {};
      }),
  };
  return grpcService(Snapshots, handlers);
}

/** containerd shows its users a message and nothing else, so the remedy becomes part of it. */
async function timed<T>(method: string, work: () => Promise<T>): Promise<T> {
  const end = durations.startTimer({ method });
  try {
    const result = await work();
    end({ code: "ok" });
    return result;
  } catch (thrown) {
    const error = toPlatformError(thrown);
    end({ code: error.code });
    if (error.remedy === undefined) throw error;
    throw new PlatformError(error.code, `${error.message}. ${error.remedy}`, { cause: error });
  }
}

const infoOf = (record: SnapshotRecord): MessageInitShape<typeof InfoSchema> => ({
  name: record.key,
  parent: record.parent,
  kind: KINDS[record.kind],
  labels: record.labels,
  createdAt: timestampOf(record.createdAt),
  updatedAt: timestampOf(record.updatedAt),
});

const timestampOf = (ns: bigint) => ({ seconds: ns / NS_PER_S, nanos: Number(ns % NS_PER_S) });
