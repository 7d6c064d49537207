// From the application file to the message that the other services read. `bucket://` becomes the real bucket here,
// so that nobody else needs to know where the platform's bucket is.
import { type ApplicationSpecSchema, type MessageInitShape, ModelTask } from "@pilotlight/contracts";
import type { Application, Deployment } from "@pilotlight/spec";

type SpecInit = MessageInitShape<typeof ApplicationSpecSchema>;
type DeploymentInit = NonNullable<SpecInit["deployments"]>[number];

const TASK = { chat: ModelTask.CHAT, embeddings: ModelTask.EMBEDDINGS } as const;

/** The message of one version. */
export function specMessage(application: Application, bucketUri: string): SpecInit {
  return {
    application: application.application,
    deployments: application.deployments.map((deployment) => deploymentMessage(deployment, bucketUri)),
  };
}

function deploymentMessage(deployment: Deployment, bucketUri: string): DeploymentInit {
  const { model, resources, autoscaling, rollout, admission, compileCache } = deployment;
  const { unknownPassesAfterMs, ...gates } = rollout.gates;
  return {
    name: deployment.name,
    image: deployment.image,
    ...(model === undefined
      ? {}
      : {
          model: {
            source: resolveSource(model.source, bucketUri),
            name: model.name,
            task: TASK[model.task],
          },
        }),
    engine: { kind: engineMessage(deployment.engine) },
    resources: { accelerators: resources.accelerators, memoryMib: resources.memoryMb },
    autoscaling,
    rollout: {
      ...rollout,
      gates: unknownPassesAfterMs === null ? gates : { ...gates, unknownPassesAfterMs },
    },
    drainTimeoutMs: deployment.drainTimeoutMs,
    startTimeoutMs: deployment.startTimeoutMs,
    environment: deployment.environment,
    admission: { queueLengthMax: admission.queueLengthMax, queueWaitMsMax: admission.queueWaitMsMax },
    ...(compileCache === undefined
      ? {}
      : {
          compileCache: {
            variables: compileCache.variables,
            sizeMaxMib: compileCache.sizeMaxMb,
            key: compileCache.key,
          },
        }),
  };
}

function engineMessage(engine: Deployment["engine"]) {
  switch (engine.kind) {
    case "embedded": {
      const { kind, ...value } = engine;
      return { case: kind, value };
    }
    case "process": {
      const { kind, env, port, ...value } = engine;
      return { case: kind, value: { ...value, environment: env, port: port === "auto" ? 0 : port } };
    }
    default:
      return engine satisfies never;
  }
}

const BUCKET_SCHEME = "bucket://";

/** `bucket://models/x` → the same path in the platform's bucket; every other source stays as it is. */
export function resolveSource(source: string, bucketUri: string): string {
  if (!source.startsWith(BUCKET_SCHEME)) return source;
  const path = source.slice(BUCKET_SCHEME.length).replace(/^\/+/, "");
  // The bucket's URI may end in settings: s3://bucket/prefix?endpoint=…
  const [base = "", settings] = bucketUri.split("?", 2);
  return `${base.replace(/\/+$/, "")}/${path}${settings === undefined ? "" : `?${settings}`}`;
}
