// Which images may be used: a gate in front of everything that reads one. Signatures are those of cosign: a signature of the
// digest D stands in the same repository under the tag `sha256-<hex of D>.sig`, as a manifest whose layers are signed payloads.
// Source: https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md ("simple signing", keys only: no certificates,
// no transparency log).
//   T1. What is signed is a digest, so a tag that moves to other content has no signature.
//   T2. Whatever cannot be read or verified counts as no signature; only the registry's own failures are passed on.
import { createPublicKey, type KeyObject, verify } from "node:crypto";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import * as z from "zod";
import { type Descriptor, parseManifestOrIndex } from "./documents.ts";
import type { ContentStore } from "./source.ts";
import { verified } from "./verify.ts";

export type ImagePolicy =
  | { kind: "any" }
  /** The reference itself has to name a digest. */
  | { kind: "digest" }
  /** Signed by one of these keys. */
  | { kind: "signed"; keys: readonly KeyObject[] };

export type PolicySubject = {
  /** The reference in full, for messages. */
  name: string;
  /** The digest in the reference, if it names one. */
  namedDigest: string | undefined;
  /** What the reference leads to: the image's own digest, and that of the index above it. Either may be signed. */
  digests: readonly string[];
  store: ContentStore;
  signal?: AbortSignal | undefined;
};

const SIGNATURE_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE_ANNOTATION = "dev.cosignproject.cosign/signature";
const PAYLOAD_BYTES_MAX = 64 << 10;
const SIGNATURES_MAX = 64;

const payloadSchema = z.looseObject({
  critical: z.looseObject({
    type: z.literal("cosign container image signature"),
    image: z.looseObject({ "docker-manifest-digest": z.string() }),
  }),
});

/** Public keys in PEM form, one after the other, as `cosign generate-key-pair` writes them. Throws `invalidArgument`. */
export function parseSigningKeys(pem: string): KeyObject[] {
  const blocks = pem.match(/-----BEGIN PUBLIC KEY-----[^-]+-----END PUBLIC KEY-----/g) ?? [];
  if (blocks.length === 0)
    throw new PlatformError("invalidArgument", "there is no public key in the file of signing keys", {
      remedy: "Put the cosign.pub of whoever signs your images there: PEM, -----BEGIN PUBLIC KEY-----.",
    });
  return blocks.map((block) => createPublicKey(block));
}

/** Throws `permissionDenied` when the image may not be used, and what the registry throws. */
export async function checkPolicy(policy: ImagePolicy, subject: PolicySubject): Promise<void> {
  if (policy.kind === "any") return;
  if (policy.kind === "digest") {
    if (subject.namedDigest !== undefined) return;
    throw new PlatformError(
      "permissionDenied",
      `${subject.name} names no digest, and this platform accepts only digests`,
      {
        field: "image",
        remedy: `Write ${subject.name.replace(/:[^:/]*$/, "")}@${subject.digests[0]}.`,
      },
    );
  }
  for (const digest of new Set(subject.digests)) if (await isSigned(digest, policy.keys, subject)) return;
  throw new PlatformError(
    "permissionDenied",
    `${subject.name} carries no signature by a key that this platform trusts`,
    {
      field: "image",
      remedy: `Sign it: cosign sign --key KEY ${subject.name.replace(/[:@][^:/]*$/, "")}@${subject.digests[0]}`,
    },
  );
}

async function isSigned(
  digest: string,
  keys: readonly KeyObject[],
  subject: PolicySubject,
): Promise<boolean> {
  for (const descriptor of await signaturesOf(digest, subject)) {
    const signature = Buffer.from(descriptor.annotations?.[SIGNATURE_ANNOTATION] ?? "", "base64");
    const payload = await readPayload(descriptor, subject);
    if (payload === undefined || !keys.some((key) => isBy(key, payload, signature))) continue;
    // Only now is the payload worth reading.
    const parsed = payloadSchema.safeParse(safeJson(payload));
    if (parsed.success && parsed.data.critical.image["docker-manifest-digest"] === digest) return true;
  }
  return false;
}

async function signaturesOf(digest: string, { store, signal }: PolicySubject): Promise<Descriptor[]> {
  try {
    const parsed = parseManifestOrIndex(await store.manifest(`${digest.replace(":", "-")}.sig`, signal));
    if (parsed.kind !== "manifest") return [];
    return parsed.document.layers
      .filter(({ mediaType, size }) => mediaType === SIGNATURE_TYPE && size <= PAYLOAD_BYTES_MAX)
      .slice(0, SIGNATURES_MAX);
  } catch (thrown) {
    const error = toPlatformError(thrown);
    if (error.code === "notFound" || error.code === "corrupt" || error.code === "unsupported") return [];
    throw error;
  }
}

async function readPayload(
  descriptor: Descriptor,
  { store, signal }: PolicySubject,
): Promise<Buffer | undefined> {
  try {
    const pieces: Buffer[] = [];
    for await (const piece of verified(store.blob(descriptor, signal), descriptor, "a signature"))
      pieces.push(Buffer.from(piece));
    return Buffer.concat(pieces);
  } catch (thrown) {
    const error = toPlatformError(thrown);
    if (error.code === "notFound" || error.code === "corrupt") return undefined;
    throw error;
  }
}

/** RSA and elliptic curves sign the payload's SHA-256, Ed25519 the payload itself. */
function isBy(key: KeyObject, payload: Buffer, signature: Buffer): boolean {
  try {
    return verify(key.asymmetricKeyType === "ed25519" ? null : "sha256", payload, key, signature);
  } catch {
    return false;
  }
}

function safeJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString("utf8"));
  } catch {
    return undefined;
  }
}
