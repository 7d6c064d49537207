// Against a real registry where one is installed (Debian: docker-registry), and against a registry that misbehaves.
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type OpenedImage, openImage, type WrittenLayout, writeOciLayout } from "./index.ts";
import { dockerConfigCredentials, parseChallenge } from "./registry-auth.ts";

const NOT_INSTALLED = "docker-registry is not installed";
const AMD64 = { os: "linux", architecture: "amd64" };
const scratch = mkdtempSync(join(tmpdir(), "registry-"));
/** Does not compress. */
const content = Buffer.concat(
  Array.from({ length: 20_000 }, (_, i) => createHash("sha256").update(String(i)).digest()),
);
let layout: WrittenLayout;

beforeAll(async () => {
  layout = await writeOciLayout({
    directory: join(scratch, "layout"),
    tag: "v1",
    platform: AMD64,
    layers: [[{ to: "/data", content }]],
    run: {},
  });
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const blobOf = (digest: string) => readFileSync(join(scratch, "layout/blobs/sha256", digest.slice(7)));

async function readLayer(image: OpenedImage): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of image.layer(image.layers[0]!)) pieces.push(Buffer.from(piece));
  return Buffer.concat(pieces);
}

describe("a real registry", () => {
  let registry: ChildProcess | undefined;
  let host = "";

  beforeAll(async () => {
    try {
      execFileSync("docker-registry", ["--version"], { stdio: "pipe" });
    } catch {
      return;
    }
    const probe = createServer().listen(0, "127.0.0.1");
    await new Promise((resolve) => probe.once("listening", resolve));
    host = `127.0.0.1:${(probe.address() as AddressInfo).port}`;
    await new Promise((resolve) => probe.close(resolve));
    const config = join(scratch, "registry.yml");
    writeFileSync(
      config,
      `version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: ${join(scratch, "registry")}}}\nhttp: {addr: "${host}"}\n`,
    );
    registry = spawn("docker-registry", ["serve", config], { stdio: "ignore" });
    while (
      !(await fetch(`http://${host}/v2/`).then(
        (r) => r.ok,
        () => false,
      ))
    )
      await sleep(50);
    await push();
  });
  afterAll(() => void registry?.kill());

  /** The layout's image and an index over it, pushed by the distribution API. */
  async function push(): Promise<void> {
    const manifest = JSON.parse(blobOf(layout.manifestDigest).toString()) as {
      config: { digest: string };
      layers: Array<{ digest: string }>;
    };
    for (const { digest } of [manifest.config, ...manifest.layers]) {
      const started = await fetch(`http://${host}/v2/team/app/blobs/uploads/`, { method: "POST" });
      const location = new URL(started.headers.get("location")!, `http://${host}`);
      location.searchParams.set("digest", digest);
      expect(
        (
          await fetch(location, {
            method: "PUT",
            body: blobOf(digest) as Buffer<ArrayBuffer>,
            headers: { "content-type": "application/octet-stream" },
          })
        ).status,
      ).toBe(201);
    }
    const put = (tag: string, body: string, type: string) =>
      fetch(`http://${host}/v2/team/app/manifests/${tag}`, {
        method: "PUT",
        body,
        headers: { "content-type": type },
      });
    const bytes = blobOf(layout.manifestDigest).toString();
    expect((await put("v1", bytes, "application/vnd.oci.image.manifest.v1+json")).status).toBe(201);
    const index = {
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.index.v1+json",
      manifests: [
        {
          mediaType: "application/vnd.oci.image.manifest.v1+json",
          digest: layout.manifestDigest,
          size: bytes.length,
          platform: AMD64,
        },
      ],
    };
    expect((await put("multi", JSON.stringify(index), index.mediaType)).status).toBe(201);
  }

  test.for(["team/app:v1", "team/app:multi", "by digest"])("serves %s", async (name, { skip }) => {
    if (registry === undefined) skip(NOT_INSTALLED);

    const image = await openImage(
      name === "by digest" ? `${host}/team/app@${layout.manifestDigest}` : `${host}/${name}`,
      { platform: AMD64 },
    );
    expect(image.manifestDigest).toBe(layout.manifestDigest);
    expect((await readLayer(image)).equals(blobOf(image.layers[0]!.digest))).toBe(true);
  });
  test("says what is not there", async ({ skip }) => {
    if (registry === undefined) skip(NOT_INSTALLED);
    await expect(openImage(`${host}/team/app:v9`, { platform: AMD64 })).rejects.toMatchObject({
      code: "notFound",
    });
    await expect(openImage(`${host}/team/none`, { platform: AMD64 })).rejects.toMatchObject({
      code: "notFound",
    });
    await expect(
      openImage(`${host}/team/app:multi`, { platform: { os: "linux", architecture: "riscv64" } }),
    ).rejects.toMatchObject({ code: "notFound" });
  });
});

