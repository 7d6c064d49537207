// What `npm start` prints: steps with the time since the start, their results, and nothing that needs a terminal.

const startedAt = Date.now();

const seconds = (ms: number) => `${(ms / 1000).toFixed(1)} s`;

/** One line with the time since the start. */
export function say(text: string): void {
  process.stdout.write(`[${((Date.now() - startedAt) / 1000).toFixed(1).padStart(6)} s] ${text}\n`);
}

/** Indented lines below a step. */
export function show(text: string): void {
  process.stdout.write(
    `${text
      .trimEnd()
      .split("\n")
      .map((line) => `            ${line}`)
      .join("\n")}\n`,
  );
}

/** Runs a step and says how long it took. */
export async function step<T>(title: string, work: () => Promise<T>): Promise<T> {
  const from = Date.now();
  say(title);
  const result = await work();
  say(`  done in ${seconds(Date.now() - from)}`);
  return result;
}
