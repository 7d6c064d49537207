// Run by a test as an ordinary user: extracts an image, starts its program, prints what it said and how it was started.
// Arguments: bucket URI, manifest digest, cache directory, "true" to do without the imagefs program.
import { text } from "node:stream/consumers";
import { launch, openImagefs } from "@pilotlight/imagefs";
import { openStore } from "@pilotlight/object-store";

const [bucketUri = "", manifestDigest = "", cacheDir = "", withoutProgram] = process.argv.slice(2);
const bucket = await openStore(bucketUri);
const imagefs = openImagefs(withoutProgram === "true" ? { cacheDir, binary: null } : { cacheDir });
const mount = await imagefs.mount({ bucket, manifestDigest, mountpoint: `${cacheDir}/root` });
const { process: program, mode } = await launch(imagefs, mount, { stdio: ["ignore", "pipe", "inherit"] });
const seen = JSON.parse(await text(program.stdout as NodeJS.ReadableStream));
process.stdout.write(JSON.stringify({ mode, seen }));
await bucket.close();
await imagefs.close();
