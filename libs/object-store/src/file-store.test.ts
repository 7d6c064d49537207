import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { mkdir, mkdtemp, rm, symlink, truncate, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { openStore } from "./open.ts";
import type { ObjectStore } from "./store.ts";

let folder: string;
let store: ObjectStore;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "pilotlight-file-store-"));
  store = openStore(`file://${folder}`);
});
afterEach(async () => {
  await store.close();
  await rm(folder, { recursive: true });
});

/** Runs the same code in several processes at once and collects what each prints. */
async function inProcesses(count: number, code: string): Promise<string[]> {
  const script = `
    import { openStore } from ${JSON.stringify(new URL("./index.ts", import.meta.url).href)};
    const store = openStore(${JSON.stringify(`file://${folder}`)});
    ${code}`;
  return Promise.all(
    Array.from({ length: count }, async () => {
      const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      let output = "";
      for await (const chunk of child.stdout) output += chunk;
      return output.trim();
    }),
  );
}

test("processes that count with ifMatch lose no step", async () => {
  await store.put("counter", "0");
  const steps = await inProcesses(
    4,
    `let steps = 0;
     while (steps < 25) {
       const { info, bytes } = await store.get("counter");
       const next = String(Number(Buffer.from(bytes)) + 1);
       await store.put("counter", next, { ifMatch: info.etag }).then(() => steps++, (error) => {
         if (error.code !== "preconditionFailed") throw error;
       });
     }
     console.log(steps);`,
  );
  expect(steps).toEqual(["25", "25", "25", "25"]);
  expect(Buffer.from((await store.get("counter")).bytes).toString()).toBe("100");
}, 60_000);

test("of processes that create the same keys each key has one winner", async () => {
  const outputs = await inProcesses(
    4,
    `const won = [];
     for (let i = 0; i < 25; i++) await store.put("race/" + i, String(process.pid), { ifNoneMatch: "*" }).then(() => won.push(i), () => {});
     console.log(won.join(" "));`,
  );
  const won = outputs.flatMap((output) =>
    output
      .split(" ")
      .filter((key) => key !== "")
      .map(Number),
  );
  expect(won.sort((a, b) => a - b)).toEqual(Array.from({ length: 25 }, (_, i) => i));
}, 60_000);

test("a process killed while writing leaves no object, and its leftovers go after a day", async () => {
  const script = `
    import { openStore } from ${JSON.stringify(new URL("./index.ts", import.meta.url).href)};
    const store = openStore(${JSON.stringify(`file://${folder}`)});
    await store.put("k", (async function* () { yield Buffer.alloc(1000); console.log("half"); await new Promise(() => setInterval(() => {}, 1000)); })());`;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await new Promise((resolve) => child.stdout.once("data", resolve));
  child.kill("SIGKILL");
  await new Promise((resolve) => child.once("exit", resolve));
  expect(await store.head("k")).toBeUndefined();
  const reserved = join(folder, ".pilotlight-store");
  const [leftover = ""] = readdirSync(reserved).filter((name) => name.startsWith("put-"));
  await store.put("other", "x");
  expect(existsSync(join(reserved, leftover))).toBe(true);
  await utimes(join(reserved, leftover), new Date(0), new Date(0));
  const next = openStore(`file://${folder}`);
  await next.put("other", "y");
  await next.close();
  expect(existsSync(join(reserved, leftover))).toBe(false);
});

test("files placed by other tools are objects; a changed one has another ETag", async () => {
  await mkdir(join(folder, "a"));
  await writeFile(join(folder, "a/b.bin"), "12345");
  const before = await store.head("a/b.bin");
  expect(before).toMatchObject({ size: 5 });
  await truncate(join(folder, "a/b.bin"), 3);
  expect((await store.head("a/b.bin"))?.etag).not.toBe(before?.etag);
});

test("a folder is no object, and a key cannot lie under an object", async () => {
  await store.put("a/b", "x");
  expect(await store.head("a")).toBeUndefined();
  await expect(store.get("a")).rejects.toMatchObject({ code: "notFound" });
  await expect(store.put("a", "y")).rejects.toMatchObject({ code: "conflict" });
  await expect(store.put("a", "y", { ifNoneMatch: "*" })).rejects.toMatchObject({ code: "conflict" });
  await expect(store.put("a/b/c", "y")).rejects.toMatchObject({ code: "conflict" });
  expect(await store.head("a/b/c")).toBeUndefined();
});

test("linked files are listed, linked folders are not entered", async () => {
  await store.put("real/file", "x");
  await symlink(join(folder, "real/file"), join(folder, "link"));
  await symlink(folder, join(folder, "real/loop"));
  const keys: string[] = [];
  for await (const { key } of store.list()) keys.push(key);
  expect(keys).toEqual(["link", "real/file"]);
});

test("the last object of a folder takes the folder with it", async () => {
  await store.put("deep/er/x", "1");
  await store.delete("deep/er/x");
  expect(existsSync(join(folder, "deep"))).toBe(false);
});

test("a store that nobody wrote to is empty, not an error", async () => {
  const absent = openStore(`file://${folder}/absent`);
  expect(await absent.head("x")).toBeUndefined();
  await absent.delete("x");
  for await (const info of absent.list()) throw new Error(`unexpected ${info.key}`);
  expect(existsSync(join(folder, "absent"))).toBe(false);
});
