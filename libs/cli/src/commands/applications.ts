// `pilotlight rollback` and `pilotlight delete`.
import { Command } from "commander";
import type { Act } from "../cli.ts";
import { type GlobalOptions, wholeNumber } from "../context.ts";

type RollbackOptions = GlobalOptions & { to?: string };

export const applicationCommands = (act: Act): Command[] => [
  new Command("rollback")
    .description("Brings an earlier version back, in steps, without waiting for gates.")
    .argument("<application>")
    .option("--to <version>", "this version; without it the one that served before")
    .addHelpText("after", "\nExamples:\n  pilotlight rollback chat\n  pilotlight rollback chat --to 3")
    .action(
      act<RollbackOptions>(async (context, options, application = "") => {
        const version = options.to === undefined ? undefined : wholeNumber(options.to, "--to", 1);
        const result = await context.client.rollback(application, version);
        context.show(result, () => [`${application} goes back to version ${result.version}`]);
      }),
    ),
  new Command("delete")
    .description("Deletes an application and everything that it runs.")
    .argument("<application>")
    .addHelpText("after", "\nExample:\n  pilotlight delete chat")
    .action(
      act<GlobalOptions>(async (context, _options, application = "") => {
        const result = await context.client.deleteApplication(application);
        context.show(result, () => [`${application} is going; its requests end first`]);
      }),
    ),
];
