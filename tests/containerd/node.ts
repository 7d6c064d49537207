// One machine of a test: a registry with three images, of which one is converted, a node agent with its snapshotter, and a
// converter that only listens.
//   tools     converted
//   sibling   begins with the same layer as `tools`, not converted
//   stranger  shares nothing, not converted
import { readFileSync } from "node:fs";
import { mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { ImageConverterService } from "@pilotlight/contracts";
import { convertImage } from "@pilotlight/image-conversion";
import { openImagefs } from "@pilotlight/imagefs";
import { openStore } from "@pilotlight/object-store";
import {
  hostPlatform,
  type LayerSource,
  MERGED_USR_LINKS,
  sharedLibrarySources,
  writeOciLayout,
} from "@pilotlight/oci";
import { freePort, runCommand } from "@pilotlight/servers";
import { type GrpcDoor, grpcService, serveGrpc } from "@pilotlight/service";
import { type ServiceProcess, startServiceProcess, startTestNats } from "@pilotlight/testing";
import { type ImageRegistry, startImageRegistry } from "./image-registry.ts";

const AGENT = new URL("../../services/node-agent/src/main.ts", import.meta.url);
const PROGRAMS = ["sh", "cat", "sleep"];
const GREETINGS = { tools: "hello again\n", sibling: "from a sibling\n", stranger: "from afar\n" };

export type ImageName = keyof typeof GREETINGS;
export const IMAGE_NAMES = Object.keys(GREETINGS) as ImageName[];

/** Why no container can be started here; undefined: one can. */
export async function containerHindrance(): Promise<string | undefined> {
  if (process.geteuid?.() !== 0) return "it needs root";
  return runCommand("runc", ["--version"]).then(
    () => undefined,
    () => "runc is not installed",
  );
}

export class SnapshotNode {
  readonly folder: string;
  readonly registry: ImageRegistry;
  /** Images that the converter was asked for. */
  readonly asked: string[];
  readonly #environment: Record<string, string>;
  readonly #digests: ReadonlyMap<string, string>;
  readonly #stops: (() => Promise<unknown>)[];
  #agent: ServiceProcess;

  private constructor(
    parts: Pick<SnapshotNode, "folder" | "registry" | "asked">,
    environment: Record<string, string>,
    digests: ReadonlyMap<string, string>,
    agent: ServiceProcess,
    stops: (() => Promise<unknown>)[],
  ) {
    ({ folder: this.folder, registry: this.registry, asked: this.asked } = parts);
    this.#environment = environment;
    this.#digests = digests;
    this.#agent = agent;
    this.#stops = stops;
  }

  static async start(): Promise<SnapshotNode> {
    const folder = await realpath(await mkdtemp(join(tmpdir(), "ctrd-")));
    const asked: string[] = [];
    const [{ digests, registry, bucketUri }, converter, nats] = await Promise.all([
      offerImages(folder),
      serveConverter(asked),
      startTestNats(),
    ]);
    const environment = {
      NATS_URL: nats.url,
      STATE_DIR: join(folder, "state"),
      BUCKET_URI: bucketUri,
      GRPC_PORT: String(await freePort()),
      ADMIN_PORT: "0",
      IMAGE_CONVERTER_ADDRESS: converter.address,
      SEGMENT_DIRS: join(folder, "segments"),
      CONTAINERD_SOCKET: socketIn(folder),
      ACCELERATORS: "1",
    };
    const agent = await startServiceProcess(AGENT, environment);
    const stops = [() => converter.close(0), () => registry.close(), () => nats.stop()];
    return new SnapshotNode({ folder, registry, asked }, environment, digests, agent, stops);
  }

  /** Where the snapshotter serves. */
  get socket(): string {
    return socketIn(this.folder);
  }

  get snapshotDirectory(): string {
    return join(this.folder, "state/containerd");
  }

  reference(image: ImageName): string {
    return `${this.registry.host}/${image}:v1`;
  }

  /** By its digest, as the converter is asked for it. */
  pinned(image: ImageName): string {
    return `${this.reference(image)}@${this.#digests.get(image)}`;
  }

  /** Digests of the image's layers. */
  layersOf(image: ImageName): string[] {
    const digest = (this.#digests.get(image) ?? "").replace("sha256:", "");
    const manifest = readFileSync(join(this.folder, "layouts", image, "blobs/sha256", digest), "utf8");
    return (JSON.parse(manifest) as { layers: { digest: string }[] }).layers.map((layer) => layer.digest);
  }

  /** A container's name: runc knows those of the whole machine. */
  named(id: string): string {
    return `${id}-${basename(this.folder)}`;
  }

  async killAgent(): Promise<void> {
    await this.#agent.kill("SIGKILL");
  }

  async startAgent(): Promise<void> {
    this.#agent = await startServiceProcess(AGENT, this.#environment);
  }

  /** Ends what mounts images, and their mounts, as the end of a machine does. */
  async endMounting(): Promise<void> {
    await openImagefs({ cacheDir: join(this.folder, "state/image-cache") }).stop();
  }

  /** Mount points in the agent's folder. */
  mounts(): string[] {
    return readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .map((line) => line.split(" ")[4] ?? "")
      .filter((path) => path.startsWith(join(this.folder, "state/")));
  }

  async stop(): Promise<void> {
    await this.#agent.stop();
    await this.endMounting();
    for (const stop of this.#stops) await stop();
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** Puts the images into a registry, and `tools` converted into a bucket, both in `folder`. */
export async function offerImages(
  folder: string,
): Promise<{ digests: Map<string, string>; registry: ImageRegistry; bucketUri: string }> {
  const digests = await writeImages(join(folder, "layouts"));
  const layouts = IMAGE_NAMES.map((name) => [name, join(folder, "layouts", name)] as const);
  const bucketUri = `file://${folder}/bucket`;
  await convertImage({ source: `oci://${folder}/layouts/tools:v1`, bucket: openStore(bucketUri) });
  return { digests, registry: await startImageRegistry(new Map(layouts), folder), bucketUri };
}

const socketIn = (folder: string) => join(folder, "s.sock");

async function writeImages(directory: string): Promise<Map<string, string>> {
  const base = await baseLayer();
  const greeting = (image: ImageName): LayerSource[] => [{ to: "/greeting", content: GREETINGS[image] }];
  const images: Record<ImageName, LayerSource[][]> = {
    tools: [base, [{ to: "/greeting", content: "hello\n" }], greeting("tools")],
    sibling: [base, greeting("sibling")],
    stranger: [[...base, { to: "/stranger", content: "" }], greeting("stranger")],
  };
  const digests = new Map<string, string>();
  for (const [image, layers] of Object.entries(images)) {
    const { manifestDigest } = await writeOciLayout({
      directory: join(directory, image),
      tag: "v1",
      platform: hostPlatform(),
      gzipLevel: 1,
      layers,
      run: { cmd: ["cat", "/greeting"], env: { PATH: "/usr/bin" } },
    });
    digests.set(image, manifestDigest);
  }
  return digests;
}

/** A few programs with what they need. */
async function baseLayer(): Promise<LayerSource[]> {
  const paths = await Promise.all(PROGRAMS.map((program) => realpath(`/usr/bin/${program}`)));
  return [
    ...MERGED_USR_LINKS,
    ...(await sharedLibrarySources(paths)),
    ...paths.map((from, i) => ({ from, to: `/usr/bin/${PROGRAMS[i]}` })),
    { to: "/etc/passwd", content: "root:x:0:0:root:/:/usr/bin/sh\n" },
    ...["/proc", "/sys", "/dev"].map((to) => ({ to, directory: true as const })),
  ];
}

const serveConverter = (asked: string[]): Promise<GrpcDoor> =>
  serveGrpc("127.0.0.1:0", [
    grpcService(ImageConverterService, {
      async *ensureImage({ image }) {
        asked.push(image);
        yield { event: { case: "ready", value: { image } } };
      },
      listImages: async () => ({}),
    }),
  ]);
