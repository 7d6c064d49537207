// Reading from a registry by the OCI distribution API: manifests, and blobs that go on where a connection was cut.
// Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md.
import { setTimeout as sleep } from "node:timers/promises";
import { backoffMs, PlatformError, type RetryPolicy, retry, toPlatformError } from "@pilotlight/errors";
import { type Descriptor, DOCUMENT_BYTES_MAX, MEDIA_TYPES } from "./documents.ts";
import type { RegistryReference } from "./reference.ts";
import {
  basicHeader,
  type CredentialProvider,
  fetchToken,
  isLoopback,
  parseChallenge,
  type RegistryCredentials,
} from "./registry-auth.ts";
import type { ContentStore } from "./source.ts";

/** How long a registry is waited for, and how often it is asked again. */
export type RegistryPatience = {
  /** An answer must begin, and a body must go on, within this time. */
  stallTimeoutMs: number;
  retry: RetryPolicy;
  /** A registry that wants a longer pause is asked again as others are. */
  retryAfterMsMax: number;
};

export const DEFAULT_REGISTRY_PATIENCE: RegistryPatience = {
  stallTimeoutMs: 30_000,
  retry: { attemptsMax: 6, initialDelayMs: 250, delayMsMax: 8_000 },
  retryAfterMsMax: 3_600_000,
};

export type RegistryOptions = {
  /** Default: anonymous. */
  credentials?: CredentialProvider;
  /** Registries that are spoken to over plain HTTP. Loopback addresses are always. */
  plainHttpRegistries?: readonly string[];
  patience?: Partial<RegistryPatience>;
};

const ACCEPT = [
  MEDIA_TYPES.index,
  MEDIA_TYPES.manifest,
  MEDIA_TYPES.dockerIndex,
  MEDIA_TYPES.dockerManifest,
].join(", ");

export function registryStore(reference: RegistryReference, options: RegistryOptions): ContentStore {
  const client = new RegistryClient(reference, options);
  return {
    manifest: (wanted, signal) => client.manifest(wanted, signal),
    blob: (descriptor, signal) => client.blob(descriptor, signal),
  };
}

class RegistryClient {
  readonly #reference: RegistryReference;
  readonly #base: string;
  readonly #credentials: CredentialProvider | undefined;
  readonly #patience: RegistryPatience;
  #authorization: string | undefined;

  constructor(reference: RegistryReference, options: RegistryOptions) {
    this.#reference = reference;
    this.#credentials = options.credentials;
    this.#patience = { ...DEFAULT_REGISTRY_PATIENCE, ...options.patience };
    const host = reference.registry === "docker.io" ? "registry-1.docker.io" : reference.registry;
    const plain =
      isLoopback(host.replace(/:\d+$/, "")) ||
      options.plainHttpRegistries?.includes(reference.registry) === true;
    this.#base = `${plain ? "http" : "https"}://${host}/v2/${reference.repository}`;
  }

  async manifest(wanted: string, signal: AbortSignal | undefined): Promise<Buffer> {
    return retry(
      async () => {
        const watch = new StallWatch(this.#patience.stallTimeoutMs, signal);
        try {
          const response = await this.#request(
            `${this.#base}/manifests/${wanted}`,
            { accept: ACCEPT },
            watch.signal,
          );
          const pieces: Uint8Array[] = [];
          let bytes = 0;
          for await (const piece of bodyOf(response, watch)) {
            bytes += piece.length;
            if (bytes > DOCUMENT_BYTES_MAX)
              throw new PlatformError("corrupt", `the manifest is above ${DOCUMENT_BYTES_MAX} bytes`);
            pieces.push(piece);
          }
          return Buffer.concat(pieces);
        } finally {
          watch.stop();
        }
      },
      this.#patience.retry,
      signal === undefined ? {} : { signal },
    );
  }

