// stargz-snapshotter as a peer: its daemon from the published modules (stargz/, built once with the machine's Go, or a directory with
// the program in PILOTLIGHT_BENCH_STARGZ), and images whose layers are eStargz with the files of a start first.
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, readdir, readFile, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, join } from "node:path";
import { runCommand } from "@pilotlight/servers";
import type { ImageName, PreparedImage } from "./recipes.ts";
import { filesOfStart } from "./touched-files.ts";

const SOURCES = join(import.meta.dirname, "stargz");
const PROGRAM = "stargz-peer";
const TOOLS = join(homedir(), ".cache/pilotlight/tools");

/** The directory with the program. Throws where it is not there and cannot be built. */
export async function findStargz(): Promise<string> {
  const named = process.env.PILOTLIGHT_BENCH_STARGZ;
  if (named !== undefined) {
    if (!existsSync(join(named, PROGRAM))) throw new Error(`PILOTLIGHT_BENCH_STARGZ holds no ${PROGRAM}`);
    return named;
  }
  const hash = createHash("sha256");
  for (const name of (await readdir(SOURCES)).sort())
    hash.update(name).update(await readFile(join(SOURCES, name)));
  const directory = join(TOOLS, `stargz-${hash.digest("hex").slice(0, 12)}`);
  if (existsSync(directory)) return directory;
  await mkdir(TOOLS, { recursive: true });
  const partial = await mkdtemp(join(TOOLS, "partial-"));
  try {
    await cp(SOURCES, partial, { recursive: true });
    const build = `cd "$1" && CGO_ENABLED=0 go build -trimpath -o ${PROGRAM} .`;
    await runCommand("sh", ["-ec", build, "sh", partial]);
    await rename(partial, directory);
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    throw new Error(`the stargz daemon cannot be built with Go: ${(error as Error).message}`, {
      cause: error,
    });
  }
  return directory;
}

/** A layout of the image with eStargz layers; made once (minutes for the large ones), and as large as the image's own. */
export async function estargzLayout(
  name: ImageName,
  image: PreparedImage,
  log: (line: string) => void,
): Promise<string> {
  const directory = join(image.directory, "..", `estargz-${basename(image.directory)}`);
  if (existsSync(directory)) return directory;
  const program = join(await findStargz(), PROGRAM);
  log(`${image.name}: recording the files of a start`);
  const files = await filesOfStart(name, log);
  log(`${image.name}: making eStargz layers, ${files.length} files first`);
  const partial = await mkdtemp(join(image.directory, "..", "partial-"));
  try {
    const child = spawn(program, ["optimise", image.directory, partial], {
      stdio: ["pipe", "inherit", "inherit"],
    });
    child.stdin.end(files.join("\n"));
    const [code] = (await once(child, "exit")) as [number | null];
    if (code !== 0) throw new Error(`${PROGRAM} optimise ended with ${code}`);
    await rename(partial, directory);
    return directory;
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    throw error;
  }
}
