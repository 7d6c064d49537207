// The files of deploy/containerd as they are, on a machine with systemd and containerd: what the DaemonSet's pod installs, and
// what it takes away again. Needs root, systemd, runc, and containerd (PILOTLIGHT_CONTAINERD names directories beside PATH).
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runCommand } from "@pilotlight/servers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type ContainerdVersion,
  configOf,
  deployedConfig,
  findContainerds,
  pullOf,
  RELEASES,
} from "./containerd.ts";
import type { ImageRegistry } from "./image-registry.ts";
import { containerHindrance, offerImages } from "./node.ts";
import { SystemdMachine, systemdHindrance } from "./systemd-machine.ts";

const ROOT = join(import.meta.dirname, "../..");
const DEPLOY = join(ROOT, "deploy/containerd");
const CLI = join(ROOT, "libs/cli");
const UNIT = "pilotlight-snapshotter.service";
const TEST_TIMEOUT_MS = 120_000;
/** containerd looks for a plug-in that went away once in a while only. */
const RECONNECTED = { timeout: 60_000, interval: 500 };
const SOON = { timeout: 30_000, interval: 100 };

const containerds = await findContainerds();
const hindrance = (await containerHindrance()) ?? systemdHindrance();

describe.each(RELEASES)("deploy/containerd with $name", { timeout: TEST_TIMEOUT_MS }, ({ name, fits }) => {
  const release = containerds.find(fits);
  const why = hindrance ?? (release === undefined ? `${name} is not installed` : undefined);
  let folder = "";
  let program = "";
  let machine: SystemdMachine;
  let registry: ImageRegistry;
  let environment: Record<string, string> = {};

  const ctr = (...args: string[]) =>
    machine.run(join(release?.directory ?? "", "ctr"), "--namespace", "k8s.io", ...args);
  const mainPid = async () => (await machine.run("systemctl", "show", "-P", "MainPID", UNIT)).trim();
  /** Runs a pod until it says `word`, then ends it. */
  const pod = async (word: string, variables = environment, ...args: string[]) => {
    const started = machine.pod(program, variables, ...args);
    await expect.poll(() => started.output, SOON).toContain(word);
    await started.stop();
  };
  const check = () => machine.pod(program, {}, "check").ended();

  beforeAll(async () => {
    if (why !== undefined || release === undefined) return;
    folder = mkdtempSync(join(tmpdir(), "install-"));
    program = join(folder, "pilotlight");
    const offered = await offerImages(folder);
    registry = offered.registry;
    environment = {
      PILOTLIGHT_BUCKET: offered.bucketUri,
      PILOTLIGHT_CONVERTER: "",
      AWS_SECRET_ACCESS_KEY: 'a"b\\c $d`e\nf',
      KUBERNETES_PORT: "tcp://10.0.0.1:443",
    };
    await makeProgram(program);
    machine = await SystemdMachine.start(folder);
    await startContainerd(machine, folder, release, registry.certificateFile);
  }, TEST_TIMEOUT_MS);
  afterAll(async () => {
    await machine?.stop();
    await registry?.close();
    if (folder !== "") rmSync(folder, { recursive: true, force: true });
  });

  test("the pod installs a unit that serves containerd, with the pod's settings", async (context) => {
    if (why !== undefined) return context.skip(why);
    expect(await check()).toBe(1);
    await pod("installed");
    await expect.poll(check, SOON).toBe(0);
    expect(await machine.run("systemctl", "is-enabled", UNIT)).toBe("enabled\n");
    const variables = (await machine.run("cat", `/proc/${await mainPid()}/environ`)).split("\0");
    expect(variables).toContain(`AWS_SECRET_ACCESS_KEY=${environment.AWS_SECRET_ACCESS_KEY}`);
    expect(variables.filter((variable) => variable.startsWith("KUBERNETES_"))).toEqual([]);
    expect(await machine.run("stat", "-c", "%a %U", "/etc/pilotlight/snapshotter.env")).toBe("600 root\n");
  });

  test("containers start from converted images with the configuration that is beside it", async (context) => {
    if (why !== undefined) return context.skip(why);
    const image = `${registry.host}/tools:v1`;
    await ctr(...pullOf(release), image);
    // The image's manifest and config, no layer.
    expect(registry.blobsRead().length).toBe(1);
    await ctr("run", "--detach", "--snapshotter", "pilotlight", image, idIn(folder), "sleep", "3600");
    await expect.poll(greeting(ctr, idIn(folder)), SOON).toBe("hello again\n");
  });

  test("a second pod changes nothing; a new program replaces the old one under running containers", async (context) => {
    if (why !== undefined) return context.skip(why);
    const before = await mainPid();
    await pod("nothing to change");
    expect(await mainPid()).toBe(before);
    writeFileSync(join(program, "dist/main.js"), `${readFileSync(join(program, "dist/main.js"), "utf8")}\n`);
    await pod("installed");
    expect(await mainPid()).not.toBe(before);
    await expect.poll(check, SOON).toBe(0);
    await expect.poll(greeting(ctr, idIn(folder)), SOON).toBe("hello again\n");
  });

  test("with a wrong setting the pod is not ready, and the unit is tried until it is right", async (context) => {
    if (why !== undefined) return context.skip(why);
    await pod("installed", { ...environment, PILOTLIGHT_BUCKET: "nonsense" });
    // systemd's own limit is five starts in ten seconds.
    const restarts = () => machine.run("systemctl", "show", "-P", "NRestarts", UNIT).then(Number);
    await expect.poll(restarts, SOON).toBeGreaterThan(6);
    expect(await check()).toBe(1);
    await expect.poll(greeting(ctr, idIn(folder)), SOON).toBe("hello again\n");
    await pod("installed");
    await expect.poll(check, SOON).toBe(0);
  });

  test("it is not taken away under containers, and leaves nothing but data without them", async (context) => {
    if (why !== undefined) return context.skip(why);
    const refused = machine.pod(program, environment, "remove");
    expect(await refused.ended()).toBe(1);
    expect(refused.output).toMatch(/containerd still has \d+ snapshots.*nothing was removed/s);
    await expect.poll(check, SOON).toBe(0);
    const snapshots = () => ctr("snapshots", "--snapshotter", "pilotlight", "list").catch(() => "");
    await expect.poll(snapshots, RECONNECTED).toContain("Committed");
    await ctr("tasks", "kill", "--signal", "SIGKILL", idIn(folder));
    await expect.poll(() => ctr("tasks", "list"), SOON).toContain("STOPPED");
    await ctr("tasks", "delete", idIn(folder));
    await ctr("containers", "delete", idIn(folder));
    // By tag, and by the ID that the kubelet's door adds.
    const names = (await ctr("images", "list", "--quiet")).trim().split("\n");
    await ctr("images", "rm", "--sync", ...names);
    await pod("removed; ", environment, "remove");
    expect(await machine.run("systemctl", "list-unit-files")).not.toContain(UNIT);
    expect(await machine.run("sh", "-c", "ls /opt /etc/pilotlight /etc/systemd/system")).not.toMatch(
      /pilotlight-|node|\.env/,
    );
    expect(await machine.run("cat", "/proc/self/mountinfo")).not.toContain("/var/lib/pilotlight");
    expect(await machine.run("ps", "-eo", "args")).not.toContain("imagefs");
  });
});

