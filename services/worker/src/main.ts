// A replica's process.
import { childEnvironment, runService } from "@pilotlight/service";
import { readAssignment } from "./assignment.ts";
import { config } from "./config.ts";
import { startWorker } from "./worker.ts";

await runService({
  config,
  logFields: (settings) => {
    const { application, version, deployment, replicaId } = readAssignment(settings.assignmentFile);
    return { application, version, deployment: deployment.name, replicaId };
  },
  async start(context) {
    const assignment = readAssignment(context.config.assignmentFile);
    await startWorker(context, assignment, {
      childEnvironment: childEnvironment(config),
      end: () => process.kill(process.pid, "SIGTERM"),
    });
  },
});
