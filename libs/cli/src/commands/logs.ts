// `pilotlight logs`: lines of every node, application, version, replica and request, of now and of then.
import { PlatformError } from "@pilotlight/errors";
import { Command, Option } from "commander";
import type { Act } from "../cli.ts";
import { type GlobalOptions, wholeNumber } from "../context.ts";
import { parseSpan } from "../text/format.ts";
import { formatLogLine } from "../text/log-line.ts";

type Options = GlobalOptions & {
  requestId?: string;
  replica?: string;
  deployment?: string;
  appVersion?: string;
  service?: string;
  level?: string;
  text?: string;
  since?: string;
  until?: string;
  limit: string;
  follow?: boolean;
};

export const logsCommand = (act: Act): Command =>
  new Command("logs")
    .description(
      "Shows log lines, oldest first: of an application, of one request everywhere it went, of everything.",
    )
    .argument("[application]", "only lines of this application")
    .option("--request-id <id>", "lines of one request, from every service that it went through")
    .option("--replica <id>", "lines of one replica, also of one that is gone")
    .option("--deployment <name>")
    .option("--app-version <number>", "lines of one version")
    .option("--service <name>", "lines of one service: gateway, worker, …")
    .addOption(
      new Option("--level <level>", "this level and louder").choices(["debug", "info", "warn", "error"]),
    )
    .option("--text <text>", "lines that contain this, whatever the case")
    .option("--since <when>", "a span such as 10m, 2h, 3d, or an instant such as 2026-01-31T12:00:00Z")
    .option("--until <when>", "likewise")
    .option("--limit <lines>", "the newest so many", "1000")
    .option("-f, --follow", "go on with new lines as they come")
    .addHelpText(
      "after",
      `
Examples:
  pilotlight logs chat --follow
  pilotlight logs chat --request-id req-6f1c…
  pilotlight logs --level warn --since 1h --json`,
    )
    .action(
      act<Options>(async (context, options, application) => {
        const { terminal } = context;
        const lines = context.client.logs(
          {
            // A request has one ID everywhere; not every service that it passes knows its application.
            application: options.requestId === undefined ? application : undefined,
            requestId: options.requestId,
            replicaId: options.replica,
            deployment: options.deployment,
            version:
              options.appVersion === undefined
                ? undefined
                : wholeNumber(options.appVersion, "--app-version", 1),
            service: options.service,
            level: options.level,
            text: options.text,
            sinceAt: instantOf(options.since, "--since"),
            untilAt: instantOf(options.until, "--until"),
            limit: wholeNumber(options.limit, "--limit", 1),
            follow: options.follow,
          },
          terminal.interrupted,
        );
        for await (const line of lines) context.showLine(line, () => formatLogLine(line, terminal.style));
      }),
    );

/** An instant (epoch ms) from a span back from now or a date. Throws `invalidArgument`. */
export function instantOf(text: string | undefined, option: string): number | undefined {
  if (text === undefined) return undefined;
  const span = parseSpan(text);
  if (span !== undefined) return Date.now() - span;
  const instant = Date.parse(text);
  if (Number.isFinite(instant)) return instant;
  throw new PlatformError("invalidArgument", `${option} must be a span or an instant, not '${text}'`, {
    remedy: "Write e.g. 10m, 2h, 3d or 2026-01-31T12:00:00Z.",
  });
}
