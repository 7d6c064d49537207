// The face of the mounting side: images of a bucket become root directories on this machine. One handle for each cache
// directory; what it mounts stays mounted when the handle, or its process, ends, until it is unmounted or stopped.
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import {
  digestHex,
  hotKey,
  type ImageFile,
  type ImageManifest,
  imageKey,
  packKey,
  parseImageFile,
} from "@pilotlight/image-format";
import type { ObjectStore } from "@pilotlight/object-store";
import { parseImageConfig, type RunConfig, runConfigOf } from "@pilotlight/oci";
import { Daemon } from "./daemon.ts";
import { extractImage } from "./extract.ts";
import { chooseMethod, type MountMethod, type Probe, probeMachine } from "./probe.ts";
import { entryName, exportPath, type RecordedStart, recordStart } from "./profiles.ts";
import { takeSeed } from "./seed.ts";
import { Sharing, type SharingOptions } from "./sharing.ts";
import { type ImagefsStats, statsSchema, type TouchedRun, touchedSchema } from "./stats.ts";
import { DEFAULT_IMAGEFS_TIMES, type ImagefsTimes } from "./times.ts";

export type ImagefsOptions = {
  /** Absolute; kept between runs. Its file system must be a local one (ext4, xfs, btrfs). */
  cacheDir: string;
  /** Bound of the cache on disk; images in use are never evicted. Default 64 GiB. */
  cacheBytesMax?: number;
  /** Caches that 'image seed' filled, on read-only disks too: whole images are mounted from there, nothing is copied. */
  seedDirs?: readonly string[];
  times?: Partial<ImagefsTimes>;
  /** Mount EROFS from loop devices, as kernels before 6.12 need it and as is done there by itself. Only with "fuse". */
  blockDevices?: boolean;
  /** The imagefs program. Default: the one that build.mjs made, if it is there. null: do without, images are extracted. */
  binary?: string | null;
};

export type MountOptions = {
  bucket: ObjectStore;
  /** Digest of the OCI manifest: `ConvertedImage.manifestDigest`. */
  manifestDigest: string;
  /** `ConvertedImage.imageId`; when given, an object with another identity is refused. */
  imageId?: string;
  /** Where the root directory is to appear; made if missing. Not used by extraction. */
  mountpoint: string;
  /** Default "auto". */
  method?: MountMethod | "auto";
  /** A directory that takes what is written to the root. Without it the root is read-only. */
  writableDir?: string;
  /** Bring the rest of the image in the background, at low priority, so that it is local in the end. Default true. */
  fill?: boolean;
  /**
   * Name of the entry point whose profile drives the prefetch: `entryName(command)`. Default: the image's own entrypoint and
   * command. null: no prefetch.
   */
  entry?: string | null;
  signal?: AbortSignal;
};

export type Mount = {
  /** The root directory. For extraction with a writable layer the layer appears only to programs started by `launch`. */
  readonly root: string;
  readonly method: MountMethod;
  readonly manifest: ImageManifest;
  /** The image's own env, entrypoint, command, user and working directory. */
  readonly runConfig: RunConfig;
  /** The layer that `launch` has to put over the root by itself. */
  readonly pendingOverlay: { upper: string; work: string } | undefined;
  /** What was read first, in order, since the image was mounted: runs of 4 KiB pages of the data blob. */
  touched(): Promise<TouchedRun[]>;
  /**
   * Adds this start to the profile of its entry point in the bucket, so that the next one reads what it needs as one stream.
   * To be called once, when the program is up. Undefined where nothing was recorded (extraction, complete images).
   */
  recordStart(): Promise<RecordedStart | undefined>;
  /** Brings the rest of the image now, as the option `fill` does from the beginning. */
  fill(): Promise<void>;
  unmount(): Promise<void>;
};

