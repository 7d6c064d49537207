// Settings of the image converter.
import { BUS_FIELDS, OUTBOX_FIELDS } from "@pilotlight/bus";
import { DEFAULT_CONVERT_LIMITS as LIMITS } from "@pilotlight/image-conversion";
import { REGISTRY_FIELDS } from "@pilotlight/oci/part";
import { bytes, choice, count, defineConfig, durationMs, port, text, uri } from "@pilotlight/service";
import { STORE_FIELDS } from "@pilotlight/store";

export const config = defineConfig("image-converter", {
  ...BUS_FIELDS,
  ...STORE_FIELDS,
  ...OUTBOX_FIELDS,
  grpcHost: text("127.0.0.1", "Address of the gRPC door."),
  grpcPort: port(7462, "Port of the gRPC door."),
  bucketUri: uri(["file", "s3", "gs", "az"], undefined, "Bucket for converted images."),
  conversionsMax: count(2, "Images converted at the same time by this process.", { min: 1, max: 64 }),
  claimMs: durationMs(30_000, "How long a converter may be silent before another takes its work over.", {
    min: 1_000,
  }),
  pollIntervalMs: durationMs(2_000, "How often to look for work that nobody announced.", { min: 100 }),
  layersInFlightMax: count(LIMITS.layersInFlightMax, "Layers read at the same time, per image.", {
    min: 1,
    max: 32,
  }),
  chunksInFlightMax: count(
    LIMITS.chunksInFlightMax,
    "Chunks hashed and compressed at the same time, per image.",
    {
      min: 1,
      max: 1_024,
    },
  ),
  archiveBytesMax: bytes(LIMITS.archiveBytesMax, "Largest unpacked layer; what stops a decompression bomb."),
  contentBytesMax: bytes(
    LIMITS.layer.contentBytesMax,
    "Most bytes of files in a layer, with the holes of sparse files.",
  ),
  entriesMax: count(LIMITS.layer.entriesMax, "Most files, directories and links in a layer.", {
    min: 1,
    max: 100_000_000,
  }),
  closeTimeoutMs: durationMs(1_000, "How long calls may go on when the converter stops."),
  garbageIntervalMs: durationMs(
    0,
    "How often images and compile caches that no version of this platform needs are removed from the bucket; 0: never. For a bucket of its own only.",
  ),
  garbageGraceMs: durationMs(
    7 * 24 * 3_600_000,
    "How long an image or a compile cache stays that no version needs; longer than any conversion.",
    { min: 60_000 },
  ),
  workerImage: text("", "What `pilotlight://worker` stands for; it is never removed."),
  ...REGISTRY_FIELDS,
  imagePolicy: choice(
    ["any", "digest", "signed"],
    "any",
    "Which images may be used: any; only references with a digest; only images with a cosign signature by a trusted key.",
  ),
  imageSigningKeysFile: text("", "PEM file with the public keys that imagePolicy=signed trusts."),
});

export type ConverterConfig = {
  readonly conversionsMax: number;
  readonly claimMs: number;
  readonly pollIntervalMs: number;
};
