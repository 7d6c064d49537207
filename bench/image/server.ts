// Registry and bucket behind one rate-limited link, as a process of its own: images of layout directories by the read side of
// the OCI distribution API, and a directory of objects with ranges. All answers share one rate; each begins a round trip late.
// Arguments: bits per second, round trip in ms, bucket directory, then NAME=LAYOUT for each image.

import { open, readFile, stat } from "node:fs/promises";
import { createServer, type ServerResponse } from "node:http";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";

const [rate = "", roundTrip = "", bucketDir = "", ...images] = process.argv.slice(2);
const bytesPerMs = Number(rate) / 8 / 1000;
const roundTripMs = Number(roundTrip);
const layouts = new Map(images.map((image) => image.split("=", 2) as [string, string]));

const PIECE_BYTES = 256 << 10;
/** How far an idle link may run ahead: timers are no finer. */
const BURST_MS = 2;
let freeAt = 0;
const counted = { bytes: 0, requests: 0 };

/** Waits until the link has carried this many bytes more. */
async function carry(bytes: number): Promise<void> {
  counted.bytes += bytes;
  if (bytesPerMs === 0) return;
  freeAt = Math.max(freeAt, performance.now() - BURST_MS) + bytes / bytesPerMs;
  const waitMs = freeAt - performance.now();
  if (waitMs >= 1) await sleep(waitMs);
}

async function send(
  response: ServerResponse,
  path: string,
  range: string | undefined,
  type: string,
  head: boolean,
) {
  const info = await stat(path).catch(() => undefined);
  if (info === undefined || !info.isFile()) return void response.writeHead(404).end("{}");
  const match = /^bytes=(\d+)-(\d*)$/.exec(range ?? "");
  const from = match === null ? 0 : Number(match[1]);
  const to = match === null || match[2] === "" ? info.size - 1 : Math.min(Number(match[2]), info.size - 1);
  response.writeHead(match === null ? 200 : 206, {
    "content-type": type,
    "content-length": to - from + 1,
    "accept-ranges": "bytes",
    etag: `"${info.size}-${info.mtimeMs}"`,
    ...(match !== null && { "content-range": `bytes ${from}-${to}/${info.size}` }),
  });
  if (head) return void response.end();
  await pipeline(Readable.from(pieces(path, from, to)), response).catch((error: NodeJS.ErrnoException) => {
    // A client that has enough goes away.
    if (error.code !== "ERR_STREAM_PREMATURE_CLOSE") throw error;
  });
}

async function* pieces(path: string, from: number, to: number): AsyncGenerator<Buffer> {
  const file = await open(path);
  try {
    for (let at = from; at <= to; ) {
      const piece = Buffer.allocUnsafeSlow(Math.min(PIECE_BYTES, to + 1 - at));
      const { bytesRead } = await file.read(piece, 0, piece.length, at);
      if (bytesRead === 0) return;
      await carry(bytesRead);
      yield piece.subarray(0, bytesRead);
      at += bytesRead;
    }
  } finally {
    await file.close();
  }
}

async function answer(
  url: string,
  range: string | undefined,
  head: boolean,
  response: ServerResponse,
): Promise<void> {
  counted.requests++;
  await sleep(roundTripMs);
  const path = decodeURIComponent(url.split("?")[0] ?? "");
  if (path === "/v2/" || path === "/v2") return void response.writeHead(200).end("{}");
  const match = /^\/v2\/([^/]+)\/(manifests|blobs)\/(.+)$/.exec(path);
  if (match === null) return send(response, join(bucketDir, path), range, "application/octet-stream", head);
  const [, name = "", kind = "", reference = ""] = match;
  const layout = layouts.get(name);
  if (layout === undefined) return void response.writeHead(404).end("{}");
  const blob = (digest: string) => join(layout, "blobs/sha256", digest.replace(/^sha256:/, ""));
  if (kind === "blobs") return send(response, blob(reference), range, "application/octet-stream", head);
  const digest = reference.startsWith("sha256:") ? reference : await digestOf(layout, reference);
  response.setHeader("docker-content-digest", digest);
  const { mediaType } = JSON.parse(await readFile(blob(digest), "utf8")) as { mediaType: string };
  return send(response, blob(digest), undefined, mediaType, head);
}

async function digestOf(layout: string, tag: string): Promise<string> {
  const index = JSON.parse(await readFile(join(layout, "index.json"), "utf8")) as {
    manifests: { digest: string; annotations?: Record<string, string> }[];
  };
  const found = index.manifests.find(
    ({ annotations }) => annotations?.["org.opencontainers.image.ref.name"] === tag,
  );
  return (found ?? index.manifests[0])?.digest ?? "";
}

const server = createServer((request, response) => {
  if (request.url === "/counted") return void response.end(JSON.stringify(counted));
  answer(request.url ?? "/", request.headers.range, request.method === "HEAD", response).catch(
    (error: unknown) => {
      process.stderr.write(`${error}\n`);
      response.destroy();
    },
  );
});
server.listen(0, "127.0.0.1", () => process.stdout.write(`${JSON.stringify(server.address())}\n`));
