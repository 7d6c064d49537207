// An OCI image layout directory (image-layout.md): index.json names manifests, blobs/sha256/HEX holds everything.
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { type Descriptor, DOCUMENT_BYTES_MAX, parseManifestOrIndex } from "./documents.ts";
import { filePieces } from "./pieces.ts";
import type { LayoutReference } from "./reference.ts";
import type { ContentStore } from "./source.ts";

/** The annotations that carry a tag: the spec's, and the one that docker and containerd export. */
const TAG_ANNOTATIONS = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

export function layoutStore(reference: LayoutReference): ContentStore {
  const { directory } = reference;
  return {
    manifest: async (wanted) => {
      if (wanted.startsWith("sha256:")) return readDocument(blobPath(directory, wanted));
      const index = await readDocument(join(directory, "index.json"));
      const parsed = parseManifestOrIndex(index);
      if (parsed.kind !== "index")
        throw new PlatformError("corrupt", `${directory}/index.json is not an image index`);
      const tagged =
        wanted === ""
          ? parsed.document.manifests
          : parsed.document.manifests.filter((m) => hasTag(m, wanted));
      // Without a tag the whole index stands for the image, so that one directory can hold several platforms.
      if (wanted === "" && tagged.length !== 1) return index;
      const chosen = tagged[0];
      if (chosen === undefined) throw noTag(directory, wanted, parsed.document.manifests);
      return readDocument(blobPath(directory, chosen.digest));
    },
    blob: (descriptor, signal) => filePieces(blobPath(directory, descriptor.digest), signal),
  };
}

function hasTag(descriptor: Descriptor, tag: string): boolean {
  return TAG_ANNOTATIONS.some((name) => {
    const value = descriptor.annotations?.[name];
    return value === tag || value?.endsWith(`:${tag}`) === true;
  });
}

function blobPath(directory: string, digest: string): string {
  return join(directory, "blobs", "sha256", digest.slice("sha256:".length));
}

async function readDocument(path: string): Promise<Buffer> {
  try {
    const { size } = await stat(path);
    if (size > DOCUMENT_BYTES_MAX)
      throw new PlatformError(
        "resourceExhausted",
        `${path} has ${size} bytes, the limit is ${DOCUMENT_BYTES_MAX}`,
      );
    return await readFile(path);
  } catch (error) {
    const known = toPlatformError(error);
    if (known.code !== "notFound") throw known;
    throw new PlatformError("notFound", `${path} is not there`, {
      cause: error,
      remedy: "Give the path of an OCI image layout: a directory with index.json and blobs/.",
    });
  }
}

function noTag(directory: string, tag: string, manifests: Descriptor[]): PlatformError {
  const known = manifests.flatMap((m) => TAG_ANNOTATIONS.flatMap((name) => m.annotations?.[name] ?? []));
  return new PlatformError("notFound", `${directory} holds no image tagged ${JSON.stringify(tag)}`, {
    remedy:
      known.length > 0 ? `It holds: ${known.join(", ")}.` : "Its images have no tags: leave the tag out.",
  });
}