/** runc knows the names of the whole machine. */
const idIn = (folder: string) => folder.replaceAll("/", "-").slice(1);

/** ctr loses what a program says that ends at once, now and then on a busy machine. */
const greeting = (ctr: (...args: string[]) => Promise<string>, id: string) => () =>
  ctr("tasks", "exec", "--exec-id", `e${process.hrtime.bigint()}`, id, "cat", "/greeting");

/** What deploy/containerd/Dockerfile puts at /pilotlight. */
async function makeProgram(target: string): Promise<void> {
  await runCommand(process.execPath, [join(ROOT, "deploy/local/build-service.ts")], { cwd: CLI });
  mkdirSync(join(target, "dist"), { recursive: true });
  const files = {
    node: process.execPath,
    "pilotlight-imagefs": join(ROOT, "native/imagefs/pilotlight-imagefs"),
    "package.json": join(CLI, "package.json"),
    "dist/main.js": join(CLI, "dist/main.js"),
    [UNIT]: join(DEPLOY, UNIT),
    "install.sh": join(DEPLOY, "install.sh"),
  };
  for (const [name, from] of Object.entries(files)) copyFileSync(from, join(target, name));
}

/** As a unit of the machine, with our part of the configuration as it stands in the repository. */
async function startContainerd(
  machine: SystemdMachine,
  folder: string,
  release: ContainerdVersion,
  trusted: string,
): Promise<void> {
  const { directory } = release;
  const own = 'root = "/var/lib/containerd"\nstate = "/run/containerd"\n';
  writeFileSync(join(folder, "config.toml"), configOf(release, deployedConfig(release), own));
  const path = `${directory}:/usr/sbin:/usr/bin`;
  const unit = `[Service]\nExecStart=${directory}/containerd --config ${folder}/config.toml\nEnvironment=PATH=${path} SSL_CERT_FILE=${trusted}\nKillMode=process\n`;
  writeFileSync(join(folder, "containerd.service"), unit);
  await machine.run("cp", join(folder, "containerd.service"), "/etc/systemd/system/");
  await machine.run("systemctl", "start", "containerd");
}
