// `image verify`: every chunk against its checksum; with `--against`, every file of a mount against what GNU tar unpacks.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { unpackWithTar, verifyStored } from "@pilotlight/image-conversion";
import { compareTrees, openImagefs } from "@pilotlight/imagefs";
import type { ObjectStore } from "@pilotlight/object-store";
import { openImage } from "@pilotlight/oci";
import type { Context } from "../context.ts";
import { Unsuccessful } from "../exit-codes.ts";
import { formatBytes, formatPercent, formatProgress } from "../text/format.ts";
import { createLiveView, type LiveView } from "../view/live-view.ts";
import { findImage, registryOptions, type Stored, withBucket } from "./stored-image.ts";

/** `against`: the image that was converted; undefined: chunks only. `scratch`: room for the unpacked image. */
export type VerifyChoice = { against: string | undefined; scratch: string | undefined };

export const verify = (context: Context, stored: Stored, choice: VerifyChoice): Promise<void> =>
  withBucket(context, stored.bucket, async (bucket) => {
    const { manifest } = await findImage(context, bucket, stored);
    const { manifestDigest } = manifest;
    const view = createLiveView(context.terminal);
    const report = await verifyChunks(context, bucket, manifestDigest, view);
    // Files of damaged chunks would only be unreadable.
    const comparison =
      choice.against === undefined || report.problems.length > 0
        ? undefined
        : await compareFiles(
            context,
            bucket,
            { ...stored, image: choice.against },
            manifestDigest,
            choice.scratch,
            view,
          );
    view.end();
    const differences = comparison?.differences ?? [];
    const wrong = [...report.problems, ...differences];
    context.show(
      { manifestDigest, ...report, ...(comparison && { filesCompared: comparison.files, differences }) },
      () => [
        ...wrong,
        `${report.chunks} chunks, ${formatBytes(report.readBytes)}: ${report.problems.length === 0 ? "all as they should be" : `${report.problems.length} wrong`}`,
        ...(comparison === undefined
          ? []
          : [
              `${comparison.files} files against ${choice.against}: ${differences.length === 0 ? "all equal" : `${differences.length} differ`}`,
            ]),
      ],
    );
    if (wrong.length > 0)
      throw new Unsuccessful(`${manifestDigest} is damaged: delete it and convert the image again`);
  });

async function verifyChunks(context: Context, bucket: ObjectStore, manifestDigest: string, view: LiveView) {
  const startedAt = Date.now();
  return verifyStored({
    bucket,
    manifestDigest,
    signal: context.terminal.interrupted,
    onProgress: ({ doneBytes, totalBytes }) => {
      const bytesPerSecond = doneBytes / Math.max(0.001, (Date.now() - startedAt) / 1_000);
      const tenths = Math.floor((doneBytes / Math.max(1, totalBytes)) * 10) / 10;
      view.show([
        {
          key: "verify",
          text: `checking  ${formatProgress({ bytesDone: doneBytes, bytesTotal: totalBytes, bytesPerSecond })}`,
          fact: `checking, ${formatPercent(tenths)}`,
        },
      ]);
    },
  });
}

async function compareFiles(
  context: Context,
  bucket: ObjectStore,
  against: Stored,
  manifestDigest: string,
  scratchIn: string | undefined,
  view: LiveView,
): Promise<{ files: number; differences: string[] }> {
  const source = await openImage(against.image, registryOptions(context, against.registry));
  if (source.manifestDigest !== manifestDigest)
    return {
      files: 0,
      differences: [`${against.image} is ${source.manifestDigest}, another image than ${manifestDigest}`],
    };
  const scratch = await mkdtemp(join(scratchIn ?? tmpdir(), "pilotlight-verify-"));
  const imagefs = openImagefs({ cacheDir: join(scratch, "cache") });
  const say = (text: string) => view.show([{ key: "files", text, fact: text }]);
  try {
    const tree = join(scratch, "tree");
    const { times, attributes } = await unpackWithTar(
      source,
      tree,
      (done, total) => say(`unpacking with GNU tar, ${done} of ${total} layers`),
      context.terminal.interrupted,
    );
    say("comparing every file");
    const mount = await imagefs.mount({
      bucket,
      manifestDigest,
      mountpoint: join(scratch, "mount"),
      entry: null,
    });
    return await compareTrees(imagefs, mount.root, tree, {
      ignore: (path, field) =>
        (field === "mtime" && times.has(path)) || (field === "xattrs" && attributes.has(path)),
    });
  } finally {
    await imagefs.stop();
    await rm(scratch, { recursive: true, force: true });
  }
}
