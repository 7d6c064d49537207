// `pilotlight image`: converting, looking into, checking and mounting images. Apart from `convert` and `list` nothing of the
// platform has to run: only the bucket is read.
import { homedir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import type { Act } from "../cli.ts";
import type { GlobalOptions } from "../context.ts";
import { formatBytes } from "../text/format.ts";
import { table } from "../text/table.ts";

type Options = GlobalOptions & { bucket?: string };
type MountOptions = Options & { cache: string; method: "auto" | "fanotify" | "fuse" | "extract" };

const operations = () => import("../images/image-operations.ts");
const CACHE_DIR = join(homedir(), ".cache/pilotlight/imagefs");

const stored = (name: string) =>
  new Command(name)
    .argument("<digest>", "manifest digest (sha256:…) or its beginning; 'image list' shows it")
    .option("--bucket <uri>", "another bucket than the platform's");

export const imageCommand = (act: Act): Command =>
  new Command("image")
    .description("Images: convert, list, inspect, verify, mount.")
    .addCommand(
      new Command("convert")
        .description("Has an image converted, ahead of any deployment, and waits for it.")
        .argument("<image>", "registry/repository:tag, …@sha256:… or oci:///directory:tag")
        .option("--platform <platform>", "e.g. linux/amd64")
        .addHelpText("after", "\nExample:\n  pilotlight image convert registry.example/team/worker:1.2")
        .action(
          act<GlobalOptions & { platform?: string }>(async (context, options, image = "") => {
            await (await operations()).convert(context, image, options.platform);
          }),
        ),
    )
    .addCommand(
      new Command("list")
        .description("Lists the images that were asked for.")
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
        ),
    )
    .addCommand(
      stored("inspect")
        .description("Shows what a converted image consists of.")
        .addHelpText("after", "\nExample:\n  pilotlight image inspect sha256:3f2a")
        .action(
          act<Options>(async (context, { bucket }, digest = "") => {
            await (await operations()).inspect(context, { digest, bucket });
          }),
        ),
    )
    .addCommand(
      stored("verify")
        .description("Reads every chunk of a converted image and checks it against its checksum.")
        .addHelpText("after", "\nExample:\n  pilotlight image verify sha256:3f2a")
        .action(
          act<Options>(async (context, { bucket }, digest = "") => {
            await (await operations()).verify(context, { digest, bucket });
          }),
        ),
    )
    .addCommand(
      stored("mount")
        .description("Mounts a converted image here; what is not read is not fetched.")
        .argument("<directory>")
        .option("--method <method>", "auto, fanotify, fuse or extract", "auto")
        .option("--cache <directory>", "where what was read is kept", CACHE_DIR)
        .addHelpText(
          "after",
          "\nExamples:\n  pilotlight image mount sha256:3f2a /mnt/worker\n  pilotlight image unmount /mnt/worker",
        )
        .action(
          act<MountOptions>(async (context, { bucket, cache, method }, digest = "", directory = "") => {
            await (await operations()).mount(context, { digest, bucket }, { directory, cache, method });
          }),
        ),
    )
    .addCommand(
      new Command("unmount")
        .description("Takes a mount of 'image mount' away.")
        .argument("<directory>")
        .option("--cache <directory>", "the same as for the mount", CACHE_DIR)
        .addHelpText("after", "\nExample:\n  pilotlight image unmount /mnt/worker")
        .action(
          act<GlobalOptions & { cache: string }>(async (context, { cache }, directory = "") => {
            await (await operations()).unmount(context, directory, cache);
          }),
        ),
    );
