// What the snapshotter remembers of a snapshot, and its form on disk. Names and meanings are containerd's: an *active*
// snapshot takes changes, a *view* does not, a *committed* one is what others stand on.
import { PlatformError } from "@pilotlight/errors";
import * as z from "zod";

const FORMAT = 1;

/** Where the files of a snapshot come from. */
const contentSchema = z.discriminatedUnion("kind", [
  /** What was written into its own directory, over its parent. */
  z.object({ kind: z.literal("files") }),
  /**
   * The root after the first `layers` of an image's `layersTotal` layers, from the converted image: its parents' content
   * is part of it. Nothing of it lies in the snapshot's own directory.
   */
  z.object({
    kind: z.literal("image"),
    manifestDigest: z.string(),
    layers: z.int().min(1),
    layersTotal: z.int().min(1),
    /** How the image was named when it was pulled; empty: unknown. */
    reference: z.string(),
  }),
]);

export type SnapshotContent = z.infer<typeof contentSchema>;
export type ImageContent = Extract<SnapshotContent, { kind: "image" }>;

const epochNs = z
  .string()
  .regex(/^[0-9]{1,20}$/)
  .transform(BigInt);

const recordSchema = z.object({
  format: z.literal(FORMAT),
  /** Names its directory. Never given twice. */
  id: z.int().min(1),
  /** containerd's name for it. */
  key: z.string().min(1),
  /** Key of what it stands on; empty: nothing. */
  parent: z.string(),
  kind: z.enum(["view", "active", "committed"]),
  labels: z.record(z.string(), z.string()),
  createdAt: epochNs,
  updatedAt: epochNs,
  content: contentSchema,
  /** Of a committed snapshot's own files. */
  usage: z.object({ bytes: z.number(), inodes: z.number() }),
});

export type SnapshotRecord = Omit<z.infer<typeof recordSchema>, "format">;
export type SnapshotUsage = SnapshotRecord["usage"];

export const encodeRecord = (record: SnapshotRecord): string =>
  JSON.stringify({ format: FORMAT, ...record }, (_, value) =>
    typeof value === "bigint" ? value.toString() : value,
  );

/** Throws `corrupt` when the text is no record of this version. */
export function decodeRecord(text: string): SnapshotRecord {
  const parsed = recordSchema.safeParse(JSON.parse(text));
  if (!parsed.success) throw new PlatformError("corrupt", z.prettifyError(parsed.error));
  const { format: _, ...record } = parsed.data;
  return record;
}
