// A converted image of a bucket, as the commands name it; and the bucket for as long as a command needs it.
import { readImageFile, resolveImage } from "@pilotlight/image-conversion";
import type { ImageFile } from "@pilotlight/image-format";
import { type ObjectStore, openStore } from "@pilotlight/object-store";
import { dockerConfigCredentials, type OpenImageOptions, parsePlatform } from "@pilotlight/oci";
import type { Context } from "../context.ts";
import { bucketOf } from "../endpoints.ts";

/** How registries are spoken to. */
export type RegistryChoice = {
  platform?: string;
  registryConfig?: string;
  plainHttp?: string[];
};

/** Which image, in which bucket. `image`: a digest, its beginning, or a reference. */
export type Stored = { image: string; bucket: string | undefined; registry: RegistryChoice };

export const registryOptions = (
  context: Context,
  { platform, registryConfig, plainHttp }: RegistryChoice,
): OpenImageOptions => ({
  signal: context.terminal.interrupted,
  ...(platform !== undefined && { platform: parsePlatform(platform) }),
  ...(registryConfig !== undefined && { credentials: dockerConfigCredentials(registryConfig) }),
  ...(plainHttp !== undefined && { plainHttpRegistries: plainHttp }),
});

export async function withBucket<T>(
  context: Context,
  uri: string | undefined,
  use: (bucket: ObjectStore) => Promise<T>,
): Promise<T> {
  const bucket = openStore(bucketOf(context.endpoints, uri));
  try {
    return await use(bucket);
  } finally {
    await bucket.close();
  }
}

/** Throws `notFound`, and `invalidArgument` where several images begin so. */
export async function findImage(context: Context, bucket: ObjectStore, stored: Stored): Promise<ImageFile> {
  const digest = await resolveImage(bucket, stored.image, registryOptions(context, stored.registry));
  return readImageFile(bucket, digest, context.terminal.interrupted);
}
