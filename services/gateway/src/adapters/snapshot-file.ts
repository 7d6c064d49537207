// The last known routes on disk, so that a gateway that starts while NATS is away routes at once (I8). One JSON file, written
// beside and renamed, so that a kill at any moment leaves the old one or the new one.
import { mkdir, open, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { fromJson, type JsonValue } from "@bufbuild/protobuf";
import { ReplicaStatusSchema, TrafficSetSchema, toJson } from "@pilotlight/contracts";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { logger } from "@pilotlight/telemetry";
import type { Documents } from "../domain/fleet.ts";

const FILE = "routes.json";
const FORMAT = 1;
/** Changes that come within this time are written together. */
const GATHER_MS = 200;

type Snapshot = { format: number; traffic: JsonValue[]; replicas: JsonValue[] };

export class SnapshotFile {
  readonly #directory: string;
  readonly #read: () => Documents;
  #timer: NodeJS.Timeout | null = null;
  #writing: Promise<void> = Promise.resolve();

  /** `read` gives what is to be kept, at the time of writing. */
  constructor(directory: string, read: () => Documents) {
    this.#directory = directory;
    this.#read = read;
  }

  /** What the last run left; null when there is nothing, or nothing readable (which is logged). */
  async load(): Promise<Documents | null> {
    try {
      return parseSnapshot(await readFile(join(this.#directory, FILE), "utf8"));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
        logger("routes").warn("the last known routes cannot be read; waiting for the bus", {
          error: toPlatformError(error),
        });
      }
      return null;
    }
  }

  /** Something changed: it is written soon. */
  changed(): void {
    this.#timer ??= setTimeout(() => void this.flush(), GATHER_MS);
  }

  /** Writes what is to be written, now. */
  async flush(): Promise<void> {
    if (this.#timer !== null) {
      clearTimeout(this.#timer);
      this.#timer = null;
      this.#writing = this.#writing.then(() => this.#write());
    }
    await this.#writing;
  }

  /** A full disk must not stop requests: it is logged and tried again with the next change. */
  async #write(): Promise<void> {
    try {
      await mkdir(this.#directory, { recursive: true });
      const path = join(this.#directory, FILE);
      const file = await open(`${path}.new`, "w", 0o600);
      try {
        await file.writeFile(formatSnapshot(this.#read()));
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(`${path}.new`, path);
    } catch (error) {
      logger("routes").error("the routes cannot be kept", { error: toPlatformError(error) });
    }
  }
}

export function formatSnapshot(documents: Documents): string {
  const snapshot: Snapshot = {
    format: FORMAT,
    traffic: documents.traffic.map((traffic) => toJson(TrafficSetSchema, traffic)),
    replicas: documents.replicas.map((status) => toJson(ReplicaStatusSchema, status)),
  };
  return `${JSON.stringify(snapshot)}\n`;
}

/** Throws `corrupt` for what is no snapshot of a known format. */
export function parseSnapshot(text: string): Documents {
  const options = { ignoreUnknownFields: true };
  try {
    const { format, traffic, replicas } = JSON.parse(text) as Snapshot;
    if (format !== FORMAT) throw new Error(`format ${format} is not known`);
    return {
      traffic: traffic.map((value) => fromJson(TrafficSetSchema, value, options)),
      replicas: replicas.map((value) => fromJson(ReplicaStatusSchema, value, options)),
    };
  } catch (cause) {
    throw new PlatformError("corrupt", `${FILE}: ${(cause as Error).message}`, { cause });
  }
}
