// The files of deploy/ that machines of a cluster read, beside what they talk about: the command line, the settings, the images.
// tests/containerd runs them.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { parseAllDocuments } from "yaml";

const ROOT = join(import.meta.dirname, "..");
const read = (path: string) => readFileSync(join(ROOT, path), "utf8");
const MANIFESTS = ["deploy/containerd/daemonset.yaml", "deploy/kubernetes/image-seed.yaml"];
const UNIT = "deploy/containerd/pilotlight-snapshotter.service";

type Container = {
  name: string;
  image: string;
  envFrom?: { secretRef?: Reference; configMapRef?: Reference }[];
  volumeMounts?: { name: string }[];
};
type Reference = { name: string; optional?: boolean };
type Manifest = {
  apiVersion: string;
  kind: string;
  metadata: { name: string };
  data?: Record<string, string>;
  stringData?: Record<string, string>;
  spec: {
    selector: { matchLabels: Record<string, string> };
    template: {
      metadata: { labels: Record<string, string> };
      spec: { initContainers?: Container[]; containers: Container[]; volumes: { name: string }[] };
    };
  };
};

const manifestsOf = (path: string): Manifest[] =>
  parseAllDocuments(read(path), { strict: true, uniqueKeys: true }).map((document) => {
    expect(document.errors, path).toEqual([]);
    return document.toJS() as Manifest;
  });
const cli = (...args: string[]) =>
  execFileSync("node", [join(ROOT, "libs/cli/src/main.ts"), ...args]).toString();
const optionsIn = (text: string) => text.match(/ --[a-z-]+/g) ?? [];

describe.each(MANIFESTS)("%s", (path) => {
  const manifests = manifestsOf(path);
  const set = manifests.find(({ kind }) => kind === "DaemonSet") as Manifest;
  const { spec, metadata } = set.spec.template;
  const containers = [...(spec.initContainers ?? []), ...spec.containers];

  test("its pods are found, and have what they mount and are told", () => {
    expect(metadata.labels).toMatchObject(set.spec.selector.matchLabels);
    const volumes = spec.volumes.map(({ name }) => name);
    const made = manifests.map(({ kind, metadata: { name } }) => `${kind} ${name}`);
    for (const { volumeMounts = [], envFrom = [] } of containers) {
      for (const { name } of volumeMounts) expect(volumes).toContain(name);
      for (const { secretRef, configMapRef } of envFrom) {
        if (secretRef !== undefined && secretRef.optional !== true)
          expect(made).toContain(`Secret ${secretRef.name}`);
        if (configMapRef !== undefined) expect(made).toContain(`ConfigMap ${configMapRef.name}`);
      }
    }
  });

  test("its images are built by a Dockerfile that says their names", () => {
    const dockerfiles = ["deploy/containerd/Dockerfile", "deploy/docker/tools.Dockerfile"]
      .map(read)
      .join("\n");
    for (const { image } of containers) expect(dockerfiles).toContain(`-t ${image} .`);
  });
});

describe("settings", () => {
  test("that the manifests' comments and the docs name exist", () => {
    const reference = read("docs/reference/config.md");
    const seed = read("deploy/kubernetes/image-seed.yaml");
    for (const setting of ["bucketUri", "imageSeedDirs"]) {
      expect(seed).toContain(setting);
      expect(reference).toContain(`\`${setting}\``);
    }
    const docs = read("docs/containerd.md") + read("deploy/containerd/README.md");
    for (const name of ["containerdSocket", "imageCacheBytesMax"]) {
      expect(docs).toContain(name);
      expect(reference).toContain(`\`${name}\``);
    }
    expect(docs).toContain("`CONTAINERD_SOCKET`");
    expect(reference).toContain("`CONTAINERD_SOCKET`");
  });

  test("that the unit needs are what the DaemonSet's secret gives", () => {
    const unit = read(UNIT);
    const needed = [...unit.matchAll(/\$\{([A-Z_]+)\}/g)].map(([, name]) => name);
    const secret = manifestsOf("deploy/containerd/daemonset.yaml").find(({ kind }) => kind === "Secret");
    expect(Object.keys(secret?.stringData ?? {}).sort()).toEqual([...new Set(needed)].sort());
  });

  test("that programs are started with are options of theirs", () => {
    const start = /^ExecStart=.*$/m.exec(read(UNIT))?.[0] ?? "";
    const snapshotter = cli("image", "snapshotter", "--help");
    expect(optionsIn(start).length).toBeGreaterThan(0);
    for (const option of [...optionsIn(start), " --end"]) expect(snapshotter).toContain(option);
    const seeding = /image seed .*$/m.exec(read("deploy/kubernetes/image-seed.yaml"))?.[0] ?? "";
    expect(optionsIn(seeding).length).toBeGreaterThan(0);
    for (const option of optionsIn(seeding)) expect(cli("image", "seed", "--help")).toContain(option);
  });

  test("of containerd name the socket that the snapshotter serves", () => {
    const socket = /--socket .*?"(\/[^"]+)"/s.exec(cli("image", "snapshotter", "--help"))?.[1];
    for (const file of ["containerd-2.toml", "containerd-1.7.toml"])
      expect(read(`deploy/containerd/${file}`)).toContain(`address = "${socket}"`);
    expect(read("deploy/containerd/install.sh")).toContain(`$host${socket}`);
  });
});

describe("the unit", () => {
  test("is what systemd understands", ({ skip }) => {
    if (!existsSync("/usr/bin/systemd-analyze")) skip("systemd-analyze is not installed");
    const scratch = mkdtempSync(join(tmpdir(), "unit-"));
    const file = join(scratch, "pilotlight-snapshotter.service");
    // Its program is not on this machine.
    writeFileSync(file, read(UNIT).replace("/opt/pilotlight/node", process.execPath));
    const output = execFileSync("sh", ["-c", 'systemd-analyze verify --man=no "$0" 2>&1', file]).toString();
    rmSync(scratch, { recursive: true });
    expect(output.split("\n").filter((line) => line.includes("pilotlight-snapshotter"))).toEqual([]);
  });
});

describe("install.sh", () => {
  test("touches nothing where systemd does not run", () => {
    const host = mkdtempSync(join(tmpdir(), "host-"));
    const script = join(ROOT, "deploy/containerd/install.sh");
    expect(() =>
      execFileSync("sh", [script], { env: { ...process.env, HOST: host }, stdio: "pipe" }),
    ).toThrow(/not the root directory of a machine that runs systemd/);
    expect(readdirSync(host)).toEqual([]);
    rmSync(host, { recursive: true });
  });
});
