// `npm start`: the platform with its demo, then the platform until Ctrl-C.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { toPlatformError } from "@pilotlight/errors";
import { ROOT } from "./checkout.ts";
import { readOptions } from "./options.ts";
import { type Platform, startPlatform } from "./platform.ts";
import { say, show, step } from "./terminal.ts";
import { ensureWorkerImage } from "./worker-image.ts";

const HELP = `npm start [-- OPTIONS]     Starts the platform on this machine and runs the demo.

  --s3              keep the bucket in an S3 server (versitygw, built once) instead of a plain directory
  --bucket URI      use this bucket: s3://bucket/prefix?endpoint=…, file:///directory
  --nats URL        use this NATS server instead of starting one
  --postgres URL    use this PostgreSQL instead of starting one
  --no-demo         only start
  --once            run the demo, then stop (exit code 1 if something failed)
  --state DIR       keep everything here (default: .pilotlight in the checkout)

Examples
  npm start
  npm start -- --s3 --once
  npm start -- --no-demo --nats nats://127.0.0.1:4222`;

const values = readOptions(HELP, {
  s3: { type: "boolean", default: false },
  bucket: { type: "string" },
  nats: { type: "string" },
  postgres: { type: "string" },
  demo: { type: "boolean", default: true },
  once: { type: "boolean", default: false },
  state: { type: "string", default: join(ROOT, ".pilotlight") },
});

let platform: Platform | undefined;
let stopping = false;
const stop = async (code: number): Promise<void> => {
  if (stopping) process.exit(130); // asked twice
  stopping = true;
  say("stopping");
  await platform?.stop();
  say("stopped; everything is kept in the state folder");
  process.exit(code);
};
process.on("SIGINT", () => void stop(0));
process.on("SIGTERM", () => void stop(0));

try {
  await mkdir(values.state, { recursive: true });
  const image = await step("the worker's image", async () => {
    const { reference, made } = await ensureWorkerImage(join(values.state, "images"));
    say(`  ${made ? "made" : "is there"}: ${reference}`);
    return reference;
  });
  platform = await step("starting NATS, PostgreSQL, the bucket and the services", () =>
    startPlatform({
      stateDir: values.state,
      usualPorts: true,
      bucket:
        values.bucket !== undefined
          ? { kind: "uri", uri: values.bucket }
          : values.s3
            ? { kind: "s3" }
            : { kind: "directory" },
      from: "bundle",
      workerImage: image,
      accelerators: 4,
      logLevel: "info",
      ...(values.nats === undefined ? {} : { natsUrl: values.nats }),
      ...(values.postgres === undefined ? {} : { postgresUrl: values.postgres }),
      onMovedPort: (door, from, to) =>
        say(`  port ${from} (${door}) is taken by another program; using ${to}`),
      onEvent: ({ kind, name, detail }) => {
        if (kind === "restarting" && !stopping) say(`${name} ended: ${detail}`);
      },
    }),
  );
  if (values.demo) await runDemo(platform);
  if (values.once) await stop(0);
  printNext(platform);
} catch (thrown) {
  const error = toPlatformError(thrown);
  process.stderr.write(`\n${error}\n`);
  if (error.code === "internal") process.stderr.write(`${error.stack}\n`);
  await stop(1);
}

async function runDemo(running: Platform): Promise<void> {
  // Loaded only when it runs: what it needs would stay in memory as long as the platform.
  const { createDemo } = await import("./demo.ts");
  const demo = createDemo(running.endpoints, running.bucket.environment, show);
  await step("models: safetensors repositories in the bucket", demo.addModels);
  await step("$ pilotlight deploy examples/chat/app.yaml", async () => show(await demo.deploy()));
  await step("$ pilotlight deploy examples/embeddings/app.yaml", demo.deployEmbeddings);
  const { requestId } = await step(
    "a question by curl, a stream and embeddings by the OpenAI client",
    async () => {
      const seen = await demo.ask();
      show(`curl:    ${seen.answer.trim()}`);
      show(`stream:  ${seen.streamed.trim()} (${seen.chunks} chunks)`);
      show(`cosine:  cat/kitten ${seen.similar.toFixed(3)}, cat/interest rates ${seen.different.toFixed(3)}`);
      return seen;
    },
  );
  await step("load rises, then falls", demo.scale);
  await step("$ pilotlight deploy examples/chat/app-v2.yaml, then rollback, under load", demo.replace);
  await step(`$ pilotlight logs chat --request-id ${requestId}`, async () =>
    show(await demo.logs(requestId)),
  );
  await step("$ pilotlight status", async () => show(await demo.status()));
}

function printNext(running: Platform): void {
  const { gatewayUrl, controlUrl, natsUrl, bucketUri } = running.endpoints;
  process.stdout.write(`
Pilotlight runs.

  OpenAI API   ${gatewayUrl}/v1
  Control API  ${controlUrl}/v1/status
  NATS         ${natsUrl}
  Bucket       ${bucketUri.split("?")[0]}
  Logs         ${running.logDir}

Try
  curl ${gatewayUrl}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{"model":"smollm2-135m-instruct","messages":[{"role":"user","content":"Hello!"}]}'
  npm run -s pilotlight -- status
  npm run -s pilotlight -- logs chat --follow
  npm run -s pilotlight -- events tail
  npm run -s pilotlight -- --help

Ctrl-C stops all of it; the next start takes seconds and finds everything as it was.
`);
}
