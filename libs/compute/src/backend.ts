// Where replicas live. A place is what one replica occupies on its node, named by the replica's ID: a mounted image, a
// folder, a process. Every call is idempotent by the place's name, so an agent that was killed in the middle of one
// simply calls again.
//   B1. Processes and mounts outlive the agent; a process is known again by its identity, never by its pid alone.
//   B2. `release` returns when no process of the place is left and its image is unmounted, and not before.
import type { ChildProcess } from "node:child_process";
import type { ProcessIdentity } from "./process.ts";

/** An image that the image converter has made mountable. */
export type ImageToMount = {
  /** Reference as the user wrote it, for messages. */
  reference: string;
  /** Identity of the converted image in the bucket. */
  imageId: string;
  manifestDigest: string;
  /** This node pulled it by itself: it is not in the bucket yet. */
  pulled?: boolean | undefined;
};

/** How a process is started in a place. */
export type Launch = {
  /** Variables beside the image's own; these win. */
  environment: Readonly<Record<string, string>>;
  /** Host folders that the process sees under the same path. */
  binds: readonly { path: string; writable: boolean }[];
  /** Device nodes of the host that the process may use. */
  devices: readonly string[];
  /** Files that get the process's output, appended. */
  stdoutFile: string;
  stderrFile: string;
};

/** What the backend adds to a launch. */
export type MarkedLaunch = Launch & {
  /** Variables that every process of the place must carry, whatever it is; `environment` holds them already. */
  mark: Readonly<Record<string, string>>;
  /** Descriptors for its output. */
  stdout: number;
  stderr: number;
};

/** Mounts images and enters them. */
export type ImageRuntime = {
  /** Makes the image readable for a place. Returns when its files can be read. */
  mount(place: string, image: ImageToMount, signal: AbortSignal): Promise<void>;
  /**
   * Starts the image's entry point with its own configuration, in a session of its own that outlives the caller. Mounts
   * the image first where `mount` was another process's.
   */
  launch(
    place: string,
    image: ImageToMount,
    launch: MarkedLaunch,
    signal: AbortSignal,
  ): Promise<ChildProcess>;
  /** The place's program is ready: what its start read may be learnt for the next one. Optional work, after the start. */
  learnStart(place: string): Promise<void>;
  /** Gives back what the place holds; nothing there is no error. */
  unmount(place: string): Promise<void>;
  /** Every place that holds something, in use or left over. */
  places(): Promise<string[]>;
};

/** How a process ended; unknown when it ended while no agent was there to see. */
export type ProcessEnd =
  | { kind: "exited"; code: number }
  | { kind: "killed"; signal: string }
  | { kind: "unknown" };

export type PlacedProcess = {
  readonly identity: ProcessIdentity;
  readonly ended: Promise<ProcessEnd>;
  /** SIGTERM asks the process, SIGKILL ends its whole group. A process that is gone is no error. */
  signal(signal: "SIGTERM" | "SIGKILL"): void;
};

export type Backend = {
  /** The folder of a place on the host; made by `mount`, removed by `forget`. */
  folder(place: string): string;
  /** Makes the image readable for the place. */
  mount(place: string, image: ImageToMount, signal: AbortSignal): Promise<void>;
  /** Starts the image's entry point, unless a process of this place is running: then that one is meant. */
  start(place: string, image: ImageToMount, launch: Launch, signal: AbortSignal): Promise<PlacedProcess>;
  /** The place's program is ready: what its start read may be learnt for the next one. Never fails. */
  learnStart(place: string): Promise<void>;
  /** A process that an earlier agent started, if it still runs. */
  adopt(identity: ProcessIdentity): PlacedProcess | undefined;
  /** Ends what still runs in the place and unmounts its image. */
  release(place: string): Promise<void>;
  /** Removes the place's folder. */
  forget(place: string): Promise<void>;
  /** Every place that holds a mount or a folder, in use or left over. */
  places(): Promise<string[]>;
};
