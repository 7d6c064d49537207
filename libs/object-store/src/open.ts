// From a URI to a store: the one place that knows all kinds, their credentials and their limits.
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import type { RetryPolicy } from "@pilotlight/errors";
import { azureAccount } from "./azure-credentials.ts";
import { createAzureStore } from "./azure-store.ts";
import { type CredentialSource, credentialChain } from "./credentials.ts";
import { createFileStore } from "./file-store.ts";
import { googleToken } from "./google-credentials.ts";
import { createGoogleStore } from "./google-store.ts";
import { HttpClient } from "./http.ts";
import { createHttpStore } from "./http-store.ts";
import { createHubStore } from "./hub-store.ts";
import { createRetryBudget } from "./retry-budget.ts";
import { S3Requests } from "./s3-requests.ts";
import { createS3Store } from "./s3-store.ts";
import type { ObjectStore } from "./store.ts";
import { parseStoreUri } from "./uri.ts";

const GOOGLE_ENDPOINT_DEFAULT = "https://storage.googleapis.com";
const HUB_ENDPOINT_DEFAULT = "https://huggingface.co";
const REGION_DEFAULT = "us-east-1";

export type OpenOptions = {
  /** S3 credentials instead of the standard chain. */
  credentials?: CredentialSource;
  /** Bearer token for https:// and hf://. Default for hf://: HF_TOKEN, or the hub client's token file. */
  token?: string;
  /** Connections of this store at once; more requests wait. Default 64. */
  connectionsMax?: number;
  /** Longest silence of the far side, ms. Default 30,000. */
  idleTimeoutMs?: number;
  /** Retries of failures that may pass. Default: 5 attempts, 100 ms doubling to 5 s. */
  retry?: RetryPolicy;
  /** Where AWS_*, AZURE_*, GOOGLE_*, HF_ENDPOINT and HF_TOKEN are looked up. Default: the process environment. */
  env?: Record<string, string | undefined>;
};

const RETRY_DEFAULT: RetryPolicy = { attemptsMax: 5, initialDelayMs: 100, delayMsMax: 5000 };

/** Opens a store. No request is made yet. Throws invalidArgument or unsupported for a URI that cannot be one. */
export function openStore(uri: string, options: OpenOptions = {}): ObjectStore {
  const parsed = parseStoreUri(uri);
  if (parsed.scheme === "file") return createFileStore(uri, parsed.directory);
  const env = options.env ?? process.env;
  const http = new HttpClient({
    connectionsMax: options.connectionsMax ?? 64,
    idleTimeoutMs: options.idleTimeoutMs ?? 30_000,
  });
  const budget = createRetryBudget(options.retry ?? RETRY_DEFAULT);
  switch (parsed.scheme) {
    case "s3": {
      const credentials = options.credentials ?? credentialChain({ env, profile: parsed.profile });
      const region = parsed.region ?? env.AWS_REGION ?? env.AWS_DEFAULT_REGION ?? REGION_DEFAULT;
      const endpoint = parsed.endpoint ?? env.AWS_ENDPOINT_URL_S3 ?? env.AWS_ENDPOINT_URL;
      const pathStyle = parsed.pathStyle || (parsed.endpoint === undefined && endpoint !== undefined);
      const target = { bucket: parsed.bucket, endpoint, region, pathStyle };
      const requests = new S3Requests(target, credentials, http, budget);
      return createS3Store({ uri, prefix: parsed.prefix, http, budget, requests });
    }
    case "gs": {
      const { bucket, prefix } = parsed;
      const named = parsed.endpoint ?? env.STORAGE_EMULATOR_HOST?.replace(/\/+$/, "");
      const token = googleToken(env, { anonymousAllowed: named !== undefined });
      const endpoint = named ?? GOOGLE_ENDPOINT_DEFAULT;
      return createGoogleStore({ uri, bucket, prefix, endpoint, token, http, budget });
    }
    case "az": {
      const { container, prefix } = parsed;
      return createAzureStore({ uri, account: azureAccount(parsed, env), container, prefix, http, budget });
    }
    case "http":
      return createHttpStore({ uri, base: parsed.base, http, budget, token: options.token });
    case "hf": {
      const endpoint = parsed.endpoint ?? env.HF_ENDPOINT?.replace(/\/+$/, "") ?? HUB_ENDPOINT_DEFAULT;
      // An empty variable is how people say that there is none.
      const token = (options.token ?? env.HF_TOKEN ?? hubTokenFile(env)) || undefined;
      const { kind, repository, revision } = parsed;
      return createHubStore({ uri, kind, repository, revision, endpoint, token, http, budget });
    }
    default:
      return parsed satisfies never;
  }
}

/** The token that the hub's own client saved at log-in. */
function hubTokenFile(env: Record<string, string | undefined>): string | undefined {
  try {
    return (
      readFileSync(join(env.HF_HOME ?? join(homedir(), ".cache/huggingface"), "token"), "utf8").trim() ||
      undefined
    );
  } catch {
    return undefined;
  }
}
