// `pilotlight waterfall`: where a cold start spent its time.
import type { Waterfall } from "@pilotlight/control-api";
import { toPlatformError } from "@pilotlight/errors";
import { Command } from "commander";
import type { Act } from "../cli.ts";
import { type Context, type GlobalOptions, wholeNumber } from "../context.ts";
import { drawWaterfall } from "../text/waterfall.ts";

type Options = GlobalOptions & { limit: string };

export const waterfallCommand = (act: Act): Command =>
  new Command("waterfall")
    .description("Draws the cold start of a replica, or the latest ones of an application.")
    .argument("<replica|application>")
    .option("--limit <number>", "of an application: the newest so many", "1")
    .addHelpText(
      "after",
      "\nExamples:\n  pilotlight waterfall chat\n  pilotlight waterfall chat --limit 5\n  pilotlight waterfall chat-chat-v1-1a2b3c4",
    )
    .action(
      act<Options>(async (context, options, name = "") => {
        const waterfalls = await find(context, name, wholeNumber(options.limit, "--limit", 1));
        context.show(waterfalls, () =>
          waterfalls.flatMap((one, index) => [
            ...(index === 0 ? [] : [""]),
            ...drawWaterfall(one, context.terminal.columns),
          ]),
        );
      }),
    );

/** A replica of that name, or the newest of the application of that name. */
async function find({ client }: Context, name: string, limit: number): Promise<Waterfall[]> {
  try {
    return [await client.waterfall(name)];
  } catch (thrown) {
    if (toPlatformError(thrown).code !== "notFound") throw thrown;
  }
  await client.application(name); // says so when there is no such application either
  const all = await client.waterfalls(name, 100);
  const ready = all.filter((one) => one.totalMs !== null);
  return (ready.length > 0 ? ready : all).slice(0, limit);
}
