// Starts by Pilotlight on an empty node, as a process of its own. Arguments: bucket URI, manifest digest, directory, mounts,
// starts (over the mounts in turn). Waits for a line on standard input; prints the ms until the program has said DONE, and what
// was fetched, as JSON.
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { launch, type Mount, openImagefs, watchLoad } from "@pilotlight/imagefs";
import { openStore } from "@pilotlight/object-store";

const [bucketUri = "", manifestDigest = "", directory = "", mounts = "1", starts = "1"] =
  process.argv.slice(2);
const bucket = openStore(bucketUri);
const imagefs = openImagefs({ cacheDir: join(directory, "cache") });
// As on a node whose agent is up, and as the peers' daemons are.
await imagefs.ready();
const giveUp = async () => {
  // The benchmark was interrupted.
  await imagefs.stop();
  process.exit(1);
};
process.stdin.once("end", giveUp);
process.once("SIGTERM", giveUp);
process.stdout.write("ready\n");
await once(process.stdin, "data");
const load = await watchLoad(directory);
const startedAt = performance.now();
const mounted = [];
for (let i = 0; i < Number(mounts); i++)
  mounted.push(
    await imagefs.mount({
      bucket,
      manifestDigest,
      mountpoint: join(directory, `root-${i}`),
      writableDir: join(directory, `writable-${i}`),
      fill: false,
    }),
  );
const mountedMs = performance.now() - startedAt;
const doneMs: number[] = [];
let first = await load.soFar();
for (let i = 0; i < Number(starts); i++) {
  const mount = mounted[i % mounted.length] as Mount;
  const { process: program } = await launch(imagefs, mount, { stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(program, "exit");
  let done = false;
  for await (const line of createInterface({ input: program.stdout as NodeJS.ReadableStream }))
    if (line === "DONE") done = true;
  const [code] = await ended;
  doneMs.push(performance.now() - startedAt);
  if (i === 0) first = await load.soFar();
  if (!done) throw new Error(`the program ended with ${code} and did not do its work`);
}
const stats = await imagefs.stats();
const touched = await mounted[0]?.touched();
process.stdout.write(
  `${JSON.stringify({
    firstMs: Math.round(doneMs[0] as number),
    againMs: Math.round((doneMs.at(-1) as number) - (doneMs.at(-2) ?? 0)),
    mountedMs: Math.round(mountedMs),
    method: mounted[0]?.method,
    requests: stats?.requests,
    diskWrittenBytes: first.diskWrittenBytes ?? 0,
    cpuMs: Math.round(first.cpuMs),
    fetchedBytes: stats?.images.reduce((sum, image) => sum + image.fetchedBytes, 0),
    touchedBytes: touched?.reduce((sum, [, pages]) => sum + pages * 4096, 0),
  })}\n`,
);
await imagefs.stop();
process.exit(0);
