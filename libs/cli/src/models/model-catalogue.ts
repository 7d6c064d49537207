// The catalogue of models on the command line. Who approved what is known to control; what lies in a bucket, to the bucket: with
// --bucket, or where control does not answer, it is read from there.
import type { ModelView } from "@pilotlight/control-api";
import { toPlatformError } from "@pilotlight/errors";
import { listModels } from "@pilotlight/models";
import { openStore } from "@pilotlight/object-store";
import type { Context } from "../context.ts";
import { bucketOf } from "../endpoints.ts";
import { formatBytes, formatInstant } from "../text/format.ts";
import { table } from "../text/table.ts";

/** Shows the models of a bucket. */
export async function list(context: Context, bucket: string | undefined): Promise<void> {
  const models = await known(context, bucket);
  context.show(models, () =>
    table(
      ["SOURCE", "SIZE", "WEIGHTS", "LICENCE", "REVISION", "APPROVED", "FROM"],
      models.map((model) => [
        model.source,
        formatBytes(model.bytes),
        weightsOf(model),
        model.licence,
        model.revision.slice(0, 20),
        approvalOf(model),
        model.from,
      ]),
    ),
  );
}

async function known(context: Context, bucket: string | undefined): Promise<ModelView[]> {
  if (bucket === undefined) {
    try {
      return await context.client.models();
    } catch (thrown) {
      const error = toPlatformError(thrown);
      if (error.code !== "unavailable" || context.endpoints.bucketUri === null) throw error;
      context.terminal.err(`approvals are not known: ${error.message}`);
    }
  }
  const store = openStore(bucketOf(context.endpoints, bucket));
  try {
    const entries = await Array.fromAsync(listModels(store, context.terminal.interrupted));
    return entries.map((entry) => ({ ...entry, approval: null }));
  } finally {
    await store.close();
  }
}

/** Shows one model, as it is now. */
export async function show(context: Context, model: string): Promise<void> {
  const found = await context.client.model(sourceOf(model));
  context.show(found, () => lines(found));
}

/** Approves a model in the caller's name. */
export async function approve(context: Context, model: string, note: string): Promise<void> {
  const found = await context.client.approveModel(sourceOf(model), note);
  context.show(found, () => [`${found.source} is approved`, ...lines(found)]);
}

/** Takes an approval back. */
export async function revoke(context: Context, model: string): Promise<void> {
  const answer = await context.client.revokeModel(sourceOf(model));
  context.show(answer, () => [
    `${answer.source} is no longer approved`,
    "What runs goes on; where only approved models may run, no replica loads it from now on.",
  ]);
}

/** A bare name is a model in the platform's bucket. */
const sourceOf = (model: string): string => (model.includes("://") ? model : `bucket://models/${model}`);

function lines(model: ModelView): string[] {
  const { terms, approval } = model;
  const rows: [string, string][] = [
    ["name", model.name],
    ["from", model.from],
    ["revision", model.revision],
    ["size", formatBytes(model.bytes)],
    ["weights", weightsOf(model)],
    ["licence", model.licence],
    [
      "terms",
      [...terms.files, ...(terms.link === null ? [] : [terms.link])].join(", ") || "none beside the licence",
    ],
    ["made by", [model.recipe, ...(model.tool === null ? [] : [model.tool])].join(", ")],
    ["added", formatInstant(model.addedAt, Date.now())],
    ["record", model.recordSha256],
    ["approved", approvalOf(model)],
    ...(approval === null || approval.note === "" ? [] : [["note", approval.note] as [string, string]]),
  ];
  return rows.map(([name, value]) => `  ${name.padEnd(9)} ${value}`);
}

const weightsOf = ({ quantisation, ranks }: ModelView): string =>
  [quantisation ?? "plain", ...(ranks === null ? [] : [`${ranks} ranks`])].join(", ");

function approvalOf({ approval }: ModelView): string {
  if (approval === null) return "no";
  const { by, at, authenticated, current } = approval;
  const who = authenticated ? by : `${by} (nobody was asked for a token)`;
  return `by ${who}, ${formatInstant(at, Date.now())}${current ? "" : "; CHANGED SINCE"}`;
}
