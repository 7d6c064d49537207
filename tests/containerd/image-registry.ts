// The read side of a registry (OCI distribution API) over layout directories, which knows what was asked for. One port speaks plain
// HTTP and TLS: some clients speak plainly to loopback addresses, others never.
import { readFile, stat } from "node:fs/promises";
import { createServer, type RequestListener } from "node:http";
import { createServer as createSecureServer } from "node:https";
import { type AddressInfo, createServer as createDoor, type Socket } from "node:net";
import { join } from "node:path";
import { runCommand } from "@pilotlight/servers";

/** The first byte of a TLS connection: a handshake record (RFC 8446, 5.1). */
const TLS_HANDSHAKE = 0x16;

export type ImageRegistry = {
  /** host:port */
  host: string;
  /** What its clients have to trust, PEM. */
  certificateFile: string;
  /** Digests of blobs that were read since the last look. */
  blobsRead(): string[];
  close(): Promise<void>;
};

/** `layouts`: directory by repository name; tags are the layouts' own. `folder`: for its certificate. */
export async function startImageRegistry(
  layouts: ReadonlyMap<string, string>,
  folder: string,
): Promise<ImageRegistry> {
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
  const serve: RequestListener = async (request, response) => {
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
  };
  const { key, certificate } = await makeCertificate(folder);
  const plain = createServer(serve);
  const secure = createSecureServer({ key: await readFile(key), cert: await readFile(certificate) }, serve);
  const door = createDoor((socket: Socket) => {
    socket.on("error", () => undefined);
    socket.once("readable", () => {
      const bytes = socket.read() as Buffer | null;
      if (bytes === null) return;
      socket.unshift(bytes);
      (bytes[0] === TLS_HANDSHAKE ? secure : plain).emit("connection", socket);
    });
  });
  await new Promise<void>((resolve) => door.listen(0, "127.0.0.1", resolve));
  return {
    host: `127.0.0.1:${(door.address() as AddressInfo).port}`,
    certificateFile: certificate,
    blobsRead() {
      const now = read;
      read = [];
      return now;
    },
    close: () => {
      for (const server of [plain, secure]) server.closeAllConnections();
      return new Promise((resolve) => door.close(() => resolve()));
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

async function makeCertificate(folder: string): Promise<{ key: string; certificate: string }> {
  const [key, certificate] = [join(folder, "registry.key"), join(folder, "registry.pem")];
  await runCommand("openssl", [
    ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"],
    ...["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
    ...["-keyout", key, "-out", certificate],
  ]);
  return { key, certificate };
}
