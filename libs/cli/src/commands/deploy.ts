// `pilotlight deploy`: hands over an application file and, with --wait, shows how it comes to serve.
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { ChangeView, DeployResult, FileProblems, ProblemView } from "@pilotlight/control-api";
import { PlatformError } from "@pilotlight/errors";
import { Command } from "commander";
import type { Act } from "../cli.ts";
import type { Context, GlobalOptions } from "../context.ts";
import { Unsuccessful } from "../exit-codes.ts";
import { parseSpan } from "../text/format.ts";
import { drawWaterfall } from "../text/waterfall.ts";
import { createLiveView } from "../view/live-view.ts";
import { rolloutEnd, rolloutLines } from "../view/rollout-view.ts";

type Options = GlobalOptions & { dryRun?: boolean; wait?: boolean; timeout: string };

/** How often the view is brought up to date. */
const LOOK_INTERVAL_MS = 200;

export const deployCommand = (act: Act): Command =>
  new Command("deploy")
    .description("Deploys an application file. The same file again changes nothing.")
    .argument("<file>", "the application file (YAML)")
    .option("--dry-run", "only say what would change")
    .option("--wait", "show the rollout and return when the version serves, or was undone (exit code 5)")
    .option("--timeout <span>", "with --wait: give up waiting after this long", "15m")
    .addHelpText(
      "after",
      `
Examples:
  pilotlight deploy app.yaml --dry-run
  pilotlight deploy app.yaml --wait
  pilotlight deploy app.yaml --json | jq .version`,
    )
    .action(
      act<Options>(async (context, options, file = "") => {
        const timeoutMs = parseSpan(options.timeout);
        if (timeoutMs === undefined) {
          throw new PlatformError(
            "invalidArgument",
            `--timeout must be a span such as 10m, not '${options.timeout}'`,
          );
        }
        const result = await handOver(context, file, options.dryRun ?? false);
        const waits = options.wait === true && !result.dryRun;
        if (!waits) return context.show(result, () => describe(result));
        for (const line of describe(result)) context.terminal.err(line);
        await waitUntilServing(context, result, timeoutMs);
      }),
    );

async function handOver(context: Context, file: string, dryRun: boolean): Promise<DeployResult> {
  const text = await readFile(file, "utf8").catch((error: Error) => {
    throw new PlatformError("notFound", `${file} cannot be read: ${error.message}`, {
      remedy: "Name an application file; examples/chat/app.yaml is one.",
    });
  });
  try {
    return await context.client.deploy(text, { dryRun });
  } catch (error) {
    const problems = (error as Partial<FileProblems>).problems;
    if (problems === undefined || context.json) throw error;
    throw new PlatformError("invalidArgument", listProblems(problems, basename(file)));
  }
}

/** One line a problem, in the form that editors and terminals make clickable. */
function listProblems(problems: readonly ProblemView[], file: string): string {
  const lines = problems.map(({ line, column, path, message, remedy }) => {
    const where = path === "" ? "" : `${path}: `;
    return `${file}:${line}:${column}: ${where}${message}${remedy === "" ? "" : `\n  ${remedy}`}`;
  });
  return `the application file has ${problems.length === 1 ? "a problem" : `${problems.length} problems`}\n${lines.join("\n")}`;
}

function describe(result: DeployResult): string[] {
  const { application, version, replaces, outcome, dryRun, changes } = result;
  if (outcome === "unchanged") return [`${application} version ${version}: nothing has changed`];
  const verb = dryRun ? "would become" : "is";
  const after = replaces === null ? "" : `, after version ${replaces}`;
  return [
    `${application} ${verb} version ${version}${after}`,
    ...changes.map((one) => `  ${describeChange(one)}`),
  ];
}

function describeChange(change: ChangeView): string {
  switch (change.kind) {
    case "deploymentAdded":
      return `+ ${change.deployment}`;
    case "deploymentRemoved":
      return `- ${change.deployment}`;
    case "changed":
      return `~ ${change.deployment}.${change.path}: ${change.before ?? "(none)"} → ${change.after ?? "(none)"}`;
    default:
      return change satisfies never;
  }
}

async function waitUntilServing(context: Context, result: DeployResult, timeoutMs: number): Promise<void> {
  const { client, terminal } = context;
  const { application: name, version } = result;
  const view = createLiveView(terminal);
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const [application, images, weights] = await Promise.all([
      client.application(name),
      client.images(),
      client.weights(),
    ]);
    const now = Date.now();
    view.show(rolloutLines({ application, version, images, weights, now }));
    const end = rolloutEnd(application, version);
    if (end.kind === "undone") {
      view.end();
      throw new Unsuccessful(`${name} version ${version} does not serve: ${end.why}`);
    }
    if (end.kind === "serving") break;
    if (now > deadline) {
      throw new PlatformError("deadlineExceeded", `${name} version ${version} does not serve yet`, {
        remedy: "It goes on without being watched: 'pilotlight status' shows it.",
      });
    }
    await sleep(LOOK_INTERVAL_MS, undefined, { signal: terminal.interrupted });
  }
  view.end();
  const waterfall = (await client.waterfalls(name)).find(
    (one) => one.version === version && one.totalMs !== null,
  );
  context.show({ ...result, waterfall: waterfall ?? null }, () => [
    `${name} version ${version} serves`,
    ...(waterfall === undefined ? [] : drawWaterfall(waterfall, terminal.columns)),
  ]);
}
