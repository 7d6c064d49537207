// The policy for images, from the settings.
import { readFile } from "node:fs/promises";
import { PlatformError } from "@pilotlight/errors";
import { type ImagePolicy, parseSigningKeys } from "@pilotlight/oci";

/** Throws `invalidArgument` when keys are needed and there are none: a gate without keys must not open. */
export async function loadPolicy(kind: ImagePolicy["kind"], keysFile: string): Promise<ImagePolicy> {
  if (kind !== "signed") return { kind };
  const pem = await readFile(keysFile, "utf8").catch((cause: unknown) => {
    throw new PlatformError(
      "invalidArgument",
      `the signing keys ${JSON.stringify(keysFile)} cannot be read`,
      {
        field: "imageSigningKeysFile",
        remedy: "Name a PEM file with the public keys that you trust.",
        cause,
      },
    );
  });
  return { kind, keys: parseSigningKeys(pem) };
}
