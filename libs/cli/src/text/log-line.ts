// A log line for people.
import type { LogLineView } from "@pilotlight/control-api";
import type { Terminal } from "../terminal.ts";

const COLOURS = { error: "red", warn: "yellow", info: "green", debug: "gray", unknown: "gray" } as const;
/** Fields that say nothing to a person who reads along. */
const LEFT_OUT = new Set(["stack", "pid"]);

/** `10:24:11.512 INFO  worker/engine chat-chat-v1-1ab  prefill done  tokens=12 durationMs=8` */
export function formatLogLine(line: LogLineView, style: Terminal["style"]): string {
  const time = new Date(line.at).toISOString().slice(11, 23);
  const level = style(COLOURS[line.level], line.level.toUpperCase().padEnd(5));
  const origin = [line.service, line.component].filter((part) => part !== "").join("/");
  const replica = line.replicaId === "" ? "" : ` ${style("cyan", line.replicaId)}`;
  const fields = Object.entries(line.fields)
    .filter(([name]) => !LEFT_OUT.has(name))
    .map(([name, value]) =>
      style("gray", `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`),
    );
  return [`${style("gray", time)} ${level} ${origin}${replica}`, line.message, fields.join(" ")]
    .filter((part) => part !== "")
    .join("  ");
}
