import { randomBytes } from "node:crypto";
import { closeSync, ftruncateSync, openSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createSecureServer } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { crc32 } from "node:zlib";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createMover, type MoveRequest, type Mover } from "./index.ts";

const BYTES = randomBytes(3_000_000);
const BLOCK = 1_000_000;
const fixture = (name: string) => fileURLToPath(new URL(`./fixtures/${name}`, import.meta.url));

let folder: string;
let server: Server;
let mover: Mover;
let file: number;
let path: string;
let handle: (request: IncomingMessage, response: ServerResponse) => void;
let connections: number;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "pilotlight-mover-"));
  server = createServer((request, response) => handle(request, response));
  server.on("connection", () => connections++);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  mover = createMover({ threads: 2, silenceMs: 10_000, connectTimeoutMs: 2_000 });
});
afterAll(async () => {
  mover.close();
  server.closeAllConnections();
  server.close();
  await rm(folder, { recursive: true });
});
beforeEach(() => {
  handle = serve;
  connections = 0;
  path = join(folder, "segment");
  file = openSync(path, "w+");
});
afterEach(() => closeSync(file));

const request = (change: Partial<MoveRequest> = {}): MoveRequest => ({
  url: new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/a%20b?x=1`),
  headers: { "x-token": "secret" },
  etag: "abc",
  offset: 0,
  length: BYTES.byteLength,
  file,
  position: change.offset ?? 0,
  memory: null,
  checksums: null,
  ...change,
});
const never = new AbortController().signal;
const sums = (offset: number, length: number) => {
  const count = Math.ceil(length / BLOCK);
  return Uint32Array.from({ length: count }, (_, i) => {
    return crc32(BYTES.subarray(offset + i * BLOCK, Math.min(offset + (i + 1) * BLOCK, offset + length)));
  });
};

function serve(request: IncomingMessage, response: ServerResponse): void {
  const [, first = "0", last = "0"] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
  const bytes = BYTES.subarray(Number(first), Number(last) + 1);
  response.writeHead(206, {
    "content-length": bytes.byteLength,
    "content-range": `bytes ${first}-${last}/${BYTES.byteLength}`,
    etag: '"abc"',
  });
  response.end(bytes);
}

describe("moving", () => {
  test("a range arrives in the file at its own offset, asked for as the caller said", async () => {
    const seen: Record<string, unknown>[] = [];
    handle = (request, response) => {
      seen.push({ url: request.url, token: request.headers["x-token"], match: request.headers["if-match"] });
      serve(request, response);
    };
    const outcome = await mover.move(request({ offset: 1_000_000, length: 1_234_567 }), never);
    expect(outcome).toEqual({ kind: "moved" });
    expect(readFileSync(path).subarray(1_000_000).equals(BYTES.subarray(1_000_000, 2_234_567))).toBe(true);
    expect(seen).toEqual([{ url: "/a%20b?x=1", token: "secret", match: '"abc"' }]);
  });
  test("connections are kept", async () => {
    for (let i = 0; i < 5; i++) await mover.move(request(), never);
    expect(connections).toBeLessThanOrEqual(2);
  });
  test("a kept connection that the server closed meanwhile is replaced", async () => {
    await mover.move(request(), never);
    server.closeAllConnections();
    expect(await mover.move(request(), never)).toEqual({ kind: "moved" });
  });
  test("right checksums pass, for a last short block too", async () => {
    const checksums = { blockBytes: BLOCK, blocks: sums(BLOCK, 1_500_000) };
    expect(await mover.move(request({ offset: BLOCK, length: 1_500_000, checksums }), never)).toEqual({
      kind: "moved",
    });
  });
  test("TLS works, and an unknown authority is refused", async () => {
    const tls = { key: readFileSync(fixture("server.key")), cert: readFileSync(fixture("server.pem")) };
    const secure = createSecureServer(tls, serve);
    await new Promise<void>((resolve) => secure.listen(0, "127.0.0.1", resolve));
    const url = new URL(`https://localhost:${(secure.address() as AddressInfo).port}/x`);
    // The authorities are read once in a process: each case needs one of its own.
    const script = `
      import { openSync } from "node:fs";
      import { createMover } from ${JSON.stringify(new URL("./index.ts", import.meta.url).href)};
      const mover = createMover({ threads: 1, silenceMs: 10_000, connectTimeoutMs: 2_000 });
      const file = openSync(${JSON.stringify(path)}, "r+");
      const request = { url: new URL("${url}"), headers: {}, etag: null, offset: 0, length: 100000, file, position: 0, memory: null, checksums: null };
      const outcome = await mover.move(request, new AbortController().signal).catch((error) => error.code);
      console.log(JSON.stringify(outcome));
      mover.close();`;
    const run = async (authorities: string) => {
      const { execFile } = await import("node:child_process");
      const env = { ...process.env, SSL_CERT_FILE: authorities };
      return new Promise((resolve, reject) => {
        execFile(process.execPath, ["--input-type=module", "--eval", script], { env }, (error, output) => {
          if (error) reject(error);
          else resolve(JSON.parse(output));
        });
      });
    };
    expect(await run(fixture("ca.pem"))).toEqual({ kind: "moved" });
    expect(readFileSync(path).subarray(0, 100_000).equals(BYTES.subarray(0, 100_000))).toBe(true);
    expect(await run(fixture("server.pem"))).toBe("unavailable");
    secure.close();
  }, 15_000);
  test("into memory that was made ready, the same bytes at a place of their own, checked alike", async () => {
    const BASE = 4096;
    ftruncateSync(file, BASE + BYTES.byteLength);
    const memory = mover.map(file, BASE + BYTES.byteLength);
    await memory.populate();
    expect(memory.settle()).toBe(BASE + BYTES.byteLength);
    const checksums = { blockBytes: BLOCK, blocks: sums(0, BYTES.byteLength) };
    await mover.move(request({ position: BASE, memory, checksums }), never);
    expect(readFileSync(path).subarray(BASE).equals(BYTES)).toBe(true);
    const wrong = { blockBytes: BLOCK, blocks: checksums.blocks.toReversed() };
    await expect(
      mover.move(request({ position: BASE, memory, checksums: wrong }), never),
    ).rejects.toMatchObject({ code: "corrupt" });
    memory.close();
  });
  test("memory that was not made ready, or was given up, takes the same bytes", async () => {
    ftruncateSync(file, BYTES.byteLength);
    const memory = mover.map(file, BYTES.byteLength);
    await mover.move(request({ memory, length: 1_000_000 }), never);
    memory.close();
    await mover.move(request({ memory, offset: 1_000_000, length: 2_000_000 }), never);
    expect(readFileSync(path).equals(BYTES)).toBe(true);
  });
  test("a file that is shorter than its mapping is an error, never the end of the process", async () => {
    const memory = mover.map(file, BYTES.byteLength);
    await expect(memory.populate()).rejects.toMatchObject({ message: expect.stringMatching(/address/i) });
    expect(memory.settle()).toBe(0);
    memory.close();
  });
});

