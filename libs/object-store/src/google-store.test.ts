// What the emulator lacks: conditions on upload sessions and deletions, answers that are lost, tokens.
import { generateKeyPairSync, verify } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { openStore } from "./open.ts";
import type { ObjectStore } from "./store.ts";

const MiB = 1024 * 1024;
type Stored = { name: string; generation: number; bytes: Buffer; metadata: Record<string, string> };
type Session = { name: string; metadata: Record<string, string>; bytes: Buffer; match: string | null };
type Seen = { method: string; url: URL; headers: IncomingMessage["headers"]; body: Buffer };

let server: Server;
let origin: string;
let store: ObjectStore;
let objects: Map<string, Stored>;
let sessions: Map<string, Session>;
let seen: Seen[];
/** May answer in the server's stead: true when it did. */
let fault: (request: Seen, response: ServerResponse) => boolean;

beforeEach(async () => {
  objects = new Map();
  sessions = new Map();
  seen = [];
  fault = () => false;
  server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const url = new URL(request.url ?? "/", origin);
    const call = { method: request.method ?? "", url, headers: request.headers, body: Buffer.concat(chunks) };
    seen.push(call);
    if (!fault(call, response)) handle(call, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  store = openStore(`gs://bucket/?endpoint=${origin}`, {
    env: {},
    retry: { attemptsMax: 4, initialDelayMs: 1, delayMsMax: 2 },
  });
});
afterEach(async () => {
  await store.close();
  server.closeAllConnections();
  server.close();
});

function handle({ method, url, headers, body }: Seen, response: ServerResponse): void {
  const match = url.searchParams.get("ifGenerationMatch");
  const session = sessions.get(url.searchParams.get("upload_id") ?? "");
  if (method === "PUT" && session !== undefined) {
    upload(session, headers, body, response);
    return;
  }
  if (method === "POST" && url.searchParams.get("uploadType") === "resumable") {
    const id = String(sessions.size + 1);
    const { name, metadata } = JSON.parse(body.toString());
    sessions.set(id, { name, metadata, bytes: Buffer.alloc(0), match });
    return void response.writeHead(200, { location: `${origin}${url.pathname}?upload_id=${id}` }).end();
  }
  if (method === "POST") {
    const parts = body.toString("latin1").split(/\r\n--pilotlight-[\w-]+|^--pilotlight-[\w-]+\r\n/);
    const { name, metadata } = JSON.parse(parts[1]?.split("\r\n\r\n")[1] ?? "");
    const bytes = Buffer.from(parts[2]?.split("\r\n\r\n").slice(1).join("\r\n\r\n") ?? "", "latin1");
    storeObject(name, bytes, metadata, match, response);
    return;
  }
  const name = decodeURIComponent(url.pathname.split("/o/")[1] ?? "");
  const found = objects.get(name);
  if (found === undefined) return void response.writeHead(404).end("{}");
  if (match !== null && match !== String(found.generation)) return void response.writeHead(412).end("{}");
  if (method === "DELETE") {
    objects.delete(name);
    return void response.writeHead(204).end();
  }
  response.end(JSON.stringify(resource(found)));
}

function upload(session: Session, headers: Seen["headers"], body: Buffer, response: ServerResponse): void {
  const [, first, last, total] =
    /^bytes (?:(\d+)-(\d+)|\*)\/(\d+|\*)$/.exec(headers["content-range"] ?? "") ?? [];
  if (first !== undefined && Number(first) === session.bytes.byteLength) {
    expect(body.byteLength).toBe(Number(last) - Number(first) + 1);
    session.bytes = Buffer.concat([session.bytes, body]);
  }
  if (total === String(session.bytes.byteLength)) {
    storeObject(session.name, session.bytes, session.metadata, session.match, response);
    return;
  }
  const range = session.bytes.byteLength === 0 ? {} : { range: `bytes=0-${session.bytes.byteLength - 1}` };
  response.writeHead(308, range).end();
}

function storeObject(
  name: string,
  bytes: Buffer,
  metadata: Record<string, string>,
  match: string | null,
  response: ServerResponse,
): void {
  const before = objects.get(name);
  if (match !== null && match !== String(before?.generation ?? 0)) {
    return void response.writeHead(412).end(JSON.stringify({ error: { message: "conditionNotMet" } }));
  }
  const stored = { name, bytes, metadata, generation: (before?.generation ?? 100) + 1 };
  objects.set(name, stored);
  response.end(JSON.stringify(resource(stored)));
}

const resource = ({ name, bytes, generation, metadata }: Stored) => ({
  name,
  size: String(bytes.byteLength),
  generation: String(generation),
  updated: "2026-01-02T03:04:05.678Z",
  metadata,
});

async function* parts(bytes: Buffer): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += MiB) yield bytes.subarray(at, at + MiB);
}
const large = Buffer.alloc(20 * MiB + 77, "pilotlight");

describe("conditions", () => {
  test("an upload in parts replaces only what was read", async () => {
    const { etag } = await store.put("a", parts(large), { ifNoneMatch: "*" });
    expect(objects.get("a")?.bytes.equals(large)).toBe(true);
    await expect(store.put("a", parts(large), { ifNoneMatch: "*" })).rejects.toMatchObject({
      code: "preconditionFailed",
    });
    const second = await store.put("a", parts(large), { ifMatch: etag });
    await expect(store.put("a", parts(large), { ifMatch: etag })).rejects.toMatchObject({
      code: "preconditionFailed",
    });
    expect(objects.get("a")?.generation).toBe(Number(second.etag));
  });
  test("a deletion takes only what was read; what is gone already is an answer to it", async () => {
    const { etag } = await store.put("a", "1");
    await store.put("a", "2");
    await expect(store.delete("a", { ifMatch: etag })).rejects.toMatchObject({ code: "preconditionFailed" });
    await store.delete("a");
    await expect(store.delete("a", { ifMatch: etag })).rejects.toMatchObject({ code: "preconditionFailed" });
  });
  test("another store's ETag matches nothing, and is not sent", async () => {
    await expect(store.put("a", "1", { ifMatch: "d41d8cd9" })).rejects.toMatchObject({
      code: "preconditionFailed",
    });
    expect(seen).toEqual([]);
  });
});

