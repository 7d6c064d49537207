// Which shared libraries a program needs from this machine: the loader's own answer (ldd), so that an image can be made
// of a program and exactly what it loads.
import { execFile } from "node:child_process";
import { realpath } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { PlatformError } from "@pilotlight/errors";
import type { LayerSource } from "./file-tree.ts";

const run = promisify(execFile);

/** Libraries that programs of every kind open by name at run time, so that ldd does not list them. */
const NAME_SERVICE = ["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"];

/**
 * The loader and libraries of `programs`, as layer sources below /usr. Programs look for them in /lib and /lib64 too: put
 * MERGED_USR_LINKS beside them.
 */
export async function sharedLibrarySources(programs: readonly string[]): Promise<LayerSource[]> {
  const paths = new Set<string>();
  for (const program of programs) {
    for (const path of await librariesOf(program)) paths.add(path);
  }
  const libc = [...paths].find((path) => /\/libc\.so\.6$/.test(path));
  for (const name of libc === undefined ? [] : NAME_SERVICE) {
    const path = join(dirname(libc as string), name);
    if ((await realpath(path).catch(() => undefined)) !== undefined) paths.add(path);
  }
  const sources: LayerSource[] = [];
  for (const path of [...paths].sort()) {
    // The directory as it really is (usr/lib/…), the name as the program asks for it (libc.so.6, itself often a link).
    const directory = await realpath(dirname(path));
    const name = path.slice(path.lastIndexOf("/") + 1);
    const to = join(directory, name).replace(/^\/(bin|sbin|lib|lib64)\//, "/usr/$1/");
    sources.push({ from: await realpath(path), to, dereference: true });
  }
  return sources;
}

/** The links of a merged-usr root, for the names by which loaders and scripts are called. */
export const MERGED_USR_LINKS: readonly LayerSource[] = ["bin", "sbin", "lib", "lib64"].flatMap((name) => [
  { to: `/usr/${name}`, directory: true } as const,
  { to: `/${name}`, symlink: `usr/${name}` } as const,
]);

async function librariesOf(program: string): Promise<string[]> {
  const { stdout } = await run("ldd", [program], { env: { PATH: "/usr/bin:/bin", LC_ALL: "C" } }).catch(
    (cause) => {
      const text = String((cause as { stderr?: string }).stderr ?? cause);
      if (/not a dynamic executable|statically linked/.test(text)) return { stdout: "" };
      throw new PlatformError("unavailable", `ldd ${program}: ${text.trim()}`, {
        cause,
        remedy: "Install the C library's tools (ldd).",
      });
    },
  );
  const missing = /^\s*(\S+) => not found/m.exec(stdout)?.[1];
  if (missing !== undefined) {
    throw new PlatformError("notFound", `${program} needs ${missing}, which this machine does not have`, {
      remedy: `Install the package that holds ${missing}.`,
    });
  }
  return [...stdout.matchAll(/(?:=>\s+|^\s*)(\/\S+)\s+\(0x/gm)].map((match) => match[1] as string);
}
