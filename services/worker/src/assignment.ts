// What this process is for: the assignment that the node agent wrote for it.
import { readFileSync } from "node:fs";
import { fromJson, type JsonValue } from "@bufbuild/protobuf";
import { type DeploymentSpec, ReplicaAssignmentSchema } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";

export type Assignment = {
  replicaId: string;
  application: string;
  version: number;
  deployment: DeploymentSpec;
};

/** Reads the assignment. Throws `invalidArgument` naming what is wrong with the file. */
export function readAssignment(path: string): Assignment {
  const wrong = (why: string, cause?: unknown) =>
    new PlatformError("invalidArgument", `assignment ${path}: ${why}`, {
      field: "assignmentFile",
      remedy: "The node agent writes this file for each replica.",
      cause,
    });
  let json: JsonValue;
  try {
    json = JSON.parse(readFileSync(path, "utf8")) as JsonValue;
  } catch (cause) {
    throw wrong((cause as Error).message, cause);
  }
  try {
    const message = fromJson(ReplicaAssignmentSchema, json, { ignoreUnknownFields: true });
    if (message.replicaId === "" || message.deployment === undefined)
      throw new Error("replica or deployment is missing");
    const { replicaId, application, version, deployment } = message;
    return { replicaId, application, version, deployment };
  } catch (cause) {
    throw wrong((cause as Error).message, cause);
  }
}

/** The name that clients use for the model; the gateway resolves aliases. */
export const modelNameOf = ({ application, deployment }: Assignment): string =>
  deployment.model?.name || `${application}/${deployment.name}`;