describe("lost answers", () => {
  test.each([
    ["the connection broke", (response: ServerResponse) => void response.destroy()],
    ["the server was overloaded", (response: ServerResponse) => void response.writeHead(503).end()],
  ])("a write that succeeded although %s is recognised by its token", async (_what, lose) => {
    let writes = 0;
    fault = (call, response) => {
      if (call.method !== "POST" || writes++ > 0) return false;
      const silent = { end: () => {}, writeHead: () => silent } as unknown as ServerResponse;
      handle(call, silent);
      lose(response);
      return true;
    };
    const info = await store.put("a", "hello", { ifNoneMatch: "*" });
    expect(info).toMatchObject({ size: 5, etag: String(objects.get("a")?.generation) });
    expect(writes).toBe(2);
  });
  test("a session goes on from where it stands", async () => {
    let puts = 0;
    fault = (call, response) => {
      if (call.method !== "PUT") return false;
      puts += 1;
      // The second part arrives in part only; the answer to the last is lost after everything arrived.
      if (puts === 2) {
        const session = [...sessions.values()][0] as Session;
        session.bytes = Buffer.concat([session.bytes, call.body.subarray(0, 1_000_000)]);
        response.writeHead(503).end();
        return true;
      }
      return false;
    };
    await store.put("a", parts(large));
    expect(objects.get("a")?.bytes.equals(large)).toBe(true);
    expect(seen.filter(({ headers }) => headers["content-range"]?.startsWith("bytes */"))).toHaveLength(1);
  });
});

describe("tokens", () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "pilotlight-google-token-"));
  });
  afterEach(() => rm(folder, { recursive: true }));

  const open = async (file: object) => {
    const path = join(folder, "credentials.json");
    await writeFile(path, JSON.stringify(file));
    return openStore(`gs://bucket/?endpoint=${origin}`, { env: { GOOGLE_APPLICATION_CREDENTIALS: path } });
  };
  const tokenServer = (call: Seen, response: ServerResponse): boolean => {
    if (call.url.pathname !== "/token") return false;
    response.end(JSON.stringify({ access_token: "the-token", expires_in: 3600 }));
    return true;
  };

  test("a service account signs for a token, once for many requests", async () => {
    const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
    fault = tokenServer;
    const own = await open({
      type: "service_account",
      client_email: "me@example.test",
      private_key_id: "k1",
      private_key: privateKey.export({ type: "pkcs8", format: "pem" }),
      token_uri: `${origin}/token`,
    });
    await Promise.all([own.head("a"), own.head("b"), own.head("c")]);
    const asked = seen.filter(({ url }) => url.pathname === "/token");
    expect(asked).toHaveLength(1);
    const assertion = new URLSearchParams(asked[0]?.body.toString()).get("assertion") ?? "";
    const [header = "", claims = "", signature = ""] = assertion.split(".");
    expect(
      verify(
        "RSA-SHA256",
        Buffer.from(`${header}.${claims}`),
        publicKey,
        Buffer.from(signature, "base64url"),
      ),
    ).toBe(true);
    expect(JSON.parse(Buffer.from(claims, "base64url").toString())).toMatchObject({
      iss: "me@example.test",
      aud: `${origin}/token`,
    });
    const others = seen.filter(({ url }) => url.pathname !== "/token");
    expect(others.map(({ headers }) => headers.authorization)).toEqual(Array(3).fill("Bearer the-token"));
    const { headers } = (await own.locate("a", {
      known: { key: "a", size: 1, etag: "5", modifiedAt: 0 },
    })) as { headers: Record<string, string> };
    expect(headers.authorization).toBe("Bearer the-token");
    await own.close();
  });
  test("a workload's token file is exchanged", async () => {
    fault = tokenServer;
    await writeFile(join(folder, "subject"), "subject-token\n");
    const own = await open({
      type: "external_account",
      audience: "//iam.googleapis.com/x",
      subject_token_type: "urn:ietf:params:oauth:token-type:jwt",
      token_url: `${origin}/token`,
      credential_source: { file: join(folder, "subject") },
    });
    await own.head("a");
    const form = new URLSearchParams(seen[0]?.body.toString());
    expect(form.get("subject_token")).toBe("subject-token");
    expect(form.get("audience")).toBe("//iam.googleapis.com/x");
    await own.close();
  });
  test("a refusal says where and why, never what was sent", async () => {
    fault = (call, response) => {
      if (call.url.pathname !== "/token") return false;
      response.writeHead(400).end(JSON.stringify({ error: "invalid_grant", echo: call.body.toString() }));
      return true;
    };
    const own = await open({
      type: "external_account",
      audience: "a",
      subject_token_type: "t",
      token_url: `${origin}/token`,
      credential_source: { file: join(folder, "credentials.json") },
    });
    await expect(own.head("a")).rejects.toMatchObject({
      code: "unauthenticated",
      message: expect.stringMatching(/status 400, invalid_grant$/),
    });
    await own.close();
  });
});
