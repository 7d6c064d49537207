// Converted images as directories that snapshots stand on: found in the bucket, mounted once for all snapshots, unmounted
// when no snapshot needs them.
//   I1. A layer of an image that was named is promised only after the whole image was mounted: one that cannot be mounted is
//       unpacked ordinarily.
//   I2. Nobody is given a directory that is not mounted: containerd would start a container in an empty root.
//   I3. A mount goes only while nobody is about to use it.
import { mkdir, readdir, rmdir } from "node:fs/promises";
import { join } from "node:path";
import { toPlatformError } from "@pilotlight/errors";
import { chainIdsOf, convertPrefix, imagesOfChain, readImageManifest } from "@pilotlight/image-conversion";
import type { Imagefs, Mount, MountMethod, MountOptions } from "@pilotlight/imagefs";
import type { ObjectStore } from "@pilotlight/object-store";
import { parseImageConfig, type RegistryOptions } from "@pilotlight/oci";
import { gauge, logger } from "@pilotlight/telemetry";
import type { WantedLayer } from "./labels.ts";
import { mountPoints } from "./mount-table.ts";
import type { ImageContent } from "./record.ts";
import type { SnapshotterTimes } from "./times.ts";

export type ImageRootsOptions = {
  /** Holds the mount points. Absolute. */
  directory: string;
  bucket: ObjectStore;
  imagefs: Imagefs;
  method: MountMethod | "auto";
  /** For layers that the bucket has lost, where a snapshot stands on a part of an image. */
  registry: RegistryOptions;
  /** Whether starts are recorded, so that the next one reads ahead. */
  learnStarts: boolean;
  times: SnapshotterTimes;
};

const KNOWN_IMAGES_MAX = 1_000;

type Known = { chainIds: readonly string[] | undefined; at: number };

const mounted = gauge({
  name: "pilotlight_snapshotter_images_mounted",
  help: "Converted images that are mounted for containerd.",
});

export class ImageRoots {
  readonly #options: ImageRootsOptions;
  readonly #log = logger("snapshotter");
  readonly #known = new Map<string, Known>();
  /** Digests of parts of images, by name, while they are mounted. */
  readonly #prefixes = new Map<string, string>();
  /** Mounts that this process made, by name. */
  readonly #mounts = new Map<string, Mount>();
  readonly #mounting = new Map<string, Promise<string>>();
  readonly #unmounting = new Map<string, Promise<void>>();
  /** Names that somebody is about to use, and how many are. */
  readonly #held = new Map<string, number>();
  /** Names of images whose pull has begun, and until when (ms, monotonic) they wait for its end. */
  readonly #pulled = new Map<string, number>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #able: Promise<boolean> | undefined;

  constructor(options: ImageRootsOptions) {
    this.#options = options;
  }

