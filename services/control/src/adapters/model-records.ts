// The records of models, read where the models lie. Nothing of the catalogue is kept twice: what is in the bucket is what there is.
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { type CatalogueEntry, findModel, listModels } from "@pilotlight/models/catalogue-entry";
import type { ObjectStore } from "@pilotlight/object-store";
import { resolveSource } from "../domain/spec-message.ts";

export type ModelRecords = {
  /** Null where a source has no record. Throws `unavailable` and the like where it cannot be read. */
  find(source: string): Promise<CatalogueEntry | null>;
  /** Those in the platform's bucket. */
  list(): Promise<CatalogueEntry[]>;
};

/** Every record of a bucket takes longer than one: so many times the wait for one. */
const LIST_TIMEOUT_FACTOR = 5;

export function createModelRecords(config: { bucketUri: string; bucketTimeoutMs: number }): ModelRecords {
  const within = async <T>(
    uri: string,
    timeoutMs: number,
    read: (store: ObjectStore, signal: AbortSignal) => Promise<T>,
  ): Promise<T> => {
    // Loaded when it is first needed: few processes of control ever are asked.
    const { openStore } = await import("@pilotlight/object-store");
    const store = openStore(uri, { retry: { attemptsMax: 1, initialDelayMs: 1, delayMsMax: 1 } });
    try {
      return await read(store, AbortSignal.timeout(timeoutMs));
    } catch (thrown) {
      const error = toPlatformError(thrown);
      throw new PlatformError(error.code, `${store.uri} cannot be read: ${error.message}`, {
        remedy: error.remedy ?? "Check the bucket's address (BUCKET_URI) and control's credentials for it.",
        cause: error,
      });
    } finally {
      await store.close();
    }
  };
  return {
    find: (source) =>
      within(resolveSource(source, config.bucketUri), config.bucketTimeoutMs, async (store, signal) => {
        return (await findModel(store, source, signal))?.entry ?? null;
      }),
    list: () =>
      within(config.bucketUri, LIST_TIMEOUT_FACTOR * config.bucketTimeoutMs, (store, signal) =>
        Array.fromAsync(listModels(store, signal)),
      ),
  };
}
