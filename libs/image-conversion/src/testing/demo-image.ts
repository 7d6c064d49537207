// A real image for tests: the C library, its loader, a Node program and its files, as a layout directory.
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  hostPlatform,
  type LayerSource,
  MERGED_USR_LINKS,
  sharedLibrarySources,
  type WrittenLayout,
  writeOciLayout,
} from "@pilotlight/oci";

const REPOSITORY = join(import.meta.dirname, "../../../..");

/** The Node binary that the repository brings along, or the one that runs this. */
export function nodeBinary(): string {
  const brought = join(REPOSITORY, "node_modules", `node-linux-${process.arch}`, "bin", "node");
  return existsSync(brought) ? brought : process.execPath;
}

export async function writeNodeImage(
  directory: string,
  app: readonly LayerSource[],
  tag = "demo",
): Promise<WrittenLayout> {
  const node = nodeBinary();
  return writeOciLayout({
    directory,
    tag,
    platform: hostPlatform(),
    gzipLevel: 1,
    layers: [
      [
        ...MERGED_USR_LINKS,
        ...(await sharedLibrarySources([node])),
        { to: "/etc/passwd", content: "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n" },
        { to: "/etc/group", content: "root:x:0:\napp:x:1000:\nmodels:x:2000:app\n" },
        ...["/proc", "/sys", "/dev", "/tmp"].map((to) => ({
          to,
          directory: true as const,
          mode: to === "/tmp" ? 0o1777 : 0o755,
        })),
      ],
      [{ from: node, to: "/usr/bin/node" }],
      app,
    ],
    run: {
      entrypoint: ["node", "/app/main.mjs"],
      cmd: ["from", "cmd"],
      env: { PATH: "/usr/local/bin:/usr/bin", GREETING: "hello" },
      workingDir: "/app",
      user: "app",
    },
  });
}
