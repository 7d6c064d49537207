// `pilotlight status`: everything at a glance, or one application.
import type { ApplicationDetail, ApplicationSummary, NodeView, Status } from "@pilotlight/control-api";
import { Command } from "commander";
import type { Act } from "../cli.ts";
import type { Context, GlobalOptions } from "../context.ts";
import { formatBytes, formatDuration, formatInstant, formatPercent, formatProgress } from "../text/format.ts";
import { table } from "../text/table.ts";
import { describeCache } from "../text/waterfall.ts";

export const statusCommand = (act: Act): Command =>
  new Command("status")
    .description("Shows everything at a glance, or one application in detail.")
    .argument("[application]", "only this one, with its versions and replicas")
    .addHelpText(
      "after",
      `
Examples:
  pilotlight status
  pilotlight status chat
  pilotlight status --json | jq '.applications[].deployments[].ready'`,
    )
    .action(
      act<GlobalOptions>(async (context, _options, name) => {
        if (name === undefined) {
          const status = await context.client.status();
          context.show(status, () => overview(status, context));
        } else {
          const application = await context.client.application(name);
          context.show(application, () => detail(application, context));
        }
      }),
    );

function overview(status: Status, context: Context): string[] {
  const sections = [
    applications(status.applications, context),
    nodes(status.nodes, status.at),
    images(status),
    weights(status),
    peers(status, context),
  ];
  return sections
    .filter((lines) => lines.length > 0)
    .flatMap((lines, index) => (index === 0 ? lines : ["", ...lines]));
}

function applications(all: readonly ApplicationSummary[], { terminal }: Context): string[] {
  if (all.length === 0) return ["No applications. Deploy one: pilotlight deploy examples/chat/app.yaml"];
  const rows = all.flatMap((application) =>
    application.deployments.map((one) => {
      const weight = application.traffic.find(({ version }) => version === one.version)?.weight ?? 0;
      const healthy = one.ready > 0 || one.wanted === 0;
      return [
        application.name,
        one.name,
        `v${one.version}`,
        formatPercent(weight),
        terminal.style(healthy ? "green" : "yellow", `${one.ready}/${one.wanted ?? "?"}`),
        [
          one.starting > 0 ? `${one.starting} starting` : "",
          one.draining > 0 ? `${one.draining} draining` : "",
        ]
          .filter((text) => text !== "")
          .join(", "),
        one.model?.name ?? one.image,
        rolloutOf(application, one.version),
      ];
    }),
  );
  return table(["APPLICATION", "DEPLOYMENT", "VERSION", "TRAFFIC", "READY", "", "MODEL", "ROLLOUT"], rows);
}

function rolloutOf({ rollout, servingVersion }: ApplicationSummary, version: number): string {
  if (rollout !== null && rollout.toVersion === version && rollout.endedAt === null) return rollout.phase;
  if (rollout !== null && rollout.toVersion === version && rollout.phase !== "done")
    return `${rollout.phase}: ${rollout.reason}`;
  return servingVersion === version ? "serving" : "";
}

function nodes(all: readonly NodeView[], now: number): string[] {
  if (all.length === 0) return ["No node was heard of yet."];
  const rows = all.map((node) => [
    node.nodeId,
    node.cordoned ? `${node.state}, cordoned` : node.state,
    `${node.acceleratorsUsed} of ${node.accelerators} ${node.acceleratorKind}`,
    `${formatBytes(node.memoryUsedMib * 1024 ** 2)} of ${formatBytes(node.memoryMib * 1024 ** 2)}`,
    String(node.replicas),
    `${formatDuration(Math.max(0, now - node.seenAt))} ago`,
  ]);
  return table(["NODE", "STATE", "ACCELERATORS", "MEMORY", "REPLICAS", "SEEN"], rows);
}

function images(status: Status): string[] {
  const rows = status.images.map((image) => [
    image.image,
    image.progress === null ? image.state : formatProgress(image.progress),
    image.unpackedBytes === 0 ? "" : formatBytes(image.unpackedBytes),
    image.storedBytes === 0 ? "" : formatBytes(image.storedBytes),
    image.durationMs === 0 ? "" : formatDuration(image.durationMs),
    image.failure?.message ?? "",
  ]);
  return rows.length === 0 ? [] : table(["IMAGE", "STATE", "FILES", "STORED", "TOOK", ""], rows);
}

function weights(status: Status): string[] {
  const rows = status.weights.map((one) => [
    one.source.replace(/\?.*$/, ""),
    one.nodeId,
    one.progress === null ? one.state : formatProgress(one.progress),
    formatBytes(one.bytes),
    one.durationMs === 0 ? "" : formatDuration(one.durationMs),
    one.failure?.message ?? "",
  ]);
  return rows.length === 0 ? [] : table(["WEIGHTS", "NODE", "STATE", "SIZE", "TOOK", ""], rows);
}

function peers(status: Status, { terminal }: Context): string[] {
  return status.peers
    .filter((peer) => peer.state === "unknown")
    .map(
      (peer) => `${terminal.style("yellow", `${peer.name} does not answer`)} at ${peer.address}: ${peer.why}`,
    );
}

function detail(application: ApplicationDetail, context: Context): string[] {
  const now = Date.now();
  const living = application.replicas.filter((one) => one.phase !== "gone");
  const gone = application.replicas.filter((one) => one.phase === "gone").slice(0, 10);
  const replicaRow = (one: ApplicationDetail["replicas"][number]) => {
    const start = one.marks[0]?.at;
    const ready = one.marks.find((mark) => mark.phase === "ready")?.at;
    return [
      one.replicaId,
      one.phase === "gone" ? `gone: ${one.goneReason ?? "unknown"}` : one.phase,
      one.nodeId,
      start === undefined || ready === undefined ? "" : formatDuration(ready - start),
      formatInstant(one.updatedAt, now),
      one.failure?.message ??
        (one.compileCache === null ? "" : `compile cache: ${describeCache(one.compileCache)}`),
    ];
  };
  return [
    ...applications([application], context),
    "",
    ...table(
      ["VERSION", "STATE", "CREATED", "DIGEST"],
      application.versions.map((one) => [
        `v${one.version}`,
        one.state,
        formatInstant(one.createdAt, now),
        one.digest.slice(0, 19),
      ]),
    ),
    "",
    ...table(["REPLICA", "PHASE", "NODE", "COLD START", "SINCE", ""], [...living, ...gone].map(replicaRow)),
    ...(application.rollout === null
      ? []
      : [
          "",
          `Rollout to version ${application.rollout.toVersion}:`,
          ...table(
            ["AT", "PHASE", "TRAFFIC", ""],
            application.rollout.steps.map((step) => [
              formatInstant(step.at, now),
              step.phase,
              formatPercent(step.traffic),
              step.reason,
            ]),
            "  ",
          ),
        ]),
  ];
}
