// Which engine an assignment asks for.
import { PlatformError } from "@pilotlight/errors";
import { type Assignment, modelNameOf } from "./assignment.ts";
import type { ReplicaEngine } from "./engine.ts";

export type EngineSettings = {
  weightStreamerAddress: string;
  tensorsInFlightMax: number;
  reattachDelayMsMax: number;
  /** Of this process, without what is only for it. */
  childEnvironment: Readonly<NodeJS.ProcessEnv>;
};

/**
 * Makes the engine; it starts later. Only the code of the one that is wanted is loaded: a cold start waits for it. Throws
 * `invalidArgument` for an assignment that names none.
 */
export async function createReplicaEngine(
  assignment: Assignment,
  settings: EngineSettings,
): Promise<ReplicaEngine> {
  const { deployment, replicaId } = assignment;
  const modelName = modelNameOf(assignment);
  const kind = deployment.engine?.kind;
  const source = deployment.model?.source ?? "";
  switch (kind?.case) {
    case "embedded": {
      if (source === "") {
        throw new PlatformError("invalidArgument", "the embedded engine needs a model", {
          field: "model.source",
          remedy: "Name a safetensors repository.",
        });
      }
      const { EmbeddedReplicaEngine } = await import("./adapters/embedded/embedded-engine.ts");
      return new EmbeddedReplicaEngine({
        spec: kind.value,
        modelName,
        weights: {
          ...settings,
          source,
          replicaId,
          ranks: Math.max(1, kind.value.tensorParallel),
          retryDelayMsMax: settings.reattachDelayMsMax,
        },
      });
    }
    case "process": {
      const { ProcessReplicaEngine } = await import("./adapters/process/process-engine.ts");
      return new ProcessReplicaEngine({
        spec: kind.value,
        modelName,
        modelPath: source,
        environment: {
          ...settings.childEnvironment,
          PILOTLIGHT_WEIGHT_STREAMER: settings.weightStreamerAddress,
          PILOTLIGHT_REPLICA_ID: replicaId,
        },
      });
    }
    default:
      throw new PlatformError("invalidArgument", "the deployment names no engine", { field: "engine" });
  }
}
