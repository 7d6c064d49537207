// Which engine an assignment asks for.
import { PlatformError } from "@pilotlight/errors";
import { EmbeddedReplicaEngine } from "./adapters/embedded/embedded-engine.ts";
import { ProcessReplicaEngine } from "./adapters/process/process-engine.ts";
import { type Assignment, modelNameOf } from "./assignment.ts";
import type { ReplicaEngine } from "./engine.ts";

export type EngineSettings = {
  weightStreamerAddress: string;
  tensorsInFlightMax: number;
  reattachDelayMsMax: number;
  /** Of this process, without what is only for it. */
  childEnvironment: Readonly<NodeJS.ProcessEnv>;
};

/** Makes the engine; it starts later. Throws `invalidArgument` for an assignment that names none. */
export function createReplicaEngine(assignment: Assignment, settings: EngineSettings): ReplicaEngine {
  const { deployment, replicaId } = assignment;
  const modelName = modelNameOf(assignment);
  const kind = deployment.engine?.kind;
  const source = deployment.model?.source ?? "";
  switch (kind?.case) {
    case "embedded":
      if (source === "") {
        throw new PlatformError("invalidArgument", "the embedded engine needs a model", {
          field: "model.source",
          remedy: "Name a safetensors repository.",
        });
      }
      return new EmbeddedReplicaEngine({
        spec: kind.value,
        modelName,
        weights: { ...settings, source, replicaId, retryDelayMsMax: settings.reattachDelayMsMax },
      });
    case "process":
      return new ProcessReplicaEngine({
        spec: kind.value,
        modelName,
        modelPath: source,
        environment: settings.childEnvironment,
      });
    default:
      throw new PlatformError("invalidArgument", "the deployment names no engine", { field: "engine" });
  }
}
