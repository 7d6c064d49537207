// The other side: containerd pulls the image and runs it; the container fetches the weights with the AWS CLI onto the node's disk,
// then its engine takes them from there and gives a token. The daemon starts while the node boots.
import { randomUUID } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { runCommand } from "@pilotlight/servers";
import { startContainerd } from "../image/containerd.ts";
import { RUN_MARK } from "../src/leftovers.ts";
import { objectUri } from "../weights/bucket.ts";
import { BASELINE_PROGRAM } from "./image.ts";
import { ranksOf } from "./profile.ts";
import { chain, type Start } from "./start.ts";

export type BaselineOptions = {
  /** Where containerd's programs are. */
  programs: string;
  /** On the node's disk. */
  directory: string;
  /** The image in the registry behind the node's link. */
  reference: string;
  model: string;
  /** The bucket's address behind the same link. */
  linked: string;
  env: Record<string, string>;
  bootMs: number;
};

const IN_CONTAINER = "/weights";
const AWS_CONFIG = join(import.meta.dirname, "../weights/peers/aws.config");
const STEPS = { "container up": "container starts", downloaded: "weights to disk" } as const;

/** One start on a node that boots. */
export async function baselineStart(options: BaselineOptions): Promise<Start> {
  const { programs, directory, reference, model, linked, env, bootMs } = options;
  const began = Date.now();
  // runc remembers names beyond the daemon, where a run was interrupted.
  const container = `engine-${randomUUID()}`;
  const daemon = await startContainerd(programs, join(directory, "containerd"));
  const ctr = (...args: string[]) =>
    runCommand(join(programs, "ctr"), ["--address", join(directory, "containerd/containerd.sock"), ...args], {
      env: { ...process.env, PATH: `${programs}:${process.env.PATH}` },
    });
  try {
    const weights = join(directory, "weights");
    await mkdir(weights);
    await sleep(began + bootMs - Date.now());
    const booted = Date.now();
    await ctr("image", "pull", "--plain-http", reference);
    const pulled = Date.now();
    const variables = {
      ...env,
      [RUN_MARK]: process.env[RUN_MARK],
      AWS_ENDPOINT_URL: `http://${linked}`,
      AWS_CONFIG_FILE: "/aws.config",
    };
    const output = await ctr(
      "run",
      "--rm",
      "--net-host",
      ...Object.entries(variables).flatMap(([name, value]) => ["--env", `${name}=${value}`]),
      ...["--mount", `type=bind,src=${weights},dst=${IN_CONTAINER},options=rbind:rw`],
      ...["--mount", `type=bind,src=${AWS_CONFIG},dst=/aws.config,options=rbind:ro`],
      reference,
      container,
      "sh",
      "-ec",
      script(model),
    );
    const marks = marksIn(output);
    const token = marks.find(({ mark }) => mark === "first token");
    if (token?.logprob === undefined) throw new Error(`the baseline gave no token:\n${output}`);
    const steps = marks.map(({ mark, at }) => [STEPS[mark as keyof typeof STEPS] ?? mark, at] as const);
    return {
      ms: token.at - began,
      logprob: token.logprob,
      spans: chain(began, [["node boots", booted], ["image pulled", pulled], ...steps]),
    };
  } finally {
    // It outlives the daemon and whoever started it.
    await ctr("task", "kill", "--signal", "SIGKILL", container).catch(() => undefined);
    await daemon.stop();
  }
}

const script = (model: string) => `
mark() { echo "{\\"mark\\":\\"$1\\",\\"at\\":$(date +%s%3N)}"; }
mark "container up"
python3 -m awscli s3 cp ${objectUri(model, "")} ${IN_CONTAINER} --recursive --only-show-errors
mark "downloaded"
exec /usr/bin/node ${BASELINE_PROGRAM} ${IN_CONTAINER} ${ranksOf(model)}
`;

type Mark = { mark: string; at: number; logprob?: number };

const marksIn = (output: string): Mark[] =>
  output
    .split("\n")
    .filter((line) => line.startsWith('{"mark"'))
    .map((line) => JSON.parse(line) as Mark);
