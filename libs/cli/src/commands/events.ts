// `pilotlight events tail`: what the services say to each other, as it happens.
import type { TailedEvent } from "@pilotlight/control-api";
import { Command } from "commander";
import type { Act } from "../cli.ts";
import type { GlobalOptions } from "../context.ts";
import type { Terminal } from "../terminal.ts";

type Options = GlobalOptions & { subject?: string };

export const eventsCommand = (act: Act): Command =>
  new Command("events").description("What the services say to each other.").addCommand(
    new Command("tail")
      .description("Shows events and documents as they happen, until Ctrl-C.")
      .option("--subject <filter>", "subjects of NATS, separated by commas, e.g. 'pl.smp.>' for samples")
      .addHelpText(
        "after",
        `
Examples:
  pilotlight events tail
  pilotlight events tail --subject 'pl.evt.v1.autoscaler.>,pl.evt.v1.rollout.>'
  pilotlight events tail --json | jq 'select(.type == "scaleDecided").data'`,
      )
      .action(
        act<Options>(async (context, options) => {
          const events = context.client.events(options.subject, context.terminal.interrupted);
          for await (const event of events)
            context.showLine(event, () => line(event, context.terminal.style));
        }),
      ),
  );

const line = (event: TailedEvent, style: Terminal["style"]): string =>
  `${style("gray", event.at.slice(11, 23))} ${style("cyan", event.type ?? event.subject)} ${JSON.stringify(event.data)}`;
