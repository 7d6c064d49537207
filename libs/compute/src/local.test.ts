import { existsSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Backend, detectCapacity, type Launch, localBackend } from "./index.ts";
import { isRunning, processesOf } from "./process.ts";
import { directoryRuntime } from "./testing/directory-runtime.ts";

let home: string;
let backend: Backend;
const never = new AbortController().signal;

/** An image whose entry point is a Node script. */
async function image(script: string, entrypoint = [process.execPath, "-e", script]) {
  const directory = await mkdtemp(join(home, "image-"));
  await writeFile(join(directory, "image.json"), JSON.stringify({ entrypoint }));
  return { reference: "test:1", imageId: directory, manifestDigest: "sha256:00" };
}

async function launch(place: string): Promise<Launch> {
  const folder = backend.folder(place);
  await mkdir(folder, { recursive: true });
  return {
    environment: { GREETING: "hello" },
    binds: [],
    devices: [],
    stdoutFile: join(folder, "out"),
    stderrFile: join(folder, "err"),
  };
}

const open = () =>
  localBackend({ runDir: join(home, "run"), images: directoryRuntime(join(home, "mounts")) });

beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), "pilotlight-compute-"));
  backend = open();
});
afterEach(async () => {
  for (const place of await backend.places()) await backend.release(place);
  await rm(home, { recursive: true, force: true });
});

describe("local backend", () => {
  test("a process gets its environment and its output goes to the files; how it ended is told", async () => {
    const made = await image("console.log(process.env.GREETING); console.error('oh'); process.exit(3)");
    const process_ = await backend.start("a", await mounted("a", made), await launch("a"), never);
    expect(await process_.ended).toEqual({ kind: "exited", code: 3 });
    expect(readFileSync(join(backend.folder("a"), "out"), "utf8")).toBe("hello\n");
    expect(readFileSync(join(backend.folder("a"), "err"), "utf8")).toBe("oh\n");
  });
  test("a start that is repeated means the process that runs", async () => {
    const made = await mounted("a", await image("setInterval(() => {}, 1000)"));
    const first = await backend.start("a", made, await launch("a"), never);
    const second = await open().start("a", made, await launch("a"), never);
    expect(second.identity).toEqual(first.identity);
    expect(processesOf(backend.folder("a"))).toHaveLength(1);
  });
  test("a process is adopted by its identity, and by nothing less", async () => {
    const made = await mounted("a", await image("setInterval(() => {}, 1000)"));
    const { identity } = await backend.start("a", made, await launch("a"), never);
    expect(open().adopt({ ...identity, startTicks: identity.startTicks + 1 })).toBeUndefined();
    expect(open().adopt({ ...identity, bootId: "another boot" })).toBeUndefined();
    const adopted = open().adopt(identity);
    adopted?.signal("SIGTERM");
    expect(await adopted?.ended).toEqual({ kind: "unknown" });
    expect(isRunning(identity)).toBe(false);
  });
  test("SIGTERM is for the process, SIGKILL for all that it started", async () => {
    const child = "require('child_process').spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);";
    const made = await mounted(
      "a",
      await image(`${child} process.on('SIGTERM', () => console.log('asked'))`),
    );
    const placed = await backend.start("a", made, await launch("a"), never);
    await expect.poll(() => processesOf(backend.folder("a")).length).toBe(2);
    await expect
      .poll(() => {
        placed.signal("SIGTERM");
        return readFileSync(join(backend.folder("a"), "out"), "utf8");
      })
      .toContain("asked");
    expect(processesOf(backend.folder("a"))).toHaveLength(2);
    placed.signal("SIGKILL");
    expect(await placed.ended).toEqual({ kind: "killed", signal: "SIGKILL" });
    await expect.poll(() => processesOf(backend.folder("a")).length).toBe(0);
  });
  test("release ends even what left the process group, and unmounts", async () => {
    const child =
      "require('child_process').spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], {detached: true, stdio: 'ignore'}).unref();";
    const made = await mounted("a", await image(child));
    const placed = await backend.start("a", made, await launch("a"), never);
    await placed.ended;
    expect(processesOf(backend.folder("a"))).toHaveLength(1);
    await backend.release("a");
    expect(processesOf(backend.folder("a"))).toHaveLength(0);
    expect(existsSync(join(home, "mounts", "a"))).toBe(false);
    expect(await backend.places()).toEqual(["a"]); // its folder holds the logs
    await backend.forget("a");
    expect(await backend.places()).toEqual([]);
  });
  test("an exit code that stands for a signal is told as one", async () => {
    const placed = await backend.start(
      "a",
      await mounted("a", await image("process.exit(137)")),
      await launch("a"),
      never,
    );
    expect(await placed.ended).toEqual({ kind: "killed", signal: "SIGKILL" });
  });
  test("an entry point that is not there says which image", async () => {
    const made = await mounted("a", await image("", ["/no/such/program"]));
    await expect(backend.start("a", made, await launch("a"), never)).rejects.toMatchObject({
      code: "notFound",
      message: expect.stringContaining("test:1"),
    });
  });
  test("a place cannot lead out of the folder", () => {
    for (const place of ["..", "a/b", "", ".hidden", "x".repeat(200)])
      expect(() => backend.folder(place)).toThrow(/place's name/);
  });
});

test("the machine has memory", () => {
  expect(detectCapacity().memoryMib).toBeGreaterThan(128);
});

async function mounted<T extends { reference: string; imageId: string; manifestDigest: string }>(
  place: string,
  made: T,
): Promise<T> {
  await backend.mount(place, made, never);
  return made;
}
