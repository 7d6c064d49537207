// `pilotlight decisions`: why there are as many replicas as there are.
import { Command } from "commander";
import type { Act } from "../cli.ts";
import { type Context, type GlobalOptions, wholeNumber } from "../context.ts";
import { Unsuccessful } from "../exit-codes.ts";
import { formatInstant } from "../text/format.ts";
import { table } from "../text/table.ts";

type Options = GlobalOptions & { replay?: string; limit: string };

export const decisionsCommand = (act: Act): Command =>
  new Command("decisions")
    .description("Lists the autoscaler's decisions, newest first, or runs one again from its record.")
    .argument("[application]", "only those about this one")
    .option("--limit <number>", "at most so many", "20")
    .option("--replay <id>", "run this decision again and compare (exit code 5 if it differs)")
    .addHelpText(
      "after",
      "\nExamples:\n  pilotlight decisions chat\n  pilotlight decisions chat --json | jq '.[0].input'\n  pilotlight decisions --replay 0b9e…",
    )
    .action(
      act<Options>(async (context, options, application) => {
        if (options.replay !== undefined) return replay(context, options.replay);
        const decisions = await context.client.decisions({
          application,
          limit: wholeNumber(options.limit, "--limit", 1),
        });
        const now = Date.now();
        context.show(decisions, () =>
          table(
            ["AT", "DEPLOYMENT", "REPLICAS", "WHY", "ID"],
            decisions.map((one) => [
              formatInstant(one.at, now),
              `${one.application}/${one.deployment}`,
              one.replicasBefore === one.replicasWanted
                ? `${one.replicasWanted}`
                : `${one.replicasBefore} → ${one.replicasWanted}`,
              one.reason,
              one.decisionId,
            ]),
          ),
        );
      }),
    );

async function replay(context: Context, decisionId: string): Promise<void> {
  const result = await context.client.replay(decisionId);
  context.show(result, () => [
    result.identical ? "the same decision, byte for byte" : "another decision came out this time:",
    ...(result.identical
      ? []
      : [
          `  recorded: ${JSON.stringify(result.decision.output)}`,
          `  now:      ${JSON.stringify(result.replayedOutput)}`,
        ]),
  ]);
  if (!result.identical)
    throw new Unsuccessful(`decision ${decisionId} differs: the policy has changed since`);
}
