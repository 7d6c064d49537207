// Programs inside a mounted image: with the image's own configuration, in mounts and processes of their own where that is
// possible, and killed with the process that started them unless they are told to outlive it.
import { type ChildProcess, spawn } from "node:child_process";
import { PlatformError } from "@pilotlight/errors";
import type { Imagefs, Mount } from "./imagefs.ts";
import { directCommand } from "./launch-direct.ts";

export type BindMount = {
  source: string;
  /** Absolute path inside; made if missing, which needs a writable layer. */
  target: string;
  readOnly: boolean;
};

export type LaunchOptions = {
  /** What runs instead of the image's command; its entrypoint stays in front. */
  args?: readonly string[];
  /** Replaces the image's entrypoint, and its command unless `args` are given. */
  entrypoint?: readonly string[];
  /** On top of the image's environment. */
  env?: Readonly<Record<string, string>>;
  /** Default: the image's. */
  cwd?: string;
  /** `user[:group]`. Default: the image's. */
  user?: string;
  binds?: readonly BindMount[];
  hostname?: string;
  /**
   * The program goes on when the caller ends, in a session of its own. Default false. `launcherEnv` is the environment of
   * the launcher itself, which is a program of the machine: put a mark there by which a later caller finds it.
   */
  outlivesCaller?: boolean;
  launcherEnv?: Readonly<Record<string, string>>;
  /** Standard input, output and error, as for child_process.spawn. Default: inherited. */
  stdio?: ["ignore" | "inherit" | "pipe", "inherit" | "pipe" | number, "inherit" | "pipe" | number];
};

/**
 * namespaces      as root: own mounts, processes, IPC and host name; the network is the machine's
 * userNamespaces  the same without root; the caller appears as the image's user
 * direct          without any isolation, through the image's own dynamic loader: paths of the image are not at their places
 */
export type LaunchMode = "namespaces" | "userNamespaces" | "direct";

export type Launched = {
  /** The launcher, or (direct) the program itself. SIGTERM reaches the program; SIGKILL ends everything inside. */
  process: ChildProcess;
  mode: LaunchMode;
};

/** Docker's default, for images that set none. */
const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** Starts a program in a mount. Throws `invalidArgument` (nothing to run) or `unsupported` (binds without namespaces). */
export async function launch(imagefs: Imagefs, mount: Mount, options: LaunchOptions = {}): Promise<Launched> {
  const args = commandOf(mount, options);
  const env = environmentOf(mount, options);
  const mode = await launchMode(imagefs);
  const outlivesCaller = options.outlivesCaller ?? false;
  const stdio = options.stdio ?? ["inherit", "inherit", "inherit"];
  const cwd = options.cwd ?? mount.runConfig.workingDir;
  if (mode === "direct") {
    if ((options.binds?.length ?? 0) > 0) {
      throw new PlatformError(
        "unsupported",
        "directories cannot be bound into a program that runs without namespaces",
        {
          remedy: "Run as root or allow user namespaces, or give the program the paths of this machine.",
        },
      );
    }
    const command = await directCommand(mount.root, args, env, cwd);
    return {
      mode,
      process: spawn(command.program, command.args, {
        cwd: command.cwd,
        env: { ...options.launcherEnv, ...command.env },
        stdio,
        argv0: command.argv0,
        detached: outlivesCaller,
      }),
    };
  }
  const child = spawn(imagefs.binary as string, ["run"], {
    stdio: [...stdio, "pipe"],
    env: options.launcherEnv ?? {},
    detached: outlivesCaller,
  });
  const spec = {
    root: mount.root,
    overlay: mount.pendingOverlay ?? null,
    args,
    env: Object.entries(env).map(([name, value]) => `${name}=${value}`),
    cwd,
    user: options.user ?? mount.runConfig.user,
    binds: options.binds ?? [],
    hostname: options.hostname ?? null,
    userNamespace: mode === "userNamespaces",
    outlivesCaller,
  };
  const pipe = child.stdio[3] as NodeJS.WritableStream;
  // A launcher that could not start says so by its exit.
  pipe.on("error", () => undefined);
  pipe.end(JSON.stringify(spec));
  return { mode, process: child };
}

/** The best mode that works here. */
export async function launchMode(imagefs: Imagefs): Promise<LaunchMode> {
  if (imagefs.binary === undefined) return "direct";
  if (process.geteuid?.() === 0) return "namespaces";
  return (await imagefs.probe()).userNamespaces.ok ? "userNamespaces" : "direct";
}

function commandOf(mount: Mount, options: LaunchOptions): string[] {
  const { entrypoint, cmd } = mount.runConfig;
  const args = options.args ?? (options.entrypoint === undefined ? cmd : []);
  const command = [...(options.entrypoint ?? entrypoint), ...args];
  if (command.length === 0) {
    throw new PlatformError("invalidArgument", "the image has neither entrypoint nor command", {
      field: "args",
      remedy: "Say what to run, or set ENTRYPOINT or CMD in the image.",
    });
  }
  return command;
}

function environmentOf(mount: Mount, options: LaunchOptions): Record<string, string> {
  const env: Record<string, string> = { PATH: DEFAULT_PATH };
  for (const line of mount.runConfig.env) {
    const equals = line.indexOf("=");
    if (equals > 0) env[line.slice(0, equals)] = line.slice(equals + 1);
  }
  return { ...env, ...options.env };
}
