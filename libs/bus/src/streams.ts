// The streams, declared in one place. Every service makes sure they exist at its start; whoever comes first makes them.
import {
  DiscardPolicy,
  JetStreamApiCodes,
  JetStreamApiError,
  type JetStreamManager,
  RetentionPolicy,
  StorageType,
  type StreamConfig,
} from "@nats-io/jetstream";
import type { EventKind } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";

const DAY_NS = 24 * 3_600 * 1e9;
const MINUTE_NS = 60 * 1e9;

/** Where messages that no handler could take are kept for people to look at. */
export const DEAD_LETTER_SUBJECT = "pl.dead";

type Declared = Pick<StreamConfig, "name" | "subjects"> & Partial<StreamConfig>;

const COMMON = {
  storage: StorageType.File,
  retention: RetentionPolicy.Limits,
  num_replicas: 1,
  allow_direct: true,
} as const;

/** Limits: I10. Old events go first; log batches are refused instead, so that the tailer keeps them in its files. */
const STREAMS: readonly Declared[] = [
  {
    name: "PL_EVENTS",
    subjects: ["pl.evt.>"],
    description: "Durable events.",
    max_age: 7 * DAY_NS,
    max_bytes: 1024 ** 3,
    discard: DiscardPolicy.Old,
    duplicate_window: 10 * MINUTE_NS,
  },
  {
    name: "PL_DOCUMENTS",
    subjects: ["pl.doc.>"],
    description: "Latest value per key.",
    max_msgs_per_subject: 1,
    max_bytes: 1024 ** 3,
    discard: DiscardPolicy.Old,
    allow_msg_ttl: true,
    duplicate_window: 2 * MINUTE_NS,
  },
  {
    name: "PL_LOGS",
    subjects: ["pl.log.>"],
    description: "Log batches on their way to the log service.",
    max_age: 2 * DAY_NS,
    max_bytes: 2 * 1024 ** 3,
    discard: DiscardPolicy.New,
    duplicate_window: 2 * MINUTE_NS,
  },
  {
    name: "PL_DEAD",
    subjects: [`${DEAD_LETTER_SUBJECT}.>`],
    description: "Messages that no handler could take, with the reason in their headers.",
    max_age: 30 * DAY_NS,
    max_bytes: 256 * 1024 ** 2,
    discard: DiscardPolicy.Old,
  },
];

/** The stream that keeps a kind of message; samples are not kept. */
export const STREAM_OF: Record<Exclude<EventKind, "smp">, string> = {
  evt: "PL_EVENTS",
  doc: "PL_DOCUMENTS",
  log: "PL_LOGS",
};

/** Makes what is missing and brings what is there up to date. */
export async function ensureStreams(manager: JetStreamManager, replicas: number): Promise<void> {
  for (const declared of STREAMS) {
    const config = { ...COMMON, ...declared, num_replicas: replicas };
    // Looked for first: adding a stream that is there needs its storage once more, for a moment.
    if (!(await isThere(manager, declared.name))) {
      try {
        await manager.streams.add(config);
        continue;
      } catch (error) {
        // Another service was faster; then its limits may be others (an upgrade): ours win.
        if (!(await isThere(manager, declared.name))) throw tooLittleStorage(error, declared) ?? error;
      }
    }
    await manager.streams.update(declared.name, config);
  }
}

const isThere = (manager: JetStreamManager, name: string): Promise<boolean> =>
  manager.streams.info(name).then(
    () => true,
    (error) => {
      if (error instanceof JetStreamApiError && error.code === JetStreamApiCodes.StreamNotFound) return false;
      throw error;
    },
  );

/** https://github.com/nats-io/nats-server/blob/main/server/errors.json */
const INSUFFICIENT_STORAGE = 10047;

function tooLittleStorage(error: unknown, { name, max_bytes = 0 }: Declared): PlatformError | undefined {
  if (!(error instanceof JetStreamApiError) || error.code !== INSUFFICIENT_STORAGE) return undefined;
  const needed = STREAMS.reduce((sum, stream) => sum + (stream.max_bytes ?? 0), 0);
  return new PlatformError(
    "resourceExhausted",
    `NATS has no room for the ${mib(max_bytes)} of stream ${name}; all streams need ${mib(needed)}`,
    {
      remedy:
        "Free space on the disk of NATS' store (it takes three quarters of it), or raise its max_file_store.",
      cause: error,
    },
  );
}

const mib = (bytes: number): string => `${Math.round(bytes / 1024 ** 2)} MiB`;
