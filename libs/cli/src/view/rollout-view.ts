// A deployment on its way, as lines: images, the rollout, and each replica of the new version.
import type { ApplicationDetail, ImageView, ReplicaView, WeightsView } from "@pilotlight/control-api";
import { formatDuration, formatPercent, formatProgress } from "../text/format.ts";
import type { ViewLine } from "./live-view.ts";

export type RolloutSight = {
  application: ApplicationDetail;
  version: number;
  images: readonly ImageView[];
  weights: readonly WeightsView[];
  now: number;
};

/** How it stands, in lines. */
export function rolloutLines(sight: RolloutSight): ViewLine[] {
  const { application, version, now } = sight;
  const replicas = application.replicas.filter((one) => one.version === version && one.phase !== "gone");
  return [
    rolloutLine(application, version),
    ...sight.images.filter((image) => image.state === "wanted").map(imageLine),
    ...replicas.map((replica) => replicaLine(replica, loadOf(replica, sight), now)),
  ];
}

function rolloutLine(application: ApplicationDetail, version: number): ViewLine {
  const { rollout } = application;
  const text =
    rollout === null || rollout.toVersion !== version
      ? `version ${version} waits for its rollout to begin`
      : `${rollout.phase}: ${rollout.reason} (${formatPercent(rollout.traffic)} of the traffic)`;
  return { key: "rollout", text, fact: text };
}

function imageLine(image: ImageView): ViewLine {
  const what = `image ${image.image}`;
  if (image.progress === null)
    return { key: what, text: `${what}: to be converted`, fact: `${what}: to be converted` };
  const { bytesDone, bytesTotal } = image.progress;
  // Plain lines say it in tenths.
  const tenths = bytesTotal === 0 ? 0 : Math.floor((bytesDone / bytesTotal) * 10) * 10;
  return {
    key: what,
    text: `${what}: converting  ${formatProgress(image.progress)}`,
    fact: `${what}: converting, ${tenths} %`,
  };
}

function loadOf(replica: ReplicaView, { application, weights }: RolloutSight): WeightsView | undefined {
  if (replica.phase !== "processUp" && replica.phase !== "firstByte") return undefined;
  const source = application.deployments.find(
    (one) => one.name === replica.deployment && one.version === replica.version,
  )?.model?.source;
  // The platform's own bucket has another name on the nodes: the path is the same.
  const path = source?.replace(/^bucket:\/\//, "/");
  return weights.find(
    (one) =>
      one.nodeId === replica.nodeId &&
      path !== undefined &&
      one.source.split("?")[0]?.endsWith(path) === true,
  );
}

function replicaLine(replica: ReplicaView, load: WeightsView | undefined, now: number): ViewLine {
  const since = now - (replica.marks[0]?.at ?? now);
  const waiting = replica.phase === "ready" ? "" : `  ${formatDuration(since)}`;
  const bytes = load?.progress ? `  weights ${formatProgress(load.progress)}` : "";
  const what = `replica ${replica.replicaId}: ${replica.phase}`;
  return { key: replica.replicaId, text: `${what}${waiting}${bytes}`, fact: what };
}

export type RolloutEnd = { kind: "running" } | { kind: "serving" } | { kind: "undone"; why: string };

/** Whether the version has arrived, or never will. */
export function rolloutEnd(application: ApplicationDetail, version: number): RolloutEnd {
  const { rollout } = application;
  const own = rollout?.toVersion === version ? rollout : null;
  if (own !== null && own.endedAt !== null && own.phase !== "done") {
    const failure = application.replicas.find(
      (one) => one.version === version && one.failure !== null,
    )?.failure;
    const remedy = failure?.remedy ? `\n  ${failure.remedy}` : "";
    return { kind: "undone", why: `${own.reason}${remedy}` };
  }
  if (application.servingVersion === version && (own === null || own.endedAt !== null))
    return { kind: "serving" };
  if (own === null && application.wantedVersion !== version) {
    return { kind: "undone", why: `version ${application.wantedVersion} was asked for meanwhile` };
  }
  return { kind: "running" };
}
