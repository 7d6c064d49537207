// `pilotlight weights`: which weights are on which node; and looking into, checking, loading and cutting repositories, for which
// nothing of the platform has to run.
import { Command } from "commander";
import type { Act } from "../cli.ts";
import { type GlobalOptions, wholeNumber } from "../context.ts";
import { formatBytes, formatDuration, formatProgress } from "../text/format.ts";
import { table } from "../text/table.ts";

const SHARD_MB_DEFAULT = "5000";

const operations = () => import("../weights/weight-operations.ts");

const repository = (name: string) =>
  new Command(name).argument(
    "<uri>",
    "file://, s3://, gs://, az://, https://, hf://, bucket://models/NAME or a folder",
  );

export const weightsCommand = (act: Act): Command =>
  new Command("weights")
    .description("Weights: list what is on the nodes; inspect, verify, load, convert-shards a repository.")
    .addCommand(
      new Command("list")
        .description("Lists weights that nodes have loaded, or load now.")
        .addHelpText("after", "\nExample:\n  pilotlight weights list")
        .action(
          act<GlobalOptions>(async (context) => {
            const all = await context.client.weights();
            context.show(all, () =>
              table(
                ["NODE", "STATE", "SIZE", "FETCHED", "TOOK", "SOURCE"],
                all.map((one) => [
                  one.nodeId,
                  one.progress === null ? one.state : formatProgress(one.progress),
                  formatBytes(one.bytes),
                  formatBytes(one.bytesFetched),
                  one.durationMs === 0 ? "" : formatDuration(one.durationMs),
                  one.failure === null ? one.source : `${one.source}: ${one.failure.message}`,
                ]),
              ),
            );
          }),
        ),
    )
    .addCommand(
      repository("inspect")
        .description("Shows a repository's files, tensors and dtypes; reads headers only.")
        .addHelpText("after", "\nExample:\n  pilotlight weights inspect bucket://models/smollm2")
        .action(
          act<GlobalOptions>(async (context, _options, uri = "") => {
            await (await operations()).inspect(context, uri);
          }),
        ),
    )
    .addCommand(
      repository("verify")
        .description("Reads every byte of the weights and compares it with what was recorded.")
        .addHelpText("after", "\nExample:\n  pilotlight weights verify s3://models/llama")
        .action(
          act<GlobalOptions>(async (context, _options, uri = "") => {
            await (await operations()).verify(context, uri);
          }),
        ),
    )
    .addCommand(
      repository("load")
        .description("Loads as a replica's start would, into shared memory, and gives it back.")
        .addHelpText("after", "\nExample:\n  pilotlight weights load s3://models/llama --json")
        .action(
          act<GlobalOptions>(async (context, _options, uri = "") => {
            await (await operations()).load(context, uri);
          }),
        ),
    )
    .addCommand(
      repository("convert-shards")
        .description("Writes a repository again, cut into shards of another size.")
        .requiredOption("--to <uri>", "where the new repository goes")
        .option("--shard-mb <size>", "size of a shard at most, MB", SHARD_MB_DEFAULT)
        .addHelpText(
          "after",
          "\nExample:\n  pilotlight weights convert-shards ./llama --to ./llama-small --shard-mb 500",
        )
        .action(
          act<GlobalOptions & { to: string; shardMb: string }>(async (context, options, uri = "") => {
            const shardMb = wholeNumber(options.shardMb, "--shard-mb", 1);
            await (await operations()).convertShards(context, uri, { to: options.to, shardMb });
          }),
        ),
    );