describe("a registry that misbehaves", () => {
  type Answer = (request: IncomingMessage, response: ServerResponse) => void;
  let server: Server;
  let other: Server;
  let host = "";
  let answer: Answer;
  let onOther: Answer;
  const seen: Array<{ url: string; authorization: string | undefined; range: string | undefined }> = [];

  const listen = async (handle: () => Answer): Promise<Server> => {
    const made = createServer((request, response) => {
      seen.push({
        url: request.url ?? "",
        authorization: request.headers.authorization,
        range: request.headers.range,
      });
      handle()(request, response);
    }).listen(0, "127.0.0.1");
    await new Promise((resolve) => made.once("listening", resolve));
    return made;
  };
  const originOf = (made: Server) => `127.0.0.1:${(made.address() as AddressInfo).port}`;
  beforeAll(async () => {
    server = await listen(() => answer);
    other = await listen(() => onOther);
    host = originOf(server);
  });
  beforeEach(() => void seen.splice(0));
  afterAll(() => {
    for (const made of [server, other]) {
      made.closeAllConnections();
      made.close();
    }
  });

  const good: Answer = (request, response) => {
    const [kind, wanted = ""] = (request.url ?? "").split("/").slice(-2);
    const digest = wanted.startsWith("sha256:") ? wanted : layout.manifestDigest;
    const bytes = blobOf(digest);
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
    response.writeHead(kind === "blobs" && from > 0 ? 206 : 200, { "content-length": bytes.length - from });
    response.end(bytes.subarray(from));
  };
  const retry = { attemptsMax: 3, initialDelayMs: 1, delayMsMax: 5 };
  const open = (extra = {}) =>
    openImage(`${host}/app:v1`, { platform: AMD64, patience: { retry }, ...extra });
  const credentials = async () => ({ username: "me", password: "secret" });

  test("asks for a token as the challenge says, and keeps it", async () => {
    answer = (request, response) => {
      if (request.url?.startsWith("/token"))
        return void response.end(JSON.stringify({ access_token: "t0k" }));
      if (request.headers.authorization === "Bearer t0k") return void good(request, response);
      response
        .writeHead(401, {
          "www-authenticate": `Bearer realm="http://${host}/token",service="reg",scope="repository:app:pull"`,
        })
        .end();
    };
    await readLayer(await open({ credentials }));
    const tokens = seen.filter(({ url }) => url.startsWith("/token"));
    expect(tokens).toEqual([
      {
        url: "/token?service=reg&scope=repository%3Aapp%3Apull",
        authorization: `Basic ${Buffer.from("me:secret").toString("base64")}`,
        range: undefined,
      },
    ]);
  });
  test("uses Basic where it is asked for, and says when credentials are missing", async () => {
    answer = (request, response) => {
      if (request.headers.authorization === `Basic ${Buffer.from("me:secret").toString("base64")}`)
        return void good(request, response);
      response.writeHead(401, { "www-authenticate": 'Basic realm="x"' }).end();
    };
    await readLayer(await open({ credentials }));
    await expect(open()).rejects.toMatchObject({ code: "unauthenticated" });
    await expect(
      open({ credentials: async () => ({ username: "me", password: "wrong" }) }),
    ).rejects.toMatchObject({ code: "unauthenticated" });
  });
  test("follows redirects to storage without handing its credentials on", async () => {
    answer = (request, response) => {
      if (request.headers.authorization === undefined)
        return void response.writeHead(401, { "www-authenticate": "Basic" }).end();
      if (request.url?.includes("/blobs/"))
        return void response
          .writeHead(307, { location: `http://localhost:${originOf(other).split(":")[1]}${request.url}` })
          .end();
      good(request, response);
    };
    onOther = good;
    expect((await readLayer(await open({ credentials }))).length).toBeGreaterThan(1000);
    const redirected = seen.filter(({ url }) => url.includes("/blobs/"));
    expect(redirected.some(({ authorization }) => authorization === undefined)).toBe(true);
  });
  test("goes on where a connection was cut", async () => {
    let cuts = 3;
    answer = (request, response) => {
      const isLayer =
        request.url?.includes("/blobs/") === true && blobOf(request.url.split("/").at(-1)!).length > 10_000;
      if (!isLayer || cuts-- <= 0) return void good(request, response);
      const bytes = blobOf(request.url!.split("/").at(-1)!);
      const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
      response.writeHead(from > 0 ? 206 : 200, { "content-length": bytes.length - from });
      response.write(bytes.subarray(from, from + 5000), () => setTimeout(() => response.destroy(), 20));
    };
    const image = await open();
    expect((await readLayer(image)).equals(blobOf(image.layers[0]!.digest))).toBe(true);
    expect(seen.filter(({ range }) => range !== undefined).length).toBeGreaterThanOrEqual(2);
  });
  test("waits out 503 and 429, gives up on a registry that stays down or silent", async () => {
    let failures = 2;
    answer = (request, response) =>
      failures-- > 0
        ? void response.writeHead(failures % 2 === 0 ? 503 : 429).end()
        : good(request, response);
    await open();
    answer = (_request, response) => void response.writeHead(503).end();
    await expect(open()).rejects.toMatchObject({ code: "unavailable" });
    answer = () => undefined;
    await expect(open({ patience: { retry, stallTimeoutMs: 50 } })).rejects.toMatchObject({
      code: "deadlineExceeded",
    });
  });
  test("a registry gets the pause that it asks for, unless that is too long", async () => {
    answer = (_request, response) => void response.writeHead(429, { "retry-after": "60" }).end();
    const once = { ...retry, attemptsMax: 1 };
    const pauseOf = (retryAfterMsMax: number) =>
      open({ patience: { retry: once, retryAfterMsMax } }).catch(({ retryAfterMs }) => retryAfterMs);
    expect(await pauseOf(60_000)).toBe(60_000);
    expect(await pauseOf(59_999)).toBeUndefined();
  });
  test("refuses content with another digest, and more of it than promised", async () => {
    answer = (request, response) =>
      request.url?.includes("/blobs/") ? void response.end(Buffer.alloc(1 << 16)) : good(request, response);
    await expect(open()).rejects.toMatchObject({ code: "corrupt" });
    answer = (_request, response) => {
      response.writeHead(200);
      const more = () => response.write(Buffer.alloc(1 << 20, " ")) && setImmediate(more);
      response.on("drain", more);
      more();
    };
    await expect(open()).rejects.toMatchObject({ code: "corrupt" });
  });
});

describe("credentials", () => {
  test("are read from docker's configuration", async () => {
    const path = join(scratch, "config.json");
    writeFileSync(
      path,
      JSON.stringify({
        auths: {
          "r.io": { auth: Buffer.from("u:p:w").toString("base64") },
          "https://index.docker.io/v1/": { username: "d", password: "e" },
        },
      }),
    );
    const provider = dockerConfigCredentials(path);
    expect(await provider("r.io")).toEqual({ username: "u", password: "p:w" });
    expect(await provider("docker.io")).toEqual({ username: "d", password: "e" });
    expect(await provider("other.io")).toBeUndefined();
    expect(await dockerConfigCredentials(join(scratch, "none"))("r.io")).toBeUndefined();
  });
  test("challenges are read, nonsense is not", () => {
    expect(parseChallenge('Bearer realm="https://a/t", service=s')).toMatchObject({
      scheme: "bearer",
      service: "s",
    });
    expect(parseChallenge("Basic")).toEqual({ scheme: "basic" });
    for (const header of [null, "Digest x", "Bearer realm=ftp://x", "Bearer"])
      expect(parseChallenge(header)).toBeUndefined();
  });
});
