// Where S3 credentials come from: given by the caller, the environment's keys, else the standard chain (profile
// and SSO files, web identity, container and instance roles). The chain's library costs 12 MB RSS, so it is loaded
// only when the first two have nothing.
import { PlatformError } from "@pilotlight/errors";
import type { Credentials } from "./sigv4.ts";

export type CredentialSource = () => Promise<Credentials>;

/** Refresh before the end by this much, so that a request signed now does not expire on its way. */
const REFRESH_BEFORE_MS = 5 * 60_000;

export type CredentialOptions = {
  /** The environment to look into. */
  env: Record<string, string | undefined>;
  profile: string | undefined;
};

/** The credential chain. Results are kept until shortly before they expire; concurrent callers share one look-up. */
export function credentialChain(options: CredentialOptions): CredentialSource {
  if (options.profile === undefined) {
    const fromEnvironment = environmentKeys(options.env);
    if (fromEnvironment !== undefined) return async () => fromEnvironment;
  }
  let cached: { credentials: Credentials; refreshAt: number } | undefined;
  let pending: Promise<Credentials> | undefined;
  return async () => {
    if (cached !== undefined && Date.now() < cached.refreshAt) return cached.credentials;
    pending ??= lookUp(options)
      .then((found) => {
        cached = found;
        return found.credentials;
      })
      .finally(() => {
        pending = undefined;
      });
    return pending;
  };
}

function environmentKeys(env: Record<string, string | undefined>): Credentials | undefined {
  const { AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN } = env;
  if (!AWS_ACCESS_KEY_ID || !AWS_SECRET_ACCESS_KEY) return undefined;
  return {
    accessKeyId: AWS_ACCESS_KEY_ID,
    secretAccessKey: AWS_SECRET_ACCESS_KEY,
    ...(AWS_SESSION_TOKEN ? { sessionToken: AWS_SESSION_TOKEN } : {}),
  };
}

async function lookUp(options: CredentialOptions): Promise<{ credentials: Credentials; refreshAt: number }> {
  const { defaultProvider } = await import("@aws-sdk/credential-provider-node");
  try {
    const found = await defaultProvider(options.profile === undefined ? {} : { profile: options.profile })();
    return {
      credentials: {
        accessKeyId: found.accessKeyId,
        secretAccessKey: found.secretAccessKey,
        ...(found.sessionToken === undefined ? {} : { sessionToken: found.sessionToken }),
      },
      refreshAt:
        found.expiration === undefined
          ? Number.POSITIVE_INFINITY
          : found.expiration.getTime() - REFRESH_BEFORE_MS,
    };
  } catch (cause) {
    throw new PlatformError("unauthenticated", "no S3 credentials found", {
      cause,
      remedy:
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile in the URI (?profile=…), or give the machine a role.",
    });
  }
}
