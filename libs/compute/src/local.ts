// The local backend: replicas are processes of this machine, each in the mounted root of its image, in a session of its
// own so that they outlive the agent.
import type { ChildProcess } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import { constants } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { logger } from "@pilotlight/telemetry";
import type { Backend, ImageRuntime, ImageToMount, Launch, PlacedProcess, ProcessEnd } from "./backend.ts";
import {
  identify,
  isRunning,
  PLACE_VARIABLE,
  type ProcessIdentity,
  processesOf,
  signalProcess,
} from "./process.ts";

export type LocalBackendOptions = {
  /** Holds one folder a place. Absolute. */
  runDir: string;
  images: ImageRuntime;
};

/** How often to look whether a process that is not our child still runs. */
const WATCH_INTERVAL_MS = 250;
/** Killed processes vanish within milliseconds, unless the kernel holds them in an unfinished read. */
const VANISH_TIMEOUT_MS = 30_000;
const VANISH_POLL_MS = 20;
/** A place becomes a folder's name and stands in environment variables. */
const PLACE = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;
/** How shells and container runtimes say "killed by signal n". */
const SIGNAL_EXIT_BASE = 128;

/** Opens the backend. Nothing is started or swept before it is asked for. */
export function localBackend({ runDir, images }: LocalBackendOptions): Backend {
  const folder = (place: string): string => {
    if (!PLACE.test(place)) throw new PlatformError("invalidArgument", `'${place}' cannot be a place's name`);
    return join(runDir, place);
  };
  return {
    folder,
    async mount(place, image, signal) {
      await mkdir(folder(place), { recursive: true });
      await images.mount(place, image, signal);
    },
    async start(place, image, launch, signal) {
      const running = processesOf(folder(place)).find((process) => process.leader);
      if (running !== undefined) return adoptProcess(running.identity);
      const mark = { [PLACE_VARIABLE]: folder(place) };
      return startProcess(images, place, image, { ...launch, mark }, signal);
    },
    learnStart: (place) =>
      images.learnStart(place).catch((thrown) => {
        logger("compute").warn("a start could not be learnt from", { place, error: toPlatformError(thrown) });
      }),
    adopt: (identity) => (isRunning(identity) ? adoptProcess(identity) : undefined),
    async release(place) {
      await endProcesses(folder(place));
      await images.unmount(place);
    },
    async forget(place) {
      await rm(folder(place), { recursive: true, force: true });
    },
    async places() {
      const folders = await readdir(runDir).catch(() => []);
      return [...new Set([...folders, ...(await images.places())])].filter((place) => PLACE.test(place));
    },
  };
}

async function startProcess(
  images: ImageRuntime,
  place: string,
  image: ImageToMount,
  launch: Launch & { mark: Record<string, string> },
  signal: AbortSignal,
): Promise<PlacedProcess> {
  const stdout = openSync(launch.stdoutFile, "a");
  const stderr = openSync(launch.stderrFile, "a");
  try {
    const environment = { ...launch.environment, ...launch.mark };
    const child = await images.launch(place, image, { ...launch, environment, stdout, stderr }, signal);
    return await placedChild(child, image);
  } finally {
    closeSync(stdout);
    closeSync(stderr);
  }
}

/** A child whose program was found and runs; a program that cannot be run is an error here. */
async function placedChild(child: ChildProcess, image: ImageToMount): Promise<PlacedProcess> {
  const ended = new Promise<ProcessEnd>((resolve) => {
    child.once("exit", (code, signal) => resolve(endOf(code, signal)));
  });
  if (child.pid === undefined) {
    await new Promise<void>((_, reject) => {
      child.once("error", (cause) => reject(cannotRun(image, cause)));
    });
  }
  child.on("error", () => {}); // a signal that cannot be sent: the process is gone
  child.unref();
  const pid = child.pid ?? 0;
  // One that ended at once has no identity any more; its end tells the story.
  const identity = identify(pid) ?? { pid, startTicks: -1, bootId: "" };
  const signal = (name: "SIGTERM" | "SIGKILL") => {
    if (child.exitCode === null && child.signalCode === null) signalPlace(pid, name);
  };
  return { identity, ended, signal };
}

function cannotRun(image: ImageToMount, cause: Error): PlatformError {
  const { code } = toPlatformError(cause);
  return new PlatformError(code, `the entry point of ${image.reference} cannot be run: ${cause.message}`, {
    remedy: "Check the image's entry point, its platform and its permissions.",
    cause,
  });
}

function endOf(code: number | null, signal: NodeJS.Signals | null): ProcessEnd {
  if (code === null) return { kind: "killed", signal: signal ?? "a signal" };
  const passedOn = Object.entries(constants.signals).find(([, number]) => number === code - SIGNAL_EXIT_BASE);
  return passedOn === undefined ? { kind: "exited", code } : { kind: "killed", signal: passedOn[0] };
}

/** A process of an earlier agent: not our child, so it is looked at now and then, and how it ended stays unknown. */
function adoptProcess(identity: ProcessIdentity): PlacedProcess {
  const ended = new Promise<ProcessEnd>((resolve) => {
    const watch = setInterval(() => {
      if (isRunning(identity)) return;
      clearInterval(watch);
      resolve({ kind: "unknown" });
    }, WATCH_INTERVAL_MS);
    watch.unref();
  });
  return {
    identity,
    ended,
    signal: (name) => {
      if (isRunning(identity)) signalPlace(identity.pid, name);
    },
  };
}

/** SIGTERM is a request to the process, which tells what it started; a group that gets it too would be told twice. */
function signalPlace(pid: number, name: "SIGTERM" | "SIGKILL"): void {
  signalProcess(name === "SIGKILL" ? -pid : pid, name);
}

/** Kills whatever still runs with the folder in its environment, children that left the process group included. */
async function endProcesses(folder: string): Promise<void> {
  const deadline = Date.now() + VANISH_TIMEOUT_MS;
  for (let round = 0; ; round++) {
    const left = processesOf(folder);
    if (left.length === 0) return;
    const pids = left.map(({ identity }) => identity.pid);
    if (round === 0) logger("compute").warn("ending processes that a replica left", { folder, pids });
    if (Date.now() > deadline) {
      throw new PlatformError("deadlineExceeded", `processes ${pids.join(", ")} of ${folder} do not end`, {
        remedy: "A process that cannot be killed waits for a disk or a file system; see dmesg.",
      });
    }
    for (const pid of pids) signalProcess(pid, "SIGKILL");
    await sleep(VANISH_POLL_MS);
  }
}
