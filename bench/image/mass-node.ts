// One of several nodes that start an image together, as a process of its own with an agent's way of sharing. Arguments: bucket URI,
// manifest digest, directory, node, starts, starts at once. What this node says to the others goes out as lines `{"say":…}`, what
// they say comes in as lines; the line `go` begins the starts. Ends with a line `{"done":…}`.
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { launch, openImagefs } from "@pilotlight/imagefs";
import { openStore } from "@pilotlight/object-store";
import { joinPeers, type PeersPorts } from "@pilotlight/peers";

const [bucketUri = "", manifestDigest = "", directory = "", nodeId = "", starts = "1", atOnce = "1"] =
  process.argv.slice(2);
type Heard = Parameters<PeersPorts["say"]>[0];

const bucket = openStore(bucketUri);
const imagefs = openImagefs({ cacheDir: join(directory, "cache") });
const tell = (line: unknown) => process.stdout.write(`${JSON.stringify(line)}\n`);
const listeners = new Set<(what: Heard) => void>();
let begin: () => void = () => undefined;
const begun = new Promise<void>((resolve) => {
  begin = resolve;
});
/** The benchmark has ended, or was interrupted. */
async function end(): Promise<void> {
  await imagefs.stop();
  process.exit(0);
}
createInterface({ input: process.stdin })
  .on("line", (line) => {
    if (line === "go") begin();
    else for (const listener of listeners) listener(JSON.parse(line) as Heard);
  })
  .on("close", () => void end());
process.once("SIGTERM", () => void end());

await imagefs.share({
  nodeId,
  host: "127.0.0.1",
  port: 0,
  token: "of this run",
  uploadBytesPerSecond: 0,
  join: (port, onChange) =>
    joinPeers(
      {
        say: (what) => tell({ say: what }),
        listen: (listener) => {
          listeners.add(listener);
          return { close: async () => void listeners.delete(listener) };
        },
      },
      { nodeId, zone: "bench", url: `http://127.0.0.1:${port}`, onChange },
    ),
});
tell({ ready: true });
await begun;

const startedAt = performance.now();
const doneMs: number[] = [];
async function startOne(number: number): Promise<void> {
  const mount = await imagefs.mount({
    bucket,
    manifestDigest,
    mountpoint: join(directory, `root-${number}`),
    writableDir: join(directory, `writable-${number}`),
    fill: false,
  });
  const { process: program } = await launch(imagefs, mount, { stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(program, "exit");
  let done = false;
  for await (const line of createInterface({ input: program.stdout as NodeJS.ReadableStream }))
    if (line === "DONE") done = true;
  await ended;
  if (!done) throw new Error(`start ${number} of ${nodeId} did not do its work`);
  doneMs.push(performance.now() - startedAt);
}
let next = 0;
await Promise.all(
  Array.from({ length: Number(atOnce) }, async () => {
    while (next < Number(starts)) await startOne(next++);
  }),
);
const stats = await imagefs.stats();
const [image] = stats?.images ?? [];
tell({
  done: {
    firstMs: Math.round(Math.min(...doneMs)),
    lastMs: Math.round(Math.max(...doneMs)),
    fetchedBytes: image?.fetchedBytes ?? 0,
    peerBytes: image?.peerBytes ?? 0,
    hedges: stats?.hedges ?? 0,
    peers: stats?.peers,
  },
});