export const DEFAULT_CACHE_BYTES_MAX = 64 * 2 ** 30;
const IMAGE_OBJECT_BYTES_MAX = 1 << 30;
const BUILT_BINARY = join(import.meta.dirname, "..", "pilotlight-imagefs");
/** Locations are handed over in groups, so that the first ones arrive early. */
const LOCATIONS_AT_ONCE = 16;

/** Opens a cache directory. Nothing is started before the first mount. */
export function openImagefs(options: ImagefsOptions): Imagefs {
  return new Imagefs(options);
}

export class Imagefs {
  readonly cacheDir: string;
  readonly binary: string | undefined;
  readonly #daemon: Daemon | undefined;
  /** Which bucket an image came from, by its key: for questions about locations. */
  readonly #buckets = new Map<string, ObjectStore>();
  #probe: Promise<Probe> | undefined;
  #sharing: Sharing | undefined;
  readonly #seedDirs: readonly string[];
  readonly #times: ImagefsTimes;

  constructor(options: ImagefsOptions) {
    this.cacheDir = options.cacheDir;
    this.#seedDirs = options.seedDirs ?? [];
    this.#times = { ...DEFAULT_IMAGEFS_TIMES, ...options.times };
    const binary = options.binary === undefined ? BUILT_BINARY : options.binary;
    this.binary = binary !== null && existsSync(binary) ? binary : undefined;
    if (this.binary === undefined && typeof options.binary === "string") {
      throw new PlatformError("notFound", `${options.binary} is not there`, {
        field: "binary",
        remedy: "Run node native/imagefs/build.mjs.",
      });
    }
    if (this.binary === undefined) return;
    this.#daemon = new Daemon({
      binary: this.binary,
      cacheDir: options.cacheDir,
      cacheBytesMax: options.cacheBytesMax ?? DEFAULT_CACHE_BYTES_MAX,
      times: this.#times,
      blockDevices: options.blockDevices ?? false,
      onLocate: (key, pack) => void this.#locate(key, [pack]).catch(() => undefined),
    });
  }

  /** What this machine can do; found out once. */
  async probe(): Promise<Probe> {
    await mkdir(this.cacheDir, { recursive: true });
    this.#probe ??= probeMachine(this.binary, this.cacheDir, this.#times.probeTimeoutMs);
    return this.#probe;
  }

  /** Starts the processes, so that the first mount need not. Without the program there is nothing to start. */
  async ready(): Promise<void> {
    await Promise.all([this.probe(), this.#daemon?.call("hello")]);
  }

  /** Shares images with the other nodes of the zone from now on. Without the program there is nothing to share. */
  async share(options: SharingOptions): Promise<void> {
    const daemon = this.#daemon;
    if (daemon === undefined || this.#sharing !== undefined) return;
    this.#sharing = await Sharing.start(
      options,
      this.#times,
      (op, fields) => daemon.call(op, fields),
      () => daemon.isRunning(),
    );
  }

  /** Whether this node is to do what one of the nodes that start an image now has to do; alone it is. */
  async takeTurn(manifestDigest: string, signal: AbortSignal): Promise<{ mine: boolean; end(): void }> {
    return (
      (await this.#sharing?.takeTurn(digestHex(manifestDigest), signal)) ?? {
        mine: true,
        end: () => undefined,
      }
    );
  }

  /**
   * Mounts an image. Throws `notFound` (not converted), `corrupt`, `unsupported` (format version, forced method),
   * `alreadyExists` (mount point in use), `resourceExhausted`, `permissionDenied`, `unavailable`.
   */
  async mount(options: MountOptions): Promise<Mount> {
    const method = chooseMethod(await this.probe(), options.method ?? "auto");
    const key = digestHex(options.manifestDigest);
    const announced = this.#sharing?.announce(key);
    try {
      return await this.#mountBy(method, key, options);
    } finally {
      announced?.();
    }
  }

  async #mountBy(method: MountMethod, key: string, options: MountOptions): Promise<Mount> {
    const file = await this.#imageFile(options, key);
    const { manifest } = file;
    if (options.imageId !== undefined && options.imageId !== manifest.imageId) {
      throw new PlatformError(
        "corrupt",
        `the bucket's image of ${options.manifestDigest} is ${manifest.imageId}, not ${options.imageId}`,
        {
          remedy: "Somebody replaced the object: delete it and convert the image again.",
        },
      );
    }
    const runConfig = runConfigOf(parseImageConfig(Buffer.from(manifest.ociConfig)));
    const layer =
      options.writableDir === undefined
        ? undefined
        : { upper: join(options.writableDir, "upper"), work: join(options.writableDir, "work") };
    if (method === "extract") {
      const root = join(this.cacheDir, "trees", key);
      await mkdir(join(this.cacheDir, "trees"), { recursive: true });
      await extractImage(file, options.bucket, root, options.signal);
      return {
        root,
        method,
        manifest,
        runConfig,
        pendingOverlay: layer,
        touched: async () => [],
        recordStart: async () => undefined,
        fill: async () => undefined,
        unmount: async () => undefined,
      };
    }
    const entry =
      options.entry === undefined ? entryName([...runConfig.entrypoint, ...runConfig.cmd]) : options.entry;
    await this.#mountByDaemon(options, key, file, method, layer, entry);
    const touched = async () => touchedSchema.parse(await this.#call("touched", { key })).runs;
    return {
      root: options.mountpoint,
      method,
      manifest,
      runConfig,
      pendingOverlay: undefined,
      touched,
      recordStart: async () => {
        const runs = await touched();
        return runs.length === 0 || entry === null
          ? undefined
          : this.#recordStart(options.bucket, file, key, entry, runs);
      },
      fill: async () => void (await this.#call("fill", { key })),
      unmount: () => this.unmount(options.mountpoint),
    };
  }

  /** Takes a mount away, whoever made it. What is in use is detached and goes with its last user. */
  async unmount(mountpoint: string): Promise<void> {
    await this.#call("unmount", { target: mountpoint });
    await rm(mountpoint, { recursive: false, force: true }).catch(() => undefined);
  }

  /** What the processes of this cache directory did and hold; undefined when none run. */
  async stats(): Promise<ImagefsStats | undefined> {
    if ((await this.#daemon?.isRunning()) !== true) return undefined;
    return statsSchema.parse(await this.#call("stats"));
  }

  /** Unmounts everything and ends the processes. The cache stays. */
  async stop(): Promise<void> {
    await this.#sharing?.close();
    await this.#daemon?.stop();
  }

  /** Ends this handle only: mounts and processes stay. */
  async close(): Promise<void> {
    await this.#sharing?.close();
    await this.#daemon?.close();
  }

  #call(op: string, fields?: Record<string, unknown>): Promise<unknown> {
    if (this.#daemon === undefined)
      throw new PlatformError("unsupported", "the imagefs program is not built", {
        remedy: "Run node native/imagefs/build.mjs.",
      });
    return this.#daemon.call(op, fields);
  }

  async #mountByDaemon(
    options: MountOptions,
    key: string,
    file: ImageFile,
    method: MountMethod,
    overlay: { upper: string; work: string } | undefined,
    entry: string | null,
  ): Promise<void> {
    const { bucket, manifestDigest, mountpoint } = options;
    this.#buckets.set(key, bucket);
    const source = await sourceOf(bucket, manifestDigest);
    // Whether the bucket has it the handler will see: asking twice would cost a round trip.
    const hot = entry === null ? undefined : { key: hotKey(manifestDigest, entry) };
    const located =
      source.kind === "http" && hot !== undefined
        ? await locationOf(bucket, hot.key).catch(() => null)
        : null;
    await this.#sharing?.refresh().catch(() => undefined);
    await this.#call("mount", {
      key,
      target: mountpoint,
      method,
      source,
      overlay: overlay ?? null,
      fill: options.fill ?? true,
      record: true,
      hot: hot ?? null,
      locations: hot === undefined || located === null ? {} : { [hot.key]: located },
    });
    if (source.kind !== "http") return;
    const packs = file.index.packs.slice(1).map(({ sha256 }) => packKey(sha256));
    // The mount is usable meanwhile: what is read first is asked for by its own question.
    void this.#locate(key, packs).catch(() => undefined);
  }

  #recordStart(
    bucket: ObjectStore,
    file: ImageFile,
    key: string,
    entry: string,
    touched: TouchedRun[],
  ): Promise<RecordedStart> {
    return recordStart({
      bucket,
      file,
      entry,
      touched,
      scratchPath: exportPath(this.cacheDir, key),
      export: async (runs, path) => {
        await this.#call("export", { key, path, runs: runs.map(({ page, pages }) => [page, pages]) });
      },
    });
  }

  /** Tells the handler where to read packs from. */
  async #locate(key: string, packs: readonly string[]): Promise<void> {
    const bucket = this.#buckets.get(key);
    if (bucket === undefined) return;
    for (let i = 0; i < packs.length; i += LOCATIONS_AT_ONCE) {
      const located = await Promise.all(
        packs
          .slice(i, i + LOCATIONS_AT_ONCE)
          .map(async (pack) => [pack, await locationOf(bucket, pack)] as const),
      );
      await this.#call("locations", {
        key,
        locations: Object.fromEntries(located),
      });
    }
  }

  /** The image object, from the cache or the bucket, checked either way. */
  async #imageFile(options: MountOptions, key: string): Promise<ImageFile> {
    const directory = join(this.cacheDir, "images", key);
    const path = join(directory, "image.plimage");
    await takeSeed(this.#seedDirs, key, directory);
    const cached = await readFile(path).catch(() => undefined);
    if (cached !== undefined) {
      try {
        return parseImageFile(cached);
      } catch {
        await rm(path, { force: true });
      }
    }
    const bytes =
      (await this.#sharing?.imageObject(options.bucket, options.manifestDigest, IMAGE_OBJECT_BYTES_MAX)) ??
      (await imageObject(options));
    const file = parseImageFile(bytes);
    if (file.manifest.manifestDigest !== options.manifestDigest) {
      throw new PlatformError("corrupt", `the object of ${options.manifestDigest} holds another image`, {
        remedy: "Delete it and convert the image again.",
      });
    }
    await mkdir(directory, { recursive: true });
    const partial = `${path}.${randomUUID()}`;
    await writeFile(partial, bytes);
    await rename(partial, path);
    return file;
  }
}

