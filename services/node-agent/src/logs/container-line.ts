// Docker's own log files hold one JSON object for every piece of output: which container's it is says its tag.
// Format: the json-file driver, https://docs.docker.com/engine/logging/drivers/json-file/ and …/log_tags/.
import * as z from "zod";

const containerLineSchema = z.object({
  log: z.string(),
  stream: z.enum(["stdout", "stderr"]),
  time: z.iso.datetime({ offset: true }),
  attrs: z.object({ tag: z.string().optional() }).optional(),
});

export type ContainerLine = {
  text: string;
  stream: "stdout" | "stderr";
  /** Epoch milliseconds. */
  at: number;
  tag: string;
};

/** The output in a parsed record, where it is one of Docker's. */
export function containerLine(fields: unknown): ContainerLine | undefined {
  const { data } = containerLineSchema.safeParse(fields);
  if (data === undefined) return undefined;
  const { log, stream, time, attrs } = data;
  return { text: log.replace(/\r?\n$/, ""), stream, at: Date.parse(time), tag: attrs?.tag ?? "" };
}
