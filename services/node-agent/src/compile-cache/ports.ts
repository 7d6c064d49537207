// Compile caches as a replica's life needs them: whose cache it is, where it lies, when it is saved.
import { cpus } from "node:os";
import type { ImageToMount } from "@pilotlight/compute";
import type { CacheFolders } from "../adapters/prepare-launch.ts";
import type { CompileCache, Replica } from "../domain/replica.ts";
import type { CacheWish, CompileCaches } from "./compile-caches.ts";
import { compileCacheKey } from "./key.ts";

const MIB = 1024 ** 2;

export function compileCachePorts(caches: CompileCaches, acceleratorKind: string) {
  const machine = { acceleratorKind, cpu: cpus()[0]?.model ?? "" };
  const wishOf = ({ assignment }: Replica, key: string): CacheWish => {
    const spec = assignment.deployment?.compileCache;
    return { key, variables: spec?.variables ?? [], bytesMax: (spec?.sizeMaxMib ?? 0) * MIB };
  };
  return {
    async restore(replica: Replica, image: ImageToMount): Promise<CompileCache | undefined> {
      const key = compileCacheKey(replica.assignment, image, machine);
      return key === undefined ? undefined : caches.restore(wishOf(replica, key));
    },
    async save(replica: Replica, signal: AbortSignal): Promise<number> {
      const cache = replica.compileCache;
      return cache === undefined ? 0 : caches.save(wishOf(replica, cache.key), cache, signal);
    },
    foldersOf(replica: Replica): CacheFolders | undefined {
      const key = replica.compileCache?.key;
      if (key === undefined) return undefined;
      return { folder: caches.folder(key), environment: caches.environment(wishOf(replica, key)) };
    },
    /** Keys of the replicas that are not gone. */
    inUse: (replicas: readonly Replica[]): Set<string> =>
      new Set(
        replicas.flatMap(({ state, compileCache }) =>
          state.kind === "gone" || compileCache === undefined ? [] : [compileCache.key],
        ),
      ),
  };
}
