// `pilotlight config SERVICE`: every setting, as its schema says (generated from the services' config.ts).
import { readFileSync } from "node:fs";
import { PlatformError } from "@pilotlight/errors";
import { Command } from "commander";
import * as z from "zod";
import type { Act } from "../cli.ts";
import type { GlobalOptions } from "../context.ts";
import { table } from "../text/table.ts";

const reference = z.record(
  z.string(),
  z.array(
    z.object({ name: z.string(), environment: z.string(), default: z.string(), description: z.string() }),
  ),
);

export const configCommand = (act: Act): Command =>
  new Command("config")
    .description("Lists the settings of a service, or the services.")
    .argument("[service]")
    .addHelpText("after", "\nExamples:\n  pilotlight config\n  pilotlight config gateway")
    .action(
      act<GlobalOptions>(async (context, _options, service) => {
        const all = reference.parse(
          JSON.parse(readFileSync(new URL("../gen/config.json", import.meta.url), "utf8")),
        );
        const names = Object.keys(all);
        if (service === undefined) return context.show(names, () => names);
        const settings = all[service];
        if (settings === undefined) {
          throw new PlatformError("notFound", `there is no service '${service}'`, {
            remedy: `Services: ${names.join(", ")}.`,
          });
        }
        context.show(settings, () =>
          table(
            ["ENVIRONMENT", "DEFAULT", ""],
            settings.map((one) => [one.environment, one.default, one.description]),
          ),
        );
      }),
    );
