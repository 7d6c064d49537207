// The program: global options, commands, and how failures become messages and exit codes.
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { Command, CommanderError } from "commander";
import { applicationCommands } from "./commands/applications.ts";
import { chatCommand } from "./commands/chat.ts";
import { configCommand } from "./commands/config.ts";
import { decisionsCommand } from "./commands/decisions.ts";
import { deployCommand } from "./commands/deploy.ts";
import { eventsCommand } from "./commands/events.ts";
import { imageCommand } from "./commands/images.ts";
import { logsCommand } from "./commands/logs.ts";
import { modelCommand } from "./commands/models.ts";
import { statusCommand } from "./commands/status.ts";
import { versionCommand } from "./commands/version.ts";
import { waterfallCommand } from "./commands/waterfall.ts";
import { weightsCommand } from "./commands/weights.ts";
import { type Context, type GlobalOptions, makeContext } from "./context.ts";
import { EXIT, EXIT_HELP, exitCodeOf, Unsuccessful } from "./exit-codes.ts";
import type { Terminal } from "./terminal.ts";
import { version } from "./version.ts";

/** A command's action with its context. `options` are those of the command, global ones included. */
export type Act = <Options extends GlobalOptions>(
  action: (context: Context, options: Options, ...args: string[]) => Promise<void>,
) => (...args: unknown[]) => Promise<void>;

/** Runs the command line to its end. Gives the exit code; never throws. */
export async function runCli(args: readonly string[], terminal: Terminal): Promise<number> {
  const json = args.includes("--json");
  try {
    await createProgram(terminal).parseAsync([...args], { from: "user" });
    return EXIT.ok;
  } catch (thrown) {
    return report(thrown, terminal, json);
  }
}

function createProgram(terminal: Terminal): Command {
  const program = new Command("pilotlight")
    .description("Serves models, and shows what it does.")
    .version(version(), "-V, --version", "print the version")
    .option("--url <url>", "where control is (PILOTLIGHT_URL; default: the platform of this checkout)")
    .option("--json", "results as JSON, for machines")
    .showHelpAfterError("(--help shows what there is)")
    .addHelpText(
      "after",
      `
Examples:
  pilotlight deploy examples/chat/app.yaml --wait
  pilotlight status
  pilotlight logs chat --follow
${EXIT_HELP}
PILOTLIGHT_TOKEN holds the token where control asks for one.`,
    );
  const act: Act = (action) => {
    return async (...args) => {
      // commander hands over: arguments, options, command
      const command = args.at(-1) as Command;
      const options = command.optsWithGlobals() as Parameters<typeof action>[1];
      const given = args.slice(0, -2).flat() as string[];
      await action(makeContext(terminal, options), options, ...given);
    };
  };
  for (const command of [
    deployCommand(act),
    statusCommand(act),
    ...applicationCommands(act),
    logsCommand(act),
    eventsCommand(act),
    chatCommand(act),
    waterfallCommand(act),
    decisionsCommand(act),
    modelCommand(act),
    imageCommand(act),
    weightsCommand(act),
    configCommand(act),
    versionCommand(act),
  ])
    program.addCommand(command);
  configureAll(program, terminal);
  return program;
}

/** Subcommands made elsewhere do not inherit these. */
function configureAll(command: Command, terminal: Terminal): void {
  command.exitOverride();
  command.configureOutput({
    writeOut: (text) => terminal.write(text),
    writeErr: (text) => terminal.err(text.trimEnd()),
    getOutHelpWidth: () => Math.min(110, terminal.columns),
  });
  for (const inner of command.commands) configureAll(inner, terminal);
}

function report(thrown: unknown, terminal: Terminal, json: boolean): number {
  if (thrown instanceof CommanderError) return thrown.exitCode === 0 ? EXIT.ok : EXIT.usage;
  if (terminal.interrupted.aborted) return EXIT.interrupted;
  if (thrown instanceof Unsuccessful) {
    terminal.err(
      json ? JSON.stringify({ error: { code: "unsuccessful", message: thrown.message } }) : thrown.message,
    );
    return EXIT.unsuccessful;
  }
  const error = toPlatformError(thrown);
  if (json) terminal.err(JSON.stringify({ error }));
  else terminal.err(`${terminal.style("red", "error:")} ${error}`);
  if (!(thrown instanceof PlatformError) && error.code === "internal" && terminal.env.PILOTLIGHT_DEBUG)
    terminal.err(String(error.stack));
  return exitCodeOf(error);
}
