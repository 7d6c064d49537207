// One platform a state folder. The hold is a socket in the kernel's own namespace (unix(7), abstract): taken atomically, and
// gone with the process, however it ends.
import { createHash } from "node:crypto";
import { realpath } from "node:fs/promises";
import { createServer } from "node:net";
import { PlatformError } from "@pilotlight/errors";

/** Takes the folder for this process. Throws `alreadyExists` when another one has it. */
export async function holdFolder(directory: string): Promise<{ release(): void }> {
  const key = createHash("sha256")
    .update(await realpath(directory))
    .digest("hex");
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) =>
      reject(
        error.code === "EADDRINUSE"
          ? new PlatformError("alreadyExists", `a platform runs on ${directory} already`, {
              remedy:
                "Use it (npm run -s pilotlight -- status), stop it with Ctrl-C, or give another --state.",
            })
          : error,
      ),
    );
    server.listen(`\0pilotlight-${key}`, resolve);
  });
  server.unref();
  return { release: () => void server.close() };
}