  /**
   * Which part of a converted image the layer is. undefined: the image is not converted, or cannot be mounted, or the bucket does
   * not answer. Never fails: there is always the ordinary way.
   */
  async find(layer: WantedLayer): Promise<ImageContent | undefined> {
    const { reference } = layer;
    const found = await this.#image(layer);
    const position = found?.chainIds.indexOf(layer.chainId) ?? -1;
    if (found === undefined || position < 0) return undefined;
    const { manifestDigest, chainIds } = found;
    const content = { kind: "image", manifestDigest, reference, layersTotal: chainIds.length } as const;
    const whole = { ...content, layers: chainIds.length };
    const isTop = position + 1 === chainIds.length;
    // Nobody says that this image is the one that is pulled: it may only begin alike.
    if (layer.manifestDigest === undefined && !isTop) return { ...content, layers: position + 1 };
    try {
      await this.#root(whole);
    } catch (error) {
      this.#known.set(manifestDigest, { chainIds: undefined, at: performance.now() });
      this.#log.warn("a converted image cannot be mounted; its layers are fetched", {
        reference,
        manifestDigest,
        error: toPlatformError(error),
      });
      return undefined;
    }
    if (!isTop) this.#pulled.set(nameOf(whole), performance.now() + this.#options.times.pullTimeoutMs);
    return { ...content, layers: position + 1 };
  }

  /** Gives the mounted root to `use`; it stays mounted at least until that ends (I3). */
  async with<T>(content: ImageContent, use: (root: string) => Promise<T>): Promise<T> {
    const name = nameOf(content);
    this.#held.set(name, (this.#held.get(name) ?? 0) + 1);
    try {
      return await use(await this.#root(content));
    } finally {
      const others = (this.#held.get(name) ?? 1) - 1;
      if (others === 0) this.#held.delete(name);
      else this.#held.set(name, others);
    }
  }

  /** A container was made on the image: what it reads from now on may be learnt for the next start. */
  started(content: ImageContent): void {
    const mount = this.#mounts.get(nameOf(content));
    if (mount === undefined || !this.#options.learnStarts) return;
    this.#mounts.delete(nameOf(content)); // one start is enough
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      mount.recordStart().then(
        (learnt) => {
          if (learnt !== undefined)
            this.#log.info("learnt from a start", { reference: content.reference, ...learnt });
        },
        (error: unknown) =>
          this.#log.warn("a start could not be learnt from", {
            reference: content.reference,
            error: toPlatformError(error),
          }),
      );
    }, this.#options.times.startLengthMs);
    timer.unref();
    this.#timers.add(timer);
  }

  /** What the image takes on this machine's disk now, in bytes. */
  async diskBytes(content: ImageContent): Promise<number> {
    const key = content.manifestDigest.replace("sha256:", "");
    const stats = await this.#options.imagefs.stats();
    return stats?.images.find((image) => image.key === key)?.diskBytes ?? 0;
  }

  /**
   * Unmounts what no snapshot needs. `needed`: contents of all snapshots that stand on one, or are one; asked before each
   * unmount, for snapshots are made meanwhile.
   */
  async tidy(needed: () => Iterable<ImageContent>): Promise<void> {
    const isNeeded = (name: string) => [...needed()].some((content) => nameOf(content) === name);
    for (const [name, until] of this.#pulled)
      if (isNeeded(name) || performance.now() > until) this.#pulled.delete(name);
    const isBusy = (name: string) =>
      [this.#held, this.#pulled, this.#mounting, this.#unmounting].some((names) => names.has(name));
    for (const name of await namesIn(this.#options.directory)) {
      if (isBusy(name) || isNeeded(name)) continue;
      const leaving = this.#unmount(name).finally(() => this.#unmounting.delete(name));
      this.#unmounting.set(name, leaving);
      await leaving;
    }
    const points = await mountPoints();
    const names = await namesIn(this.#options.directory);
    mounted.set(names.filter((name) => points.has(join(this.#options.directory, name))).length);
  }

  close(): void {
    for (const timer of this.#timers) clearTimeout(timer);
  }

  /** The mounted root directory. Throws what the bucket, the registry and mounting throw. */
  #root(content: ImageContent): Promise<string> {
    const name = nameOf(content);
    const running = this.#mounting.get(name);
    if (running !== undefined) return running;
    const leaving = this.#unmounting.get(name) ?? Promise.resolve();
    const result = leaving.then(() => this.#mount(content, name)).finally(() => this.#mounting.delete(name));
    this.#mounting.set(name, result);
    return result;
  }

  async #mount(content: ImageContent, name: string): Promise<string> {
    const { directory, bucket, imagefs, method, learnStarts, times } = this.#options;
    const mountpoint = join(directory, name);
    // Processes that were killed start again here, and take their dead mounts away.
    await imagefs.ready();
    if ((await mountPoints()).has(mountpoint)) return mountpoint;
    const signal = AbortSignal.timeout(times.mountTimeoutMs);
    const isWhole = content.layers === content.layersTotal;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const options: MountOptions = {
      bucket,
      manifestDigest: isWhole ? content.manifestDigest : await this.#prefix(content, signal),
      mountpoint,
      method,
      ...(isWhole && learnStarts ? {} : { entry: null }),
      signal,
    };
    const mount = await imagefs.mount(options).catch(async (error: unknown) => {
      if (toPlatformError(error).code !== "alreadyExists") throw error;
      // Somebody unmounted it by hand.
      await imagefs.unmount(mountpoint);
      return imagefs.mount(options);
    });
    this.#mounts.set(name, mount);
    this.#log.info("mounted a converted image", { ...content, method: mount.method });
    return mount.root;
  }

  async #unmount(name: string): Promise<void> {
    const path = join(this.#options.directory, name);
    this.#mounts.delete(name);
    this.#prefixes.delete(name);
    try {
      if ((await mountPoints()).has(path)) await this.#options.imagefs.unmount(path);
      // Unmounting may have taken it along.
      await rmdir(path).catch(() => undefined);
    } catch (error) {
      this.#log.warn("an image cannot be unmounted", { path, error: toPlatformError(error) });
    }
  }

  /** The digest under which a part of an image is an image of its own. */
  async #prefix(content: ImageContent, signal: AbortSignal): Promise<string> {
    const name = nameOf(content);
    const known = this.#prefixes.get(name);
    if (known !== undefined) return known;
    const { bucket, registry } = this.#options;
    const { manifestDigest, layers, reference } = content;
    const made = await convertPrefix({ bucket, manifestDigest, layers, reference, registry, signal });
    this.#prefixes.set(name, made);
    return made;
  }

  /** The converted image that the layer belongs to, by its name or by the layer's. */
  async #image({ manifestDigest, chainId }: WantedLayer) {
    const candidates = manifestDigest === undefined ? await this.#imagesOfChain(chainId) : [manifestDigest];
    for (const digest of candidates) {
      const chainIds = await this.#chainIds(digest);
      if (chainIds !== undefined) return { manifestDigest: digest, chainIds };
    }
    return undefined;
  }

  async #chainIds(manifestDigest: string): Promise<readonly string[] | undefined> {
    const known = this.#known.get(manifestDigest);
    const now = performance.now();
    if (
      known !== undefined &&
      (known.chainIds !== undefined || now - known.at < this.#options.times.missingKeepMs)
    )
      return known.chainIds;
    const chainIds = (await this.#isAble()) ? await this.#lookUp(manifestDigest) : undefined;
    this.#known.delete(manifestDigest);
    this.#known.set(manifestDigest, { chainIds, at: now });
    const [oldest] = this.#known.keys();
    if (this.#known.size > KNOWN_IMAGES_MAX && oldest !== undefined) this.#known.delete(oldest);
    return chainIds;
  }

  #lookUp(manifestDigest: string): Promise<readonly string[] | undefined> {
    return this.#ask(async (signal) => {
      const manifest = await readImageManifest(this.#options.bucket, manifestDigest, signal);
      return manifest && chainIdsOf(parseImageConfig(Buffer.from(manifest.ociConfig)));
    });
  }

  async #imagesOfChain(chainId: string): Promise<string[]> {
    if (!(await this.#isAble())) return [];
    return (await this.#ask((signal) => imagesOfChain(this.#options.bucket, chainId, signal))) ?? [];
  }

  /** undefined too when the bucket does not answer in time. */
  async #ask<T>(question: (signal: AbortSignal) => Promise<T>): Promise<T | undefined> {
    try {
      return await question(AbortSignal.timeout(this.#options.times.lookupTimeoutMs));
    } catch (error) {
      this.#log.warn("the bucket cannot be asked for an image; its layers are fetched", {
        error: toPlatformError(error),
      });
      return undefined;
    }
  }

  /** Whether images can be mounted here. Extraction does not count: it keeps no extended attributes, unpacked layers do. */
  #isAble(): Promise<boolean> {
    const { imagefs, method } = this.#options;
    this.#able ??= imagefs.probe().then(({ fanotify, fuse }) => {
      if (method !== "extract" && (fanotify.ok || fuse.ok)) return true;
      this.#log.warn("images cannot be mounted lazily here: layers are fetched and unpacked", {
        fanotify: fanotify.why,
        fuse: fuse.why,
      });
      return false;
    });
    return this.#able;
  }
}

/** What its mount point is called: the part of an image that a snapshot shows. */
const nameOf = ({ manifestDigest, layers }: ImageContent): string =>
  `${manifestDigest.replace("sha256:", "")}-${layers}`;

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (toPlatformError(error).code === "notFound") return [];
    throw error;
  }
}
