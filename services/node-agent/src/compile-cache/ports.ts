// Compile caches as a replica's life needs them: whose cache it is, where it lies, when it is saved.
import { cpus } from "node:os";
import { compileCacheKey, specificationOf } from "@pilotlight/compile-caches";
import type { ImageToMount } from "@pilotlight/compute";
import type { CacheFolders } from "../adapters/prepare-launch.ts";
import type { CompileCache, Replica } from "../domain/replica.ts";
import type { CacheWish, CompileCaches } from "./compile-caches.ts";

const MIB = 1024 ** 2;

export function compileCachePorts(caches: CompileCaches, acceleratorKind: string) {
  const machine = { acceleratorKind, cpu: cpus()[0]?.model ?? "" };
  const wishOf = ({ assignment }: Replica, manifestDigest: string): CacheWish | undefined => {
    const { application, deployment } = assignment;
    const spec = deployment?.compileCache;
    const specification = deployment && specificationOf(application, deployment);
    if (spec === undefined || specification === undefined) return undefined;
    return {
      key: compileCacheKey(specification, manifestDigest, machine),
      owner: { application, deployment: deployment?.name ?? "", specification, manifestDigest },
      variables: spec.variables,
      bytesMax: spec.sizeMaxMib * MIB,
    };
  };
  /** The wish of a replica whose cache was restored; the key is the one that its folder has. */
  const knownWish = (replica: Replica): CacheWish | undefined => {
    const cache = replica.compileCache;
    const wish = cache && wishOf(replica, cache.manifestDigest);
    return wish && { ...wish, key: cache.key };
  };
  return {
    async restore(replica: Replica, image: ImageToMount): Promise<CompileCache | undefined> {
      const wish = wishOf(replica, image.manifestDigest);
      return wish && caches.restore(wish);
    },
    async save(replica: Replica, signal: AbortSignal): Promise<number> {
      const [cache, wish] = [replica.compileCache, knownWish(replica)];
      return cache === undefined || wish === undefined ? 0 : caches.save(wish, cache, signal);
    },
    foldersOf(replica: Replica): CacheFolders | undefined {
      const wish = knownWish(replica);
      return wish && { folder: caches.folder(wish.key), environment: caches.environment(wish) };
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
