// A bucket behind a web server that fails on demand: what real ones do on bad days. Read only; ranges as S3 answers them.
import { readFileSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";

/** What happens to requests for packs; everything else is answered as it should be. */
export type Fault =
  | "none"
  | "status500"
  | "status403"
  | "status404"
  | "flippedBits"
  | "stall"
  | "cut"
  | "slow";

export type BucketServer = {
  url: string;
  fault: Fault;
  /** Faults apply to this many requests, then they are over. Default: all. */
  faultsLeft: number;
  packRequests: number;
  packBytes: number;
  close(): Promise<void>;
};

const SLOW_MS = 1_500;

export async function startBucketServer(directory: string): Promise<BucketServer> {
  const server = createServer((request, response) => {
    const key = decodeURIComponent((request.url ?? "/").slice(1));
    const isPack = key.startsWith("packs/") && request.method === "GET";
    let fault: Fault = "none";
    if (isPack) {
      state.packRequests++;
      if (state.faultsLeft > 0) {
        state.faultsLeft--;
        fault = state.fault;
      }
    }
    answer(response, directory, key, request.method ?? "GET", request.headers.range, fault, (bytes) => {
      if (isPack) state.packBytes += bytes;
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const state: BucketServer = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    fault: "none",
    faultsLeft: Number.POSITIVE_INFINITY,
    packRequests: 0,
    packBytes: 0,
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
  return state;
}

function answer(
  response: ServerResponse,
  directory: string,
  key: string,
  method: string,
  range: string | undefined,
  fault: Fault,
  sent: (bytes: number) => void,
): void {
  if (fault === "stall") return;
  if (fault.startsWith("status")) {
    response.writeHead(Number(fault.slice("status".length))).end();
    return;
  }
  let object: Buffer;
  try {
    object = readFileSync(join(directory, key));
  } catch {
    response.writeHead(404).end();
    return;
  }
  const match = /^bytes=(\d+)-(\d*)$/.exec(range ?? "");
  const from = match === null ? 0 : Number(match[1]);
  const to =
    match === null || match[2] === "" ? object.length - 1 : Math.min(Number(match[2]), object.length - 1);
  const body = Buffer.from(object.subarray(from, to + 1));
  if (fault === "flippedBits") body[body.length >> 1] = (body[body.length >> 1] ?? 0) ^ 0x10;
  response.writeHead(match === null ? 200 : 206, {
    "content-length": body.length,
    etag: `"${key}"`,
    ...(match !== null && { "content-range": `bytes ${from}-${to}/${object.length}` }),
  });
  if (method === "HEAD") {
    response.end();
  } else if (fault === "cut") {
    response.write(body.subarray(0, body.length >> 1), () => response.destroy());
  } else {
    sent(body.length);
    setTimeout(() => response.end(body), fault === "slow" ? SLOW_MS : 0);
  }
}