describe("faults", () => {
  test("a wrong checksum is corrupt and names the block", async () => {
    const blocks = sums(0, BYTES.byteLength);
    blocks[1] = 1;
    const failed = mover.move(request({ checksums: { blockBytes: BLOCK, blocks } }), never);
    await expect(failed).rejects.toMatchObject({
      code: "corrupt",
      message: expect.stringContaining("block 1"),
    });
  });
  test.each([
    ["an error", (_: IncomingMessage, response: ServerResponse) => void response.writeHead(403).end("no")],
    [
      "a redirect",
      (_: IncomingMessage, response: ServerResponse) => void response.writeHead(302, { location: "/" }).end(),
    ],
    [
      "the whole object",
      (_: IncomingMessage, response: ServerResponse) => void response.writeHead(200).end(BYTES),
    ],
  ])("%s is told as another answer", async (_name, answer) => {
    handle = answer;
    expect((await mover.move(request(), never)).kind).toBe("otherAnswer");
  });
  test("another ETag is another answer", async () => {
    expect((await mover.move(request({ etag: "older" }), never)).kind).toBe("otherAnswer");
  });
  test("a cut connection and a silent server are unavailable", async () => {
    handle = (request, response) => {
      response.writeHead(206, {
        "content-length": BYTES.byteLength,
        "content-range": `bytes 0-${BYTES.byteLength - 1}/*`,
      });
      response.write(BYTES.subarray(0, 1000), () => request.socket.destroy());
    };
    await expect(mover.move(request({ etag: null }), never)).rejects.toMatchObject({ code: "unavailable" });
    handle = () => undefined;
    await expect(mover.move(request(), never)).rejects.toMatchObject({
      code: "unavailable",
      message: /silent/,
    });
  });
  test("nobody listening is unavailable", async () => {
    await expect(mover.move(request({ url: new URL("http://127.0.0.1:1/") }), never)).rejects.toMatchObject({
      code: "unavailable",
    });
  });
  test("a file that cannot be written says why", async () => {
    const readOnly = openSync(path, "r");
    await expect(mover.move(request({ file: readOnly }), never)).rejects.toThrow("Bad file descriptor");
    closeSync(readOnly);
    const full = openSync("/dev/full", "w");
    await expect(mover.move(request({ file: full }), never)).rejects.toMatchObject({
      code: "resourceExhausted",
    });
    closeSync(full);
  });
  test("a header that would smuggle another one is never sent", async () => {
    const smuggled = request({ headers: { a: "b\r\nc: d" } });
    await expect(mover.move(smuggled, never)).rejects.toMatchObject({ code: "internal" });
    expect(connections).toBe(0);
  });
});

describe("cancelling", () => {
  test("a running, a queued and a future range end at once", async () => {
    const reached = Promise.withResolvers<void>();
    handle = (request, response) => {
      response.writeHead(206, {
        "content-length": BYTES.byteLength,
        "content-range": `bytes 0-${BYTES.byteLength - 1}/*`,
      });
      response.write(BYTES.subarray(0, 1000));
      reached.resolve();
      request.socket.on("error", () => undefined);
    };
    const patient = createMover({ threads: 1, silenceMs: 60_000, connectTimeoutMs: 2_000 });
    const controller = new AbortController();
    const moves = [1, 2].map(() => patient.move(request({ etag: null }), controller.signal));
    await reached.promise;
    controller.abort();
    for (const move of moves) await expect(move).rejects.toMatchObject({ code: "cancelled" });
    await expect(patient.move(request(), controller.signal)).rejects.toMatchObject({ code: "cancelled" });
    patient.close();
    await expect(patient.move(request(), never)).rejects.toMatchObject({ code: "cancelled" });
  });
});
