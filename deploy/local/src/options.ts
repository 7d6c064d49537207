// Command line options of the set-up's commands: what is unknown is named above the help, and ends with exit code 2.
import { type ParseArgsConfig, parseArgs } from "node:util";

/** The values of the options. Prints `help` and ends the process where it is asked for. */
export function readOptions<const T extends NonNullable<ParseArgsConfig["options"]>>(
  help: string,
  options: T,
) {
  if (process.argv.some((argument) => argument === "--help" || argument === "-h")) {
    process.stdout.write(`${help}\n`);
    process.exit(0);
  }
  try {
    return parseArgs({ options, allowNegative: true }).values;
  } catch (thrown) {
    process.stderr.write(`${(thrown as Error).message}\n\n${help}\n`);
    process.exit(2);
  }
}
