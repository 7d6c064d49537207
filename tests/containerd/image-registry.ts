// The read side of a registry (OCI distribution API) over layout directories, which knows what was asked for.
import { readFile, stat } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";

export type ImageRegistry = {
  /** host:port */
  host: string;
  /** Digests of blobs that were read since the last look. */
  blobsRead(): string[];
  close(): Promise<void>;
};

/** `layouts`: directory by repository name; tags are the layouts' own. */
export async function startImageRegistry(layouts: ReadonlyMap<string, string>): Promise<ImageRegistry> {
  let read: string[] = [];
  const answer = async (path: string) => {
    const [, name = "", kind = "", reference = ""] =
      /^\/v2\/([^/]+)\/(manifests|blobs)\/(.+)$/.exec(path) ?? [];
    const layout = layouts.get(name);
    if (layout === undefined) return undefined;
    const digest = reference.startsWith("sha256:") ? reference : await digestOf(layout, reference);
    const file = join(layout, "blobs/sha256", digest.replace("sha256:", ""));
    if ((await stat(file).catch(() => undefined)) === undefined) return undefined;
    if (kind === "blobs") read.push(digest);
    const bytes = await readFile(file);
    const type =
      kind === "blobs"
        ? "application/octet-stream"
        : (JSON.parse(bytes.toString()) as { mediaType: string }).mediaType;
    return { bytes, digest, type };
  };
  const server = createServer(async (request, response) => {
    const path = (request.url ?? "").split("?")[0] ?? "";
    if (path === "/v2/") return void response.writeHead(200).end("{}");
    const found = await answer(decodeURIComponent(path));
    if (found === undefined) return void response.writeHead(404).end("{}");
    response.writeHead(200, {
      "content-type": found.type,
      "content-length": found.bytes.length,
      "docker-content-digest": found.digest,
    });
    response.end(request.method === "HEAD" ? undefined : found.bytes);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    blobsRead() {
      const now = read;
      read = [];
      return now;
    },
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

async function digestOf(layout: string, tag: string): Promise<string> {
  const index = JSON.parse(await readFile(join(layout, "index.json"), "utf8")) as {
    manifests: { digest: string; annotations?: Record<string, string> }[];
  };
  const named = ({ annotations }: (typeof index.manifests)[number]) =>
    annotations?.["org.opencontainers.image.ref.name"] === tag;
  return index.manifests.find(named)?.digest ?? "";
}
