// Layers made by GNU tar from a real file system, merged by us and mounted by the kernel, against the same layers unpacked
// one over the other by GNU tar.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compareTrees, openImagefs } from "@pilotlight/imagefs";
import { openStore } from "@pilotlight/object-store";
import { hostPlatform } from "@pilotlight/oci";
import { afterAll, expect, test } from "vitest";
import { convertImage } from "./index.ts";

const scratch = mkdtempSync(join(tmpdir(), "torture-"));
const imagefs = openImagefs({ cacheDir: join(scratch, "cache") });
afterAll(async () => {
  await imagefs.stop();
  rmSync(scratch, { recursive: true, force: true });
});

/**
 * What each layer's directory holds; run with the directory as the working directory. A directory that a later layer names
 * again has that layer's attributes only, as under overlayfs; GNU tar would add to what is there, so none such has any.
 */
const LAYERS = [
  `mkdir -p etc usr/bin usr/lib/deep/er empty "odd $(printf '\\377\\376')" replaced gone opaque/sub
   echo root > etc/passwd; chmod 600 etc/passwd; echo tool > usr/bin/tool; chmod 4755 usr/bin/tool; ln usr/bin/tool usr/bin/hard; ln usr/bin/tool usr/bin/harder
   ln -s usr/lib lib; ln -s /etc/passwd abs; ln -s nowhere/${"x".repeat(200)} dangling; mkfifo fifo; mknod null c 1 3; mknod disk b 259 70000
   seq 1 100000 > usr/lib/numbers; head -c 3000000 /dev/urandom > usr/lib/random; : > zero; truncate -s 2000000 usr/lib/holes
   for i in $(seq 1 30); do echo $i | dd of=usr/lib/runs bs=65536 seek=$((2 * i)) conv=notrunc status=none; done; truncate -s 5000000 usr/lib/runs
   for i in $(seq 1 700); do echo $i > usr/lib/deep/f$i; done; echo x > replaced/old; echo x > gone/file; echo x > opaque/old; echo x > opaque/sub/older
   echo name > "${"n".repeat(255)}"; mkdir -p ${Array.from({ length: 12 }, (_, i) => `${i}${"p".repeat(150)}`).join("/")}
   chown 1000:2000 etc; chown 70000:80000 usr/lib/numbers; touch -d '1999-12-31 23:59:59.123456789' usr/lib/numbers; touch -d '1969-07-20 20:17:40.5' etc/passwd
   python3 -c "import os; os.setxattr('etc/passwd', 'user.note', bytes(range(256))); os.setxattr('empty', 'user.dir', b'd' * 3000); os.setxattr('usr/bin/tool', 'security.capability', bytes.fromhex('0100000200200000000000000000000000000000'))"`,
  `mkdir -p usr/bin opaque etc; echo changed > usr/bin/tool; chmod 755 usr/bin/tool; echo now a file > replaced; : > .wh.gone; : > opaque/.wh..wh..opq; echo new > opaque/new
   mkdir zero; echo inside > zero/inside; : > .wh.dangling; chmod 1777 etc; chown 5:6 etc; : > usr/bin/.wh.harder`,
  `mkdir -p usr/lib/deep; : > usr/lib/deep/.wh.er; for i in $(seq 1 3 700); do : > usr/lib/deep/.wh.f$i; done; mkdir gone; echo back > gone/again; ln -s gone fresh-link`,
];

test("a mount equals the layers unpacked by GNU tar", async ({ skip }) => {
  const probe = await imagefs.probe();
  const method = probe.fanotify.ok ? "fanotify" : "fuse";
  if (process.geteuid?.() !== 0 || !probe[method].ok)
    skip(`this needs root and a kernel that mounts: ${probe.fanotify.why}`);
  const archives = LAYERS.map((script, i) => {
    const directory = join(scratch, `layer-${i}`);
    mkdirSync(directory);
    execFileSync("sh", ["-ec", script], { cwd: directory, env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" } });
    return execFileSync(
      "tar",
      [
        "--format=pax",
        "--sparse",
        "--xattrs",
        "--xattrs-include=*",
        "--numeric-owner",
        "-C",
        directory,
        "-cf",
        "-",
        ".",
      ],
      { maxBuffer: 1 << 28 },
    );
  });

  const reference = join(scratch, "reference");
  mkdirSync(reference);
  archives.forEach((archive, i) => {
    const layer = join(scratch, `layer-${i}`);
    // Whiteouts by hand, on what lies below; then the layer without them.
    execFileSync("sh", [
      "-ec",
      `cd "$0" && find . -name '.wh.*' | while read -r mark; do d="$1/$(dirname "$mark")"; n=$(basename "$mark"); if [ "$n" = .wh..wh..opq ]; then find "$d" -mindepth 1 -delete; else rm -rf "$d/\${n#.wh.}"; fi; done`,
      layer,
      reference,
    ]);
    // What stood there as something else goes first: GNU tar does not put a file over a directory.
    const clash = `cd "$0" && find . -mindepth 1 ! -name '.wh.*' | while read -r p; do if [ -d "$1/$p" ] && [ ! -L "$1/$p" ] && { [ ! -d "$p" ] || [ -L "$p" ]; }; then rm -rf "$1/$p"; fi; done`;
    execFileSync("sh", ["-ec", clash, layer, reference]);
    const flags = [
      "--xattrs",
      "--xattrs-include=*",
      "--same-owner",
      "--numeric-owner",
      "-p",
      "--exclude=.wh.*",
    ];
    execFileSync("tar", [...flags, "-C", reference, "-xf", "-"], { input: archive });
  });

  mkdirSync(join(scratch, "bucket"));
  const bucket = await openStore(`file://${join(scratch, "bucket")}`);
  const image = await convertImage({ source: writeLayout(archives), bucket });
  const mount = await imagefs.mount({
    bucket,
    manifestDigest: image.manifestDigest,
    mountpoint: join(scratch, "root"),
    method,
  });
  const { differences } = await compareTrees(imagefs, mount.root, reference, {
    // Unpacking a layer touches the directories that it writes into.
    ignore: (path, field) =>
      field === "mtime" &&
      ["", "usr", "usr/bin", "usr/lib", "usr/lib/deep", "opaque", "zero", "gone", "etc"].includes(path),
  });
  expect(differences).toEqual([]);
  await mount.unmount();
  await bucket.close();
});

function writeLayout(archives: Buffer[]): string {
  const directory = join(scratch, "layout");
  mkdirSync(join(directory, "blobs/sha256"), { recursive: true });
  const blob = (bytes: Buffer) => {
    const hex = createHash("sha256").update(bytes).digest("hex");
    writeFileSync(join(directory, "blobs/sha256", hex), bytes);
    return { digest: `sha256:${hex}`, size: bytes.length };
  };
  const layers = archives.map(blob);
  const config = blob(
    Buffer.from(
      JSON.stringify({
        ...hostPlatform(),
        rootfs: { type: "layers", diff_ids: layers.map(({ digest }) => digest) },
      }),
    ),
  );
  const manifest = blob(Buffer.from(JSON.stringify({ schemaVersion: 2, config, layers })));
  writeFileSync(join(directory, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [manifest] }));
  return `oci://${directory}`;
}