async function imageObject({ bucket, manifestDigest, signal }: MountOptions): Promise<Buffer> {
  const { bytes } = await bucket.get(imageKey(manifestDigest), {
    bytesMax: IMAGE_OBJECT_BYTES_MAX,
    ...(signal && { signal }),
  });
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

type Source = { kind: "directory"; path: string } | { kind: "http" };

/** How the handler reads this bucket: as a directory, or by locations. */
async function sourceOf(bucket: ObjectStore, manifestDigest: string): Promise<Source> {
  const key = imageKey(manifestDigest);
  const where = await bucket.place(key);
  if (where.kind === "file" && where.path.endsWith(`/${key}`))
    return { kind: "directory", path: where.path.slice(0, -key.length - 1) };
  return { kind: "http" };
}

type Location = { url: string; headers: Record<string, string>; expiresAt: number };

/** null: the bucket does not have it. Other failures are thrown: the handler asks again. */
async function locationOf(bucket: ObjectStore, pack: string): Promise<Location | null> {
  try {
    const where = await bucket.place(pack);
    if (where.kind !== "http")
      throw new PlatformError("internal", `${pack} is a file in a bucket that is none`);
    // JSON knows no infinity.
    return {
      url: where.url,
      headers: where.headers,
      expiresAt: Math.min(where.expiresAt, Number.MAX_SAFE_INTEGER),
    };
  } catch (error) {
    if (toPlatformError(error).code === "notFound") return null;
    throw error;
  }
}
