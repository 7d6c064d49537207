// The application file's schema: the one place where a field, its default, its limits and its meaning are written.
// The JSON Schema that editors use (`application.schema.json`) is generated from it, and so is the reference in
// the docs: every field carries a description, and a description says the unit.
//
// Rules of one field (type, range, pattern) stand here; rules between fields in `cross-checks.ts`.
import * as z from "zod";
import { checkApplication, checkDeployment } from "./cross-checks.ts";
import { parseImage } from "./image.ts";
import { parseModelSource } from "./model-source.ts";

const HOUR_MS = 3_600_000;

/** RFC 1123 label: what Kubernetes, DNS and subject tokens all accept. */
const DNS_LABEL = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/;
const ENVIRONMENT_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;

const dnsLabel = z
  .string()
  .min(1)
  .max(40)
  .regex(DNS_LABEL, "must be lower-case letters, digits and inner hyphens (a DNS label)");

const durationMs = (max: number) => z.int().min(0).max(max);

const environment = z
  .record(
    z.string().max(256).regex(ENVIRONMENT_NAME, "must be a variable name: letters, digits, underscores"),
    z.string().max(32_768),
  )
  .refine((variables) => Object.keys(variables).length <= 256, "at most 256 variables");

const image = z
  .string()
  .max(1024)
  .superRefine((text, context) => {
    const parsed = parseImage(text);
    if (parsed.kind === "invalid") context.addIssue({ code: "custom", message: parsed.why });
  })
  .describe(
    "The container image: `registry.example/team/worker:1.2`, the same with `@sha256:…`, `oci:///path/layout:tag` for an OCI layout directory, or `pilotlight://worker` for the platform's own worker image.",
  )
  .meta({
    examples: ["pilotlight://worker", "registry.example/team/worker:1.2", "oci:///var/images/worker:1"],
  });

const model = z
  .strictObject({
    source: z
      .string()
      .max(2048)
      .superRefine((text, context) => {
        const parsed = parseModelSource(text);
        if (parsed.kind === "invalid") context.addIssue({ code: "custom", message: parsed.why });
      })
      .describe(
        "Where the safetensors repository lies: `bucket://…` (the platform's own bucket), `s3://`, `gs://`, `az://`, `https://`, `hf://owner/name@revision` or `file:///…`.",
      ),
    name: z
      .string()
      .min(1)
      .max(128)
      .regex(
        /^[A-Za-z0-9][A-Za-z0-9._/:-]*$/,
        "must start with a letter or digit and hold only letters, digits and . _ / : -",
      )
      .describe("The name that clients send as `model`."),
    task: z.enum(["chat", "embeddings"]).describe("Which OpenAI routes the model answers."),
  })
  .describe("The model that this deployment serves. Leave it out for business logic without a model.");

const embeddedEngine = z.strictObject({
  kind: z
    .literal("embedded")
    .describe("The engine that comes with Pilotlight: Llama, Qwen, Mistral and BERT shapes."),
  dtype: z.enum(["bf16", "f32"]).default("bf16").describe("Number format of weights and arithmetic."),
  contextTokensMax: z
    .int()
    .min(16)
    .max(1_048_576)
    .default(2048)
    .describe("Longest sequence, prompt and answer together, in tokens."),
  kvTokensMax: z
    .int()
    .min(16)
    .max(67_108_864)
    .default(16_384)
    .describe("Key-value cache of one replica, in tokens of all sequences together."),
  sequencesMax: z
    .int()
    .min(1)
    .max(1024)
    .default(8)
    .describe("Sequences that one replica decodes at the same time."),
  threads: z
    .int()
    .min(0)
    .max(1024)
    .default(0)
    .describe("CPU threads of one replica; 0 means all cores it may use."),
  tensorParallel: z
    .int()
    .min(1)
    .max(64)
    .default(1)
    .describe(
      "Ranks of the tensor-parallel group that one replica is: the weights come as that many slices, as `pilotlight model add --ranks` cuts them. Divides the heads, the intermediate size and the vocabulary of the model.",
    ),
});

