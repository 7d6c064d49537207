// The bench's own programs (bench/links), built once, and the link that stands between a bucket and its readers.
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { runCommand } from "@pilotlight/servers";
import { buildTool } from "../links/build.mjs";

/** Paths of the programs. */
export type Tools = { link: string; reader: string; mapper: string; touch: string };

export async function buildTools(): Promise<Tools> {
  return {
    link: await buildTool("link"),
    reader: await buildTool("reader"),
    mapper: await buildTool("mapper"),
    touch: await buildTool("touch"),
  };
}

/** A program that answers each line it is given with one line of JSON. */
export class Conversation {
  readonly child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(command: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env) {
    this.child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"], env });
    if (this.child.stdout === null) throw new Error("no standard output");
    this.#lines = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
  }

  say(line: string): void {
    this.child.stdin?.write(`${line}\n`);
  }

  /** The next line. Throws when the program has ended. */
  async hear<T>(): Promise<T> {
    const line = await this.#lines.next();
    if (line.done) throw new Error(`${this.child.spawnargs.join(" ")} ended with ${this.child.exitCode}`);
    return JSON.parse(line.value) as T;
  }

  /** Ends its input and waits until it has gone. */
  async end(): Promise<void> {
    this.child.stdin?.end();
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    await new Promise((resolve) => this.child.once("exit", resolve));
  }
}

export type Route = { to: string; rates: string[] };

export type Link = {
  /** Addresses to connect to, one a route. */
  addresses: string[];
  /** Bytes that went to clients so far, one a route. */
  bytes(): Promise<number[]>;
  stop(): Promise<void>;
};

/** Routes through shared rates (bits per second), with this time to the first byte. */
export async function startLink(
  tools: Tools,
  firstByteMs: number,
  rates: Readonly<Record<string, number>>,
  routes: readonly Route[],
  /** The header of a request that names one more rate. */
  byHeader?: string,
): Promise<Link> {
  const conversation = new Conversation(tools.link, [
    "--first-byte-ms",
    String(firstByteMs),
    ...Object.entries(rates).flatMap(([name, bits]) => ["--rate", `${name}=${bits}`]),
    ...(byHeader === undefined ? [] : ["--by-header", byHeader]),
    ...routes.flatMap(({ to, rates }) => ["--route", `${to}=${rates.join("+")}`]),
  ]);
  const ports = await conversation.hear<number[]>();
  return {
    addresses: ports.map((port) => `127.0.0.1:${port}`),
    bytes() {
      conversation.say("");
      return conversation.hear<number[]>();
    },
    stop: () => conversation.end(),
  };
}

/** Pages that were just in use (those of a file in this folder), for whoever is measured next: see bench/links/src/bin/touch.rs. */
export async function touchMemory(tools: Tools, bytes: number, folder?: string): Promise<void> {
  await runCommand(tools.touch, [String(bytes), ...(folder === undefined ? [] : [folder])]);
}
