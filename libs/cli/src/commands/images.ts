// `pilotlight image`: converting, looking into, checking, teaching and mounting images. Only `convert` without `--bucket` and
// `list` need the platform: everything else needs a bucket, and a registry where an image is named by reference.
import { homedir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import type { Act } from "../cli.ts";
import { type GlobalOptions, wholeNumber } from "../context.ts";
import type { RegistryChoice, Stored } from "../images/stored-image.ts";
import { formatBytes } from "../text/format.ts";
import { table } from "../text/table.ts";

type Options = GlobalOptions & RegistryChoice & { bucket?: string };
type MountOptions = Options & { cache: string; method: "auto" | "fanotify" | "fuse" | "extract" };
type SnapshotterOptions = MountOptions & {
  socket: string;
  directory: string;
  converter: string;
  end?: boolean;
};
type VerifyOptions = Options & { against?: string; scratch?: string };
type GarbageOptions = Options & { keep?: string[]; all?: boolean; grace: string; dryRun?: boolean };

const operations = () => import("../images/image-operations.ts");
const CACHE_DIR = join(homedir(), ".cache/pilotlight/imagefs");

/** Options for images that a registry has to resolve. */
const withRegistry = (command: Command): Command =>
  withCredentials(
    command.option("--platform <platform>", "of an image index, e.g. linux/amd64; default: this machine's"),
  );

const withCredentials = (command: Command): Command =>
  command
    .option("--registry-config <file>", "Docker's config.json with credentials; default: anonymous")
    .option("--plain-http <host...>", "registries spoken to without TLS; loopback ones always are");

const named = (name: string) =>
  withRegistry(
    new Command(name)
      .argument(
        "<image>",
        "digest (sha256:…), its beginning, or registry/repository:tag, oci:///directory:tag",
      )
      .option("--bucket <uri>", "another bucket than the platform's"),
  );

const stored = (image: string, options: Options): Stored => ({
  image,
  bucket: options.bucket,
  registry: options,
});

const convertCommand = (act: Act): Command =>
  withRegistry(
    new Command("convert")
      .description("Converts an image, ahead of any deployment, and waits for it.")
      .argument("<image>", "registry/repository:tag, …@sha256:… or oci:///directory:tag")
      .option("--bucket <uri>", "convert here into this bucket; without it the platform does it"),
  )
    .addHelpText(
      "after",
      `
Examples:
  pilotlight image convert registry.example/team/worker:1.2
  pilotlight image convert registry.example/team/worker:1.2 --bucket s3://images?region=eu-west-1
  pilotlight image convert oci:///tmp/layout:latest --bucket file:///srv/images`,
    )
    .action(
      act<Options>(async (context, options, image = "") => {
        if (options.bucket === undefined)
          return (await operations()).convert(context, image, options.platform);
        const { convertHere } = await import("../images/convert-here.ts");
        await convertHere(context, image, options.bucket, options);
      }),
    );

const listCommand = (act: Act): Command =>
  new Command("list")
    .description("Lists the images that the platform was asked for.")
    .addHelpText("after", "\nExample:\n  pilotlight image list")
    .action(
      act<GlobalOptions>(async (context) => {
        const images = await context.client.images();
        context.show(images, () =>
          table(
            ["IMAGE", "STATE", "FILES", "STORED", "DIGEST"],
            images.map((one) => [
              one.image,
              one.failure === null ? one.state : `${one.state}: ${one.failure.message}`,
              formatBytes(one.unpackedBytes),
              formatBytes(one.storedBytes),
              one.manifestDigest ?? "",
            ]),
          ),
        );
      }),
    );

const inspectCommand = (act: Act): Command =>
  named("inspect")
    .description("Shows what a converted image consists of.")
    .addHelpText("after", "\nExample:\n  pilotlight image inspect sha256:3f2a")
    .action(
      act<Options>(async (context, options, image = "") => {
        await (await operations()).inspect(context, stored(image, options));
      }),
    );

const verifyCommand = (act: Act): Command =>
  named("verify")
    .description("Reads every chunk of a converted image and checks it against its checksum.")
    .option("--against <image>", "mount it too, and compare every file with what GNU tar unpacks (root)")
    .option("--scratch <directory>", "room for the unpacked image; default: the system's temporary directory")
    .addHelpText(
      "after",
      `
With --against: content, type, mode, owner, times, extended attributes, devices and hard links of every file.

Examples:
  pilotlight image verify sha256:3f2a
  pilotlight image verify sha256:3f2a --against registry.example/team/worker:1.2`,
    )
    .action(
      act<VerifyOptions>(async (context, options, image = "") => {
        const { verify } = await import("../images/verify.ts");
        await verify(context, stored(image, options), { against: options.against, scratch: options.scratch });
      }),
    );

const profileCommand = (act: Act): Command =>
  named("profile")
    .description(
      "Starts a program of an image on an empty cache and records what it reads, for the starts to come.",
    )
    .argument("[command...]", "what runs instead of the image's own command; write -- before it")
    .option("--up-after <seconds>", "a program that still runs then is up, and is ended", "60")
    .addHelpText(
      "after",
      "\nExamples:\n  pilotlight image profile sha256:3f2a --up-after 20\n  pilotlight image profile sha256:3f2a -- python3 -c 'import torch'",
    )
    .action(
      act<Options & { upAfter: string }>(async (context, options, image = "", ...command) => {
        const { profile } = await import("../images/profile.ts");
        const upAfterMs = wholeNumber(options.upAfter, "--up-after", 1) * 1_000;
        await profile(context, stored(image, options), { command, upAfterMs });
      }),
    );

const garbageCommand = (act: Act): Command =>
  withRegistry(
    new Command("gc")
      .description("Deletes from the bucket what no image that is kept needs.")
      .option("--bucket <uri>", "another bucket than the platform's")
      .option("--keep <image...>", "images in use: digests, their beginnings, or references")
      .option("--all", "no image is in use")
      .option("--grace <span>", "what is younger stays; longer than any conversion takes", "7d")
      .option("--dry-run", "only say what would go"),
  )
    .addHelpText(
      "after",
      "\nExample:\n  pilotlight image gc --bucket file:///srv/images --keep sha256:3f2a sha256:77b0 --grace 3d --dry-run",
    )
    .action(
      act<GarbageOptions>(async (context, options) => {
        const { garbage } = await import("../images/garbage.ts");
        await garbage(context, {
          bucket: options.bucket,
          keep: options.keep ?? [],
          all: options.all ?? false,
          grace: options.grace,
          dryRun: options.dryRun ?? false,
          registry: options,
        });
      }),
    );

const mountCommand = (act: Act): Command =>
  named("mount")
    .description("Mounts a converted image here; what is not read is not fetched.")
    .argument("<directory>")
    .option("--method <method>", "auto, fanotify, fuse or extract", "auto")
    .option("--cache <directory>", "where what was read is kept", CACHE_DIR)
    .addHelpText(
      "after",
      "\nExamples:\n  pilotlight image mount sha256:3f2a /mnt/worker\n  pilotlight image unmount /mnt/worker",
    )
    .action(
      act<MountOptions>(async (context, options, image = "", directory = "") => {
        const { cache, method } = options;
        await (await operations()).mount(context, stored(image, options), { directory, cache, method });
      }),
    );

const seedCommand = (act: Act): Command =>
  named("seed")
    .description("Brings a whole image into a node's cache, so that its first start there downloads nothing.")
    .requiredOption(
      "--cache <directory>",
      "what is filled: a folder that node agents have in imageSeedDirs, or one's own imageCacheDir",
    )
    .addHelpText(
      "after",
      `
For node images, disk snapshots and volumes: fill a folder where the disk is made, and name it in the node agents' imageSeedDirs.
They mount from there, also when it is read-only.

Example:
  pilotlight image seed sha256:3f2a --bucket s3://images?region=eu-west-1 --cache /srv/image-seed`,
    )
    .action(
      act<Options & { cache: string }>(async (context, options, image = "") => {
        const { seed } = await import("../images/seed.ts");
        await seed(context, stored(image, options), options.cache);
      }),
    );

const unmountCommand = (act: Act): Command =>
  new Command("unmount")
    .description("Takes a mount of 'image mount' away.")
    .argument("<directory>")
    .option("--cache <directory>", "the same as for the mount", CACHE_DIR)
    .addHelpText("after", "\nExample:\n  pilotlight image unmount /mnt/worker")
    .action(
      act<GlobalOptions & { cache: string }>(async (context, { cache }, directory = "") => {
        await (await operations()).unmount(context, directory, cache);
      }),
    );

const snapshotterCommand = (act: Act): Command =>
  withCredentials(
    new Command("snapshotter")
      .description(
        "Serves a containerd here: its containers start from converted images under their ordinary names.",
      )
      .option("--bucket <uri>", "another bucket than the platform's")
      .option("--socket <path>", "where containerd finds it", "/run/pilotlight/snapshotter.sock")
      .option(
        "--directory <directory>",
        "for snapshots and cache, on a local disk",
        "/var/lib/pilotlight/containerd",
      )
      .option("--method <method>", "auto, fanotify, fuse, or extract: unpack layers as ever", "auto")
      .option(
        "--converter <host:port>",
        "image converter that is asked for images that are not converted yet",
        "",
      )
      .option("--end", "serves nothing: ends the mounting processes of one that was stopped for good"),
  )
    .addHelpText(
      "after",
      `
Runs as root until Ctrl-C, in containerd's mount namespace. Images stay mounted when it ends, and it finds them again.
docs/containerd.md says what containerd, Kubernetes and Docker need to be told. The node agent has the same as a setting.

Examples:
  pilotlight image snapshotter --bucket s3://images?region=eu-west-1
  ctr images pull --snapshotter pilotlight registry.example/team/worker:1.2`,
    )
    .action(
      act<SnapshotterOptions>(async (context, options) => {
        const { endMounting, serveContainerd } = await import("../images/snapshotter.ts");
        if (options.end === true) return endMounting(context, options);
        await serveContainerd(context, { ...options, bucket: options.bucket, registry: options });
      }),
    );

export const imageCommand = (act: Act): Command => {
  const image = new Command("image").description(
    "Images: convert, list, inspect, verify, profile, mount, seed, gc; a snapshotter for containerd.",
  );
  for (const command of [
    convertCommand,
    listCommand,
    inspectCommand,
    verifyCommand,
    profileCommand,
    mountCommand,
    seedCommand,
    unmountCommand,
    garbageCommand,
    snapshotterCommand,
  ])
    image.addCommand(command(act));
  return image;
};