  /** Each attempt asks for what is still missing; attempts that brought bytes do not count against the budget. */
  async *blob(descriptor: Descriptor, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
    let offset = 0;
    let failures = 0;
    while (true) {
      const before = offset;
      const watch = new StallWatch(this.#patience.stallTimeoutMs, signal);
      try {
        for await (const piece of this.#blobFrom(descriptor, offset, watch)) {
          offset += piece.length;
          yield piece;
        }
        if (offset >= descriptor.size) return;
        throw new PlatformError(
          "unavailable",
          `${descriptor.digest} ended after ${offset} of ${descriptor.size} bytes`,
        );
      } catch (thrown) {
        const error = toPlatformError(thrown);
        failures = offset > before ? 1 : failures + 1;
        if (!error.retryable || failures >= this.#patience.retry.attemptsMax || signal?.aborted) throw error;
        const delayMs = Math.max(
          backoffMs(this.#patience.retry, failures, Math.random()),
          error.retryAfterMs ?? 0,
        );
        await sleep(delayMs, undefined, signal && { signal });
      } finally {
        watch.stop();
      }
    }
  }

  async *#blobFrom(descriptor: Descriptor, offset: number, watch: StallWatch): AsyncGenerator<Uint8Array> {
    const range = offset > 0 ? { range: `bytes=${offset}-` } : undefined;
    const response = await this.#request(
      `${this.#base}/blobs/${descriptor.digest}`,
      range ?? {},
      watch.signal,
    );
    // A registry that does not know ranges sends everything again.
    let skip = offset > 0 && response.status !== 206 ? offset : 0;
    for await (const piece of bodyOf(response, watch)) {
      const skipped = Math.min(skip, piece.length);
      skip -= skipped;
      if (skipped < piece.length) yield piece.subarray(skipped);
    }
  }

  async #request(url: string, headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
    // fetch() follows redirects and drops the authorization header on the way to another origin.
    const ask = () =>
      fetch(url, {
        signal,
        headers: { ...headers, ...(this.#authorization && { authorization: this.#authorization }) },
      });
    let response = await ask();
    if (response.status === 401) {
      await response.body?.cancel();
      this.#authorization = await this.#authorize(response.headers.get("www-authenticate"), signal);
      response = await ask();
    }
    if (response.ok) return response;
    await response.body?.cancel();
    throw this.#refusal(response, url);
  }

  async #authorize(header: string | null, signal: AbortSignal): Promise<string> {
    const { registry, repository } = this.#reference;
    const credentials: RegistryCredentials | undefined = await this.#credentials?.(registry);
    const challenge = parseChallenge(header);
    if (challenge?.scheme === "bearer")
      return `Bearer ${await fetchToken(challenge, `repository:${repository}:pull`, credentials, signal)}`;
    if (challenge?.scheme === "basic" && credentials !== undefined) return basicHeader(credentials);
    throw new PlatformError("unauthenticated", `${registry} wants credentials for ${repository}`, {
      remedy:
        "Configure the registry's user name and password (docker login writes them where they are read).",
    });
  }

  #refusal(response: Response, url: string): PlatformError {
    const { registry, repository } = this.#reference;
    const what = `${registry}/${repository}: ${new URL(url).pathname.split("/").slice(-2).join(" ")}`;
    const status = response.status;
    if (status === 404)
      return new PlatformError("notFound", `${what} is not there`, {
        remedy: "Check name, tag and registry.",
      });
    if (status === 401) return new PlatformError("unauthenticated", `${what}: the credentials were refused`);
    if (status === 403) return new PlatformError("permissionDenied", `${what}: access denied`);
    const retryAfterMs = Number(response.headers.get("retry-after")) * 1_000;
    const retryAfter =
      retryAfterMs > 0 && retryAfterMs <= this.#patience.retryAfterMsMax ? { retryAfterMs } : {};
    if (status === 429)
      return new PlatformError("resourceExhausted", `${what}: too many requests`, retryAfter);
    if (status >= 500) return new PlatformError("unavailable", `${what}: HTTP ${status}`, retryAfter);
    return new PlatformError("unsupported", `${what}: unexpected HTTP ${status}`);
  }
}

/** Aborts a request whose answer, or next piece, does not come in time. */
class StallWatch {
  readonly #controller = new AbortController();
  readonly #timer: NodeJS.Timeout;
  readonly signal: AbortSignal;
  #paused = false;

  constructor(timeoutMs: number, signal: AbortSignal | undefined) {
    this.#timer = setTimeout(() => {
      if (this.#paused) this.#timer.refresh();
      else this.#controller.abort(new PlatformError("deadlineExceeded", `nothing came for ${timeoutMs} ms`));
    }, timeoutMs);
    this.signal =
      signal === undefined ? this.#controller.signal : AbortSignal.any([signal, this.#controller.signal]);
  }

  alive(): void {
    this.#paused = false;
    this.#timer.refresh();
  }

  /** The reader has the turn: only waiting for the network counts. */
  pause(): void {
    this.#paused = true;
  }

  stop(): void {
    clearTimeout(this.#timer);
  }
}

async function* bodyOf(response: Response, watch: StallWatch): AsyncGenerator<Uint8Array> {
  watch.alive();
  if (response.body === null) return;
  for await (const piece of response.body) {
    watch.pause();
    yield piece;
    watch.alive();
  }
}
