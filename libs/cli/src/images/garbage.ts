// `image gc`: removes from a bucket what no image that is kept needs.

import { PlatformError } from "@pilotlight/errors";
import { collectGarbage, resolveImage } from "@pilotlight/image-conversion";
import type { Context } from "../context.ts";
import { formatBytes, parseSpan } from "../text/format.ts";
import { type RegistryChoice, registryOptions, withBucket } from "./stored-image.ts";

export type GarbageChoice = {
  bucket: string | undefined;
  keep: readonly string[];
  /** Nothing has to be kept. */
  all: boolean;
  grace: string;
  dryRun: boolean;
  registry: RegistryChoice;
};

export const garbage = (context: Context, choice: GarbageChoice): Promise<void> =>
  withBucket(context, choice.bucket, async (bucket) => {
    const graceMs = parseSpan(choice.grace);
    if (graceMs === undefined)
      throw new PlatformError("invalidArgument", `--grace '${choice.grace}' is no span of time`, {
        field: "grace",
        remedy: "Write e.g. 12h or 7d.",
      });
    if (choice.keep.length === 0 && !choice.all)
      throw new PlatformError("invalidArgument", "no image is named that has to stay", {
        field: "keep",
        remedy: "Name what is in use with --keep, or write --all if nothing is.",
      });
    const options = registryOptions(context, choice.registry);
    const inUse = await Promise.all(choice.keep.map((image) => resolveImage(bucket, image, options)));
    const report = await collectGarbage({
      bucket,
      inUse: new Set(inUse),
      graceMs,
      now: Date.now(),
      dryRun: choice.dryRun,
      signal: context.terminal.interrupted,
    });
    context.show({ ...report, dryRun: choice.dryRun }, () => [
      `${report.images} images, ${report.layers} layer records, ${report.packs} packs: ${formatBytes(report.deletedBytes)} ${choice.dryRun ? "would go" : "deleted"}`,
      ...(report.waitingPacks === 0
        ? []
        : [
            `  ${report.waitingPacks} more packs go in a later run, ${choice.grace} after they were first seen unused`,
          ]),
    ]);
  });
