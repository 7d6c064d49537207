// The fastest reader that this machine has: native where the addon is built, else the plain one, and said so.
import { PlatformError } from "@pilotlight/errors";
import { createMover, type Mover, type MoverOptions } from "@pilotlight/streamer";
import { createNativeReader } from "./native-reader.ts";
import type { RangeReader } from "./ports.ts";
import { readRange } from "./range-reader.ts";

export type OpenedReader = {
  readRange: RangeReader;
  /** Absent where the addon is not built: other nodes are not asked then. */
  mover: Mover | undefined;
  close(): void;
};

/** `onSlow` is told why the native mover is not there. */
export function openRangeReader(options: MoverOptions & { onSlow: (reason: string) => void }): OpenedReader {
  try {
    const mover = createMover(options);
    return { readRange: createNativeReader(mover, readRange), mover, close: () => mover.close() };
  } catch (error) {
    if (!(error instanceof PlatformError) || error.code !== "preconditionFailed") throw error;
    options.onSlow(error.message);
    return { readRange, mover: undefined, close: () => undefined };
  }
}