const processEngine = z.strictObject({
  kind: z
    .literal("process")
    .describe("A server of one's own (vLLM, SGLang, any HTTP program) as a child process."),
  command: z
    .array(z.string().max(4096))
    .min(1)
    .max(256)
    .describe("Program and arguments. `{port}`, `{modelPath}` and `{modelName}` are replaced."),
  port: z
    .union([z.literal("auto"), z.int().min(1).max(65_535)])
    .default("auto")
    .describe("The port that the program listens on; `auto` picks a free one and hands it over as `{port}`."),
  healthPath: z
    .string()
    .max(1024)
    .regex(/^\/[^\s?#]*$/, "must be an absolute path such as /health")
    .default("/health")
    .describe("The path that answers 2xx when the program is ready."),
  readyTimeoutMs: durationMs(4 * HOUR_MS)
    .min(1)
    .default(600_000)
    .describe("How long the program may take until `healthPath` answers 2xx, in ms."),
  sequencesMax: z
    .int()
    .min(1)
    .max(65_536)
    .default(64)
    .describe("Requests that one replica takes at the same time; more wait in the gateway."),
  env: environment.default({}).describe("Environment of the program, beside the deployment's."),
});

const engine = z
  .discriminatedUnion("kind", [embeddedEngine, processEngine])
  .describe("What runs inside a replica.");

/** Fractions are hundredths of one device, so sums stay exact; a replica takes part of one device or whole ones. */
const isDeviceShare = (share: number) =>
  Number.isInteger(share) || (share < 1 && Math.abs(share * 100 - Math.round(share * 100)) < 1e-9);

const resources = z
  .strictObject({
    accelerators: z
      .number()
      .min(0)
      .max(64)
      .refine(
        isDeviceShare,
        "must be a fraction below 1 in steps of 0.01 (part of one device), or a whole number",
      )
      .default(1)
      .describe(
        "Accelerators of one replica: a fraction (0.01–0.99) shares one device, whole numbers take devices, 0 runs on the CPU only.",
      ),
    memoryMb: z.int().min(64).max(16_777_216).default(2048).describe("Host memory of one replica, in MiB."),
  })
  .describe("What one replica takes of a node.");

const autoscaling = z
  .strictObject({
    replicasMin: z.int().min(0).max(10_000).default(1).describe("Fewest replicas; 0 allows scaling to zero."),
    replicasMax: z.int().min(1).max(10_000).default(4).describe("Most replicas."),
    targetInFlight: z
      .number()
      .min(0.1)
      .max(10_000)
      .default(4)
      .describe("Requests in flight and queued that one replica should have."),
    scaleUpDelayMs: durationMs(HOUR_MS)
      .default(0)
      .describe("How long more load must last before replicas are added, in ms."),
    scaleDownDelayMs: durationMs(24 * HOUR_MS)
      .default(120_000)
      .describe("The highest need of this window decides before replicas are taken away, in ms."),
    scaleToZeroDelayMs: durationMs(7 * 24 * HOUR_MS)
      .default(600_000)
      .describe("The same window for the last replica, when `replicasMin` is 0, in ms."),
  })
  .describe("How many replicas, by load.");

const gates = z
  .strictObject({
    errorRateMax: z
      .number()
      .min(0)
      .max(1)
      .default(0.05)
      .describe("The share of failed requests that the new version may have by itself (0.05 = 5 %)."),
    errorRatioMax: z
      .number()
      .min(1)
      .max(100)
      .default(1)
      .describe("How many times the old version's error rate the new one may have."),
    ttftRatioMax: z
      .number()
      .min(1)
      .max(100)
      .default(1.05)
      .describe(
        "How many times the old version's time to first token the new one may take (geometric mean).",
      ),
    timePerOutputTokenRatioMax: z
      .number()
      .min(1)
      .max(100)
      .default(1.05)
      .describe("The same for the time per output token."),
    samplesMin: z
      .int()
      .min(1)
      .max(1_000_000)
      .default(20)
      .describe("Requests that the new version must have answered before a gate can pass."),
    falseAlarmMax: z
      .number()
      .min(0.0001)
      .max(0.5)
      .default(0.01)
      .describe("Chance that a new version as good as the old one is rolled back, over the whole rollout."),
    unknownPassesAfterMs: durationMs(24 * HOUR_MS)
      .nullable()
      .default(30_000)
      .describe("With too few requests to judge, a gate passes after this long, in ms; null: never."),
    timeoutMs: durationMs(7 * 24 * HOUR_MS)
      .default(HOUR_MS)
      .describe("A gate that is still undecided after this long rolls back, in ms."),
  })
  .describe("What the new version is compared on with the old one while traffic moves.");

const rollout = z
  .strictObject({
    surge: z
      .int()
      .min(1)
      .max(1000)
      .default(1)
      .describe("Replicas above the needed number that may exist while versions are exchanged."),
    stepIntervalMs: durationMs(24 * HOUR_MS)
      .default(5000)
      .describe("The least time between two steps of traffic, in ms."),
    crashesMax: z
      .int()
      .min(0)
      .max(1000)
      .default(2)
      .describe("Crashed replicas of the new version that are tolerated; one more rolls back."),
    heartbeatTimeoutMs: durationMs(HOUR_MS)
      .min(1000)
      .default(30_000)
      .describe(
        "A new version that was not heard of for this long, while the old one was, rolls back, in ms.",
      ),
    gates: gates.prefault({}),
  })
  .describe("How a new version takes over.");

const admission = z
  .strictObject({
    queueLengthMax: z
      .int()
      .min(0)
      .max(1_000_000)
      .default(512)
      .describe("Requests that may wait in one gateway for a replica; more are refused with Retry-After."),
    queueWaitMsMax: durationMs(HOUR_MS)
      .default(120_000)
      .describe("How long a request may wait for a replica, in ms."),
  })
  .describe("What happens to requests that no replica has room for.");

const compileCache = z
  .strictObject({
    variables: z
      .array(
        z.string().max(256).regex(ENVIRONMENT_NAME, "must be a variable name: letters, digits, underscores"),
      )
      .min(1)
      .max(16)
      .refine((names) => new Set(names).size === names.length, "names a variable twice")
      .describe(
        "Environment variables by which the engine is told its cache folders, e.g. `TORCHINDUCTOR_CACHE_DIR`, `TRITON_CACHE_DIR`, `VLLM_CACHE_ROOT`, `CUDA_CACHE_PATH`. Each gets a folder.",
      ),
    sizeMaxMb: z
      .int()
      .min(1)
      .max(65_536)
      .default(2048)
      .describe("Folders that hold more than this together, in MiB, are not kept."),
    key: z
      .string()
      .max(256)
      .default("")
      .describe(
        "Tells caches apart beyond image, model, engine settings, environment and kind of accelerator: the version of a driver, for instance.",
      ),
  })
  .describe(
    "Keeps what the engine compiles at the first start of a version (kernels, graphs) and restores it before the next ones. Leave it out for engines that compile nothing.",
  );

const deployment = z
  .strictObject({
    name: dnsLabel.describe("Name of the deployment, unique in the application."),
    image,
    model: model.optional(),
    engine,
    resources: resources.prefault({}),
    autoscaling: autoscaling.prefault({}),
    rollout: rollout.prefault({}),
    admission: admission.prefault({}),
    startTimeoutMs: durationMs(4 * HOUR_MS)
      .min(1000)
      .default(900_000)
      .describe("How long a replica may take from wanted to ready, in ms."),
    drainTimeoutMs: durationMs(24 * HOUR_MS)
      .default(300_000)
      .describe("How long running requests may finish after a replica was told to stop, in ms."),
    environment: environment.default({}).describe("Environment variables of the replica."),
    compileCache: compileCache.optional(),
  })
  .superRefine(checkDeployment, { when: () => true })
  .describe("One model or one step of business logic.");

/** The whole file. `parseApplication` adds lines, columns and remedies. */
export const applicationSchema = z
  .strictObject({
    application: dnsLabel.describe("Name of the application."),
    deployments: z
      .array(deployment)
      .min(1, "at least one deployment is needed")
      .max(64)
      .describe("What the application consists of."),
  })
  .superRefine(checkApplication, { when: () => true })
  .meta({ title: "Pilotlight application" });

/** A checked application file with every default filled in. */
export type Application = z.output<typeof applicationSchema>;
/** What a person may write: defaults left out. */
export type ApplicationInput = z.input<typeof applicationSchema>;
export type Deployment = Application["deployments"][number];
export type Model = NonNullable<Deployment["model"]>;
export type Engine = Deployment["engine"];
export type EmbeddedEngine = Extract<Engine, { kind: "embedded" }>;
export type ProcessEngine = Extract<Engine, { kind: "process" }>;
export type Resources = Deployment["resources"];
export type Autoscaling = Deployment["autoscaling"];
export type Rollout = Deployment["rollout"];
export type Gates = Rollout["gates"];
export type Admission = Deployment["admission"];
