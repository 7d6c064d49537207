// `EnsureImage`: converts if need be, with progress, then tells what to mount.
import type { EnsureImageRequest, EnsureImageResponseSchema, MessageInitShape } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import type { ConvertProgress } from "@pilotlight/image-conversion";
import { formatPlatform, hostPlatform } from "@pilotlight/oci";
import type { CallContext } from "@pilotlight/service";
import type { ConversionRunner } from "../runner.ts";

type Response = MessageInitShape<typeof EnsureImageResponseSchema>;

export async function* ensureImage(
  runner: ConversionRunner,
  request: EnsureImageRequest,
  call: CallContext,
): AsyncGenerator<Response> {
  if (request.image === "")
    throw new PlatformError("invalidArgument", "image is empty", {
      field: "image",
      remedy: "Name an image.",
    });
  const key = {
    image: request.image,
    platform: request.platform === "" ? formatPlatform(hostPlatform()) : request.platform,
  };
  let latest: ConvertProgress | undefined;
  let wake: () => void = () => {};
  const done = runner.ensure(
    key,
    (progress) => {
      latest = progress;
      wake();
    },
    call.signal,
  );
  const settled = done.then(
    () => true,
    () => true,
  );
  for (;;) {
    const ended = await Promise.race([
      settled,
      new Promise<false>((resolve) => {
        wake = () => resolve(false);
      }),
    ]);
    if (ended) break;
    if (latest !== undefined) yield { event: { case: "progressed", value: progressed(key.image, latest) } };
  }
  const ready = await done;
  yield { event: { case: "ready", value: { ...key, ...ready } } };
}

const progressed = (image: string, progress: ConvertProgress) => ({
  image,
  manifestDigest: progress.manifestDigest,
  bytesDone: BigInt(progress.doneBytes),
  bytesTotal: BigInt(progress.totalBytes),
  bytesPerSecond: BigInt(Math.round(progress.bytesPerSecond)),
});
