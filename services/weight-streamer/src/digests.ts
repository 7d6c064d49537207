// Full digests as the settings have them: counted, and told like a failed load where one is wrong.
import { PlatformError } from "@pilotlight/errors";
import type { DigestOptions } from "./domain/index.ts";
import type { LoadReporter } from "./handlers/load-weights.ts";
import { countDigest } from "./metrics.ts";

/** Undefined where they are turned off. */
export function digestOptions(
  settings: { digestAfterMs: number; digestBytesPerSecondMax: number },
  reporter: LoadReporter,
): DigestOptions | undefined {
  const { digestAfterMs: afterMs, digestBytesPerSecondMax: bytesPerSecond } = settings;
  if (bytesPerSecond === 0) return undefined;
  return {
    afterMs,
    bytesPerSecond,
    onChecked(source, key, right) {
      countDigest(right);
      if (!right) reporter(source).failed(wrong(key));
    },
  };
}

const wrong = (key: string): PlatformError =>
  new PlatformError(
    "corrupt",
    `${key} has not the SHA-256 that is known of it: it is given to nobody any more`,
    {
      remedy:
        "Stop the replicas that were started with it, check the storage (`pilotlight weights verify`), then add the model again.",
    },
  );
