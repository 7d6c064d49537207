import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type OpenOptions, openStore } from "./open.ts";

const BYTES = Buffer.from("0123456789".repeat(100_000));

let server: Server;
let handle: (request: IncomingMessage, response: ServerResponse, attempt: number) => void;
let requests: IncomingMessage[];

beforeAll(async () => {
  server = createServer((request, response) => {
    requests.push(request);
    handle(request, response, requests.length);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});
beforeEach(() => {
  requests = [];
  handle = serve;
});

const origin = () => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
const FAST: OpenOptions = {
  retry: { attemptsMax: 3, initialDelayMs: 1, delayMsMax: 2 },
  idleTimeoutMs: 200,
  env: {},
};
const open = (options: OpenOptions = {}) => openStore(`${origin()}/base`, { ...FAST, ...options });

function serve(request: IncomingMessage, response: ServerResponse): void {
  send(request, response, '"v1"');
}

function send(request: IncomingMessage, response: ServerResponse, etag: string, cutAt?: number): void {
  const match = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
  const start = Number(match?.[1] ?? 0);
  const end = match?.[2] ? Number(match[2]) + 1 : BYTES.byteLength;
  response.writeHead(match ? 206 : 200, {
    etag,
    "content-length": end - start,
    ...(match ? { "content-range": `bytes ${start}-${end - 1}/${BYTES.byteLength}` } : {}),
  });
  if (request.method === "HEAD") response.end();
  else if (cutAt === undefined) response.end(BYTES.subarray(start, end));
  else response.write(BYTES.subarray(start, start + cutAt), () => request.socket.destroy());
}

async function collect(body: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of body) chunks.push(chunk);
  return Buffer.concat(chunks);
}

describe("a web server", () => {
  test("is read under its base, with a token, and cannot be written or listed", async () => {
    const store = open({ token: "t0ken" });
    expect((await store.get("a b/c")).bytes).toEqual(BYTES);
    expect(requests[0]?.url).toBe("/base/a%20b/c");
    expect(requests[0]?.headers.authorization).toBe("Bearer t0ken");
    await expect(store.put("a", "x")).rejects.toMatchObject({ code: "unsupported" });
    await expect(store.delete("a")).rejects.toMatchObject({ code: "unsupported" });
    expect(() => store.list()).toThrow(expect.objectContaining({ code: "unsupported" }));
    await store.close();
  });
  test("a cut connection is resumed where it broke, under the same ETag", async () => {
    handle = (request, response, attempt) =>
      send(request, response, '"v1"', attempt < 3 ? 300_000 : undefined);
    const store = open();
    expect((await collect((await store.stream("x")).body)).equals(BYTES)).toBe(true);
    expect(requests.map(({ headers }) => [headers.range, headers["if-match"]])).toEqual([
      [undefined, undefined],
      ["bytes=300000-999999", '"v1"'],
      ["bytes=600000-999999", '"v1"'],
    ]);
    await store.close();
  });
  test("an object replaced between two pieces is an error, even from a server that ignores If-Match", async () => {
    handle = (request, response, attempt) =>
      send(request, response, `"v${attempt}"`, attempt === 1 ? 1000 : undefined);
    const store = open();
    await expect(collect((await store.stream("x")).body)).rejects.toMatchObject({
      code: "preconditionFailed",
    });
    await store.close();
  });
  test("503 is tried again within the policy, 404 is not", async () => {
    handle = (request, response, attempt) => {
      if (attempt < 3) response.writeHead(503).end();
      else serve(request, response);
    };
    const store = open();
    expect((await store.get("x")).info.etag).toBe("v1");
    requests = [];
    handle = (_request, response) => response.writeHead(404).end();
    await expect(store.get("x")).rejects.toMatchObject({ code: "notFound" });
    expect(requests).toHaveLength(1);
    requests = [];
    handle = (_request, response) => response.writeHead(500).end();
    await expect(store.get("x")).rejects.toMatchObject({ code: "unavailable" });
    expect(requests).toHaveLength(3);
    await store.close();
  });
  test("an outage uses up the store's retries: it is not made worse", async () => {
    handle = (_request, response) => response.writeHead(503).end();
    const store = open();
    for (let i = 0; i < 30; i++) await store.head("x").catch(() => undefined);
    expect(requests.length).toBeLessThanOrEqual(30 + 20);
    await store.close();
  });
  test("a silent server is given up, before and within a body", async () => {
    const store = open({ retry: { attemptsMax: 1, initialDelayMs: 1, delayMsMax: 1 } });
    handle = () => undefined;
    await expect(store.get("x")).rejects.toMatchObject({ code: "deadlineExceeded" });
    handle = (_request, response) => {
      response.writeHead(200, { etag: '"v1"', "content-length": 100 });
      response.write("x");
    };
    await expect(store.get("x")).rejects.toMatchObject({ code: "deadlineExceeded" });
    await store.close();
  });
  test("a server that ignores ranges is unsupported", async () => {
    handle = (_request, response) =>
      response.writeHead(200, { etag: '"v1"', "content-length": BYTES.byteLength }).end(BYTES);
    const store = open();
    await expect(store.get("x", { range: { offset: 5, length: 5 } })).rejects.toMatchObject({
      code: "unsupported",
    });
    await store.close();
  });
  test("weak ETags pin by comparison", async () => {
    handle = (request, response) => send(request, response, 'W/"v1"');
    const store = open();
    const { info } = await store.get("x");
    expect((await store.get("x", { ifMatch: info.etag })).info.etag).toBe('W/"v1"');
    expect(requests.at(-1)?.headers["if-match"]).toBeUndefined();
    handle = (request, response) => send(request, response, 'W/"v2"');
    await expect(store.get("x", { ifMatch: info.etag })).rejects.toMatchObject({
      code: "preconditionFailed",
    });
    await store.close();
  });
});

describe("redirects of a web server", () => {
  /** Another origin: the same machine by its other name. */
  const elsewhere = () => `http://localhost:${(server.address() as AddressInfo).port}`;
  const redirecting = (request: IncomingMessage, response: ServerResponse): void => {
    if (request.url === "/base/x") response.writeHead(302, { location: "/base/near" }).end();
    else if (request.url === "/base/near")
      response.writeHead(307, { location: `${elsewhere()}/far?sig=1` }).end();
    else if (request.url === "/far?sig=1") response.writeHead(302, { location: `${origin()}/back` }).end();
    else serve(request, response);
  };

  test("are followed, for reading whole, in ranges and by native readers; the token stays where it belongs", async () => {
    handle = redirecting;
    const store = open({ token: "t0ken" });
    expect((await store.get("x")).bytes).toEqual(BYTES);
    const { info, bytes } = await store.get("x", { range: { offset: 5, length: 3 }, ifMatch: "v1" });
    expect([info.size, Buffer.from(bytes).toString()]).toEqual([BYTES.byteLength, "567"]);
    const located = await store.locate("x");
    expect(located).toMatchObject({ url: `${origin()}/back`, headers: {}, info: { etag: "v1" } });
    for (const { url, headers } of requests) {
      expect([url, headers.authorization]).toEqual([
        url,
        url?.startsWith("/base") ? "Bearer t0ken" : undefined,
      ]);
    }
    await store.close();
  });
  test("that never end, or lead to something else than a web server, are refused", async () => {
    const store = open();
    handle = (_request, response) => response.writeHead(302, { location: "/again" }).end();
    await expect(store.get("x")).rejects.toThrow("redirects");
    expect(requests.length).toBeLessThan(20);
    handle = (_request, response) => response.writeHead(302, { location: "file:///etc/passwd" }).end();
    await expect(store.get("x")).rejects.toMatchObject({ code: "corrupt" });
    await store.close();
  });
});

describe("a model hub", () => {
  const SHA = "a".repeat(40);
  const files = [
    {
      type: "file",
      path: "model.safetensors",
      size: BYTES.byteLength,
      oid: "x",
      lfs: { oid: "lfs1", size: BYTES.byteLength },
    },
    { type: "directory", path: "folder" },
    { type: "file", path: "config.json", size: 2, oid: "git1" },
  ];
  const hub = () => openStore(`hf://owner/repo@v1?endpoint=${origin()}`, { ...FAST, token: "hub-token" });

  function answer(request: IncomingMessage, response: ServerResponse): void {
    const url = request.url ?? "";
    if (url === "/api/models/owner/repo/revision/v1") response.end(JSON.stringify({ sha: SHA }));
    else if (url === `/api/models/owner/repo/tree/${SHA}?recursive=true`) {
      response.setHeader("link", `<${origin()}/page2>; rel="next"`);
      response.end(JSON.stringify(files.slice(0, 2)));
    } else if (url === "/page2") response.end(JSON.stringify(files.slice(2)));
    else if (url === `/owner/repo/resolve/${SHA}/model.safetensors`) {
      // The content network has another host name than the hub.
      const location = `http://localhost:${(server.address() as AddressInfo).port}/cdn/lfs1?signature=s`;
      response
        .writeHead(302, { location, "x-linked-size": BYTES.byteLength, "x-linked-etag": '"lfs1"' })
        .end();
    } else if (url === `/owner/repo/resolve/${SHA}/config.json`) {
      response
        .writeHead(200, { etag: '"git1"', "content-length": 2 })
        .end(request.method === "HEAD" ? "" : "{}");
    } else if (url.startsWith("/cdn/lfs1")) send(request, response, '"cdn-etag"');
    else response.writeHead(404).end();
  }

  test("a revision is pinned to its commit, files are listed over pages and read through redirects", async () => {
    handle = answer;
    const store = hub();
    const listed: [string, string][] = [];
    for await (const { key, etag } of store.list()) listed.push([key, etag]);
    expect(listed).toEqual([
      ["config.json", "git1"],
      ["model.safetensors", "lfs1"],
    ]);
    const range = { offset: BYTES.byteLength - 10 };
    const { info, bytes } = await store.get("model.safetensors", { range, ifMatch: "lfs1" });
    expect(info).toMatchObject({ etag: "lfs1", size: BYTES.byteLength });
    expect(Buffer.from(bytes).toString()).toBe("0123456789");
    expect(Buffer.from((await store.get("config.json")).bytes).toString()).toBe("{}");
    expect(await store.head("absent")).toBeUndefined();
    expect(await store.revision?.()).toBe(SHA);
    await store.close();
  });
  test("the token goes to the hub and never to where the bytes come from", async () => {
    handle = answer;
    const store = hub();
    await store.get("model.safetensors");
    for (const { url, headers } of requests) {
      expect([url, headers.authorization]).toEqual([
        url,
        url?.startsWith("/cdn") ? undefined : "Bearer hub-token",
      ]);
    }
    const located = await store.locate("model.safetensors");
    expect(located).toMatchObject({ kind: "http", headers: {}, etagAskable: false, info: { etag: "lfs1" } });
    await store.close();
  });
  test("an empty token is none", async () => {
    handle = answer;
    const store = openStore(`hf://owner/repo@v1?endpoint=${origin()}`, { ...FAST, env: { HF_TOKEN: "" } });
    await store.head("config.json");
    expect(requests.map(({ headers }) => headers.authorization)).toEqual([undefined, undefined]);
    await store.close();
  });
  test("an unknown repository and a missing token say so", async () => {
    handle = (_request, response) => response.writeHead(401).end('{"error":"Invalid username or password."}');
    const store = hub();
    await expect(store.head("x")).rejects.toMatchObject({ code: "unauthenticated" });
    handle = (_request, response) => response.writeHead(404).end();
    await expect(store.head("x")).rejects.toMatchObject({ code: "notFound" });
    await store.close();
  });
});
