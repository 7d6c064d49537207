// `image convert --bucket`: the conversion in this process, for which nothing of the platform has to run.
import { type ConvertProgress, convertImage } from "@pilotlight/image-conversion";
import type { Context } from "../context.ts";
import { formatBytes, formatDuration, formatPercent, formatProgress } from "../text/format.ts";
import { createLiveView } from "../view/live-view.ts";
import { type RegistryChoice, registryOptions, withBucket } from "./stored-image.ts";

export const convertHere = (
  context: Context,
  image: string,
  bucketUri: string,
  registry: RegistryChoice,
): Promise<void> =>
  withBucket(context, bucketUri, async (bucket) => {
    const view = createLiveView(context.terminal);
    const startedAt = Date.now();
    const { platform, signal, ...options } = registryOptions(context, registry);
    const converted = await convertImage({
      source: image,
      bucket,
      registry: options,
      ...(platform && { platform }),
      ...(signal && { signal }),
      onProgress: (progress) => view.show([line(image, progress)]),
    });
    view.end();
    const durationMs = Date.now() - startedAt;
    context.show({ ...converted, durationMs }, () => [
      `${converted.reference} is ${converted.alreadyConverted ? "there already" : "converted"}: ${converted.manifestDigest}`,
      `  ${formatBytes(converted.sizes.contentBytes)} of files, ${formatBytes(converted.sizes.wireBytes)} stored, ${formatBytes(converted.uploadedBytes)} uploaded, ${formatDuration(durationMs)}`,
    ]);
  });

function line(image: string, progress: ConvertProgress) {
  const { phase, layersDone, layersTotal, doneBytes, totalBytes, bytesPerSecond } = progress;
  const tenths = Math.floor((doneBytes / Math.max(1, totalBytes)) * 10) / 10;
  const layers = phase === "layers" ? `, ${layersDone} of ${layersTotal} layers` : "";
  const fact = `${image}: ${phase}${phase === "layers" ? `, ${formatPercent(tenths)}` : ""}`;
  const text = `${image}: ${phase}${layers}  ${formatProgress({ bytesDone: doneBytes, bytesTotal: totalBytes, bytesPerSecond })}`;
  return { key: "convert", text: phase === "layers" ? text : fact, fact };
}
