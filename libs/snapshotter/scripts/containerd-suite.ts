// `node libs/snapshotter/scripts/containerd-suite.ts`: containerd's own tests of snapshotters against ours, as root. Needs Go and its
// module proxy; the first run builds for a minute or two.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const ROOT = join(import.meta.dirname, "../../..");
const SUITE = join(import.meta.dirname, "../containerd-suite");

const scratch = mkdtempSync(join(tmpdir(), "containerd-suite-"));
const cli = join(ROOT, "libs/cli/src/main.ts");
const { status, error } = spawnSync(
  "go",
  ["test", "-count=1", ".", "-args", "-test.root", ...process.argv.slice(2)],
  {
    cwd: SUITE,
    stdio: "inherit",
    env: {
      ...process.env,
      TMPDIR: scratch,
      SNAPSHOTTER_COMMAND: `${process.execPath} ${cli} image snapshotter --bucket file://${scratch}/bucket`,
    },
  },
);
rmSync(scratch, { recursive: true, force: true });
if (error !== undefined)
  process.stderr.write(`go cannot be run: ${error.message}\nInstall Go 1.24 or newer.\n`);
process.exitCode = status ?? 1;
