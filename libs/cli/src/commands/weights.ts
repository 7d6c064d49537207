// `pilotlight weights list`: which weights are on which node.
import { Command } from "commander";
import type { Act } from "../cli.ts";
import type { GlobalOptions } from "../context.ts";
import { formatBytes, formatDuration, formatProgress } from "../text/format.ts";
import { table } from "../text/table.ts";

export const weightsCommand = (act: Act): Command =>
  new Command("weights").description("Weights on the nodes.").addCommand(
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
  );
