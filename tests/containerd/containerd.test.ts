// Real containerds on the node agent's snapshots: images under their ordinary names, converted or not, pulled as people and
// kubelets pull them. Needs root, runc, and containerd (PILOTLIGHT_CONTAINERD names directories beside PATH).
import { readdirSync, readFileSync } from "node:fs";
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
import {
  type ServiceProcess,
  startServiceProcess,
  startTestNats,
  type TestServer,
} from "@pilotlight/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Containerd, findContainerds, startContainerd } from "./containerd.ts";
import { type ImageRegistry, startImageRegistry } from "./image-registry.ts";

const AGENT = new URL("../../services/node-agent/src/main.ts", import.meta.url);
const PROGRAMS = ["sh", "cat", "sleep"];
const RELEASES = [
  { name: "containerd 1.7", fits: (major: number, minor: number) => major === 1 && minor === 7 },
  { name: "containerd 2", fits: (major: number) => major === 2 },
];

const containerds = await findContainerds();
const hasRunc = await runCommand("runc", ["--version"]).then(
  () => true,
  () => false,
);
const hindrance = process.geteuid?.() !== 0 ? "it needs root" : hasRunc ? undefined : "runc is not installed";

describe.each(RELEASES)("$name", ({ name, fits }) => {
  const version = containerds.find(({ major, minor }) => fits(major, minor));
  const why = hindrance ?? (version === undefined ? `${name} is not installed` : undefined);
  let folder: string;
  let nats: TestServer;
  let registry: ImageRegistry;
  let converter: GrpcDoor;
  let environment: Record<string, string>;
  let agent: ServiceProcess;
  let containerd: Containerd;
  const digests = new Map<string, string>();
  const asked: string[] = [];

  const directory = (...names: string[]) => join(folder, ...names);
  const socket = () => directory("s.sock");
  const bucket = () => openStore(`file://${directory("bucket")}`);
  const reference = (image: string) => `${registry.host}/${image}:v1`;
  const startAgent = async () => {
    agent = await startServiceProcess(AGENT, environment);
  };
  const mountsBelow = (path: string) =>
    readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .filter((line) => line.split(" ")[4]?.startsWith(path));

  /** `ctr images pull` of 1.7 says nothing of images to snapshotters; its kubelet's door does. */
  const pull = async (image: string) => {
    if (version?.major === 1) await containerd.criPull(reference(image));
    else
      await containerd.ctr("images", "pull", "--plain-http", "--snapshotter", "pilotlight", reference(image));
    return registry.blobsRead();
  };
  /** runc knows containers of the whole machine by name. */
  const named = (id: string) => `${id}-${basename(folder)}`;
  const run = (image: string, id: string, ...command: string[]) =>
    containerd.ctr("run", "--rm", "--snapshotter", "pilotlight", reference(image), named(id), ...command);
  const end = async (id: string) => {
    await containerd.ctr("tasks", "kill", "--signal", "SIGKILL", id);
    await expect.poll(() => containerd.ctr("tasks", "list")).toMatch(new RegExp(`${id} .*STOPPED`));
    await containerd.ctr("tasks", "delete", id);
    await containerd.ctr("containers", "delete", id);
  };
  const layersOf = (image: string): string[] => {
    const digest = (digests.get(image) ?? "").slice(7);
    const manifest = readFileSync(join(directory("layouts", image), "blobs/sha256", digest), "utf8");
    return (JSON.parse(manifest) as { layers: { digest: string }[] }).layers.map((layer) => layer.digest);
  };

  beforeAll(async () => {
    if (why !== undefined || version === undefined) return;
    folder = await realpath(await mkdtemp(join(tmpdir(), "ctrd-")));
    nats = await startTestNats();
    const base = await baseLayer();
    const images: Record<string, readonly (readonly LayerSource[])[]> = {
      tools: [
        base,
        [{ to: "/greeting", content: "hello\n" }],
        [{ to: "/greeting", content: "hello again\n" }],
      ],
      sibling: [base, [{ to: "/greeting", content: "from a sibling\n" }]],
      stranger: [[...base, { to: "/stranger", content: "" }], [{ to: "/greeting", content: "from afar\n" }]],
    };
    for (const [image, layers] of Object.entries(images)) {
      const { manifestDigest } = await writeOciLayout({
        directory: directory("layouts", image),
        tag: "v1",
        platform: hostPlatform(),
        gzipLevel: 1,
        layers,
        run: { cmd: ["cat", "/greeting"], env: { PATH: "/usr/bin" } },
      });
      digests.set(image, manifestDigest);
    }
    const layouts = Object.keys(images).map((image) => [image, directory("layouts", image)] as const);
    registry = await startImageRegistry(new Map(layouts));
    await convertImage({ source: `oci://${directory("layouts/tools")}:v1`, bucket: bucket() });
    converter = await serveConverter(asked);
    environment = {
      NATS_URL: nats.url,
      STATE_DIR: directory("state"),
      BUCKET_URI: `file://${directory("bucket")}`,
      GRPC_PORT: String(await freePort()),
      ADMIN_PORT: "0",
      IMAGE_CONVERTER_ADDRESS: converter.address,
      SEGMENT_DIRS: directory("segments"),
      CONTAINERD_SOCKET: socket(),
      ACCELERATORS: "1",
    };
    await startAgent();
    containerd = await startContainerd(version, directory("containerd"), socket());
  });
  afterAll(async () => {
    if (why !== undefined) return;
    await containerd?.stop();
    await agent?.stop();
    await openImagefs({ cacheDir: directory("state/image-cache") }).stop();
    await converter?.close(0);
    await registry?.close();
    await nats?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  test("a converted image starts without any of its layers being fetched", async (context) => {
    if (why !== undefined) return context.skip(why);
    const read = await pull("tools");
    for (const layer of layersOf("tools")) expect(read).not.toContain(layer);
    expect(await run("tools", "first")).toContain("hello again");
    expect(registry.blobsRead()).toEqual([]);
  });

  test("what a container writes is its own", async (context) => {
    if (why !== undefined) return context.skip(why);
    const change = "echo changed > /greeting; echo new > /new; cat /greeting /new";
    expect(await run("tools", "writer", "sh", "-c", change)).toMatch(/changed\s+new/);
    expect(await run("tools", "reader")).toContain("hello again");
  });

  test("an image that shares layers with a converted one fetches only its own, and has the others' files", async (context) => {
    if (why !== undefined) return context.skip(why);
    const [shared = "", own = ""] = layersOf("sibling");
    const read = await pull("sibling");
    expect(read).not.toContain(shared);
    expect(read).toContain(own);
    expect(await run("sibling", "sibling")).toContain("from a sibling");
  });

  test("an image that is not converted is pulled as ever, and the converter is asked for it", async (context) => {
    if (why !== undefined) return context.skip(why);
    const read = await pull("stranger");
    expect(read).toEqual(expect.arrayContaining(layersOf("stranger")));
    expect(await run("stranger", "stranger")).toContain("from afar");
    expect(asked).toContain(`${registry.host}/stranger:v1@${digests.get("stranger")}`);
  });

  test("a killed agent comes back under running containers, and serves new ones", async (context) => {
    if (why !== undefined) return context.skip(why);
    const long = named("long");
    const command = ["--snapshotter", "pilotlight", reference("tools"), long, "sleep", "600"];
    await containerd.ctr("run", "--detach", ...command);
    try {
      await agent.kill("SIGKILL");
      await startAgent();
      const exec = await containerd.ctr("tasks", "exec", "--exec-id", "look", long, "cat", "/greeting");
      expect(exec).toContain("hello again");
      // containerd looks for a plug-in that went away once in a while only, so what needs it is tried until it is found.
      await expect.poll(() => run("tools", "after-kill")).toContain("hello again");
    } finally {
      await end(long);
    }
  });

  test("after a reboot images are mounted again when a container needs them", async (context) => {
    if (why !== undefined) return context.skip(why);
    await agent.kill("SIGKILL");
    // What a reboot leaves: files without mounts and processes, and a directory of a call that never ended.
    await openImagefs({ cacheDir: directory("state/image-cache") }).stop();
    expect(mountsBelow(directory("state"))).toEqual([]);
    await startAgent();
    await expect.poll(() => run("tools", "after-reboot")).toContain("hello again");
    expect(await run("sibling", "sibling-after-reboot")).toContain("from a sibling");
  });

  test("nothing is left when the images are gone", async (context) => {
    if (why !== undefined) return context.skip(why);
    const images = ["tools", "sibling", "stranger"];
    const names = (await containerd.ctr("images", "list", "--quiet"))
      .split("\n")
      .filter((image) => image !== "");
    expect(names.length).toBeGreaterThanOrEqual(images.length);
    await containerd.ctr("images", "remove", "--sync", ...names);
    const left = () => readdirSync(directory("state/containerd/snapshots"));
    await expect.poll(left).toEqual([]);
    await expect.poll(() => mountsBelow(directory("state/containerd"))).toEqual([]);
    expect(readdirSync(directory("state/containerd/records"))).toEqual([]);
    expect(readdirSync(directory("state/containerd/images"))).toEqual([]);
  });
});

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

/** A converter that only listens. */
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
