// What the service and its analyst process say to each other over the IPC channel.

/** One line as it lies in a segment, in the order of COLUMNS; time in µs since the epoch. */
export type Row = [
  timeUs: number,
  seq: number,
  level: string,
  node: string,
  service: string,
  component: string,
  application: string,
  version: number,
  deployment: string,
  replicaId: string,
  requestId: string,
  traceId: string,
  message: string,
  fields: string,
];

export const COLUMNS = [
  "time",
  "seq",
  "level",
  "node",
  "service",
  "component",
  "application",
  "version",
  "deployment",
  "replica_id",
  "request_id",
  "trace_id",
  "message",
  "fields",
] as const;

/** What the statistics of a Parquet file will say. */
export type FileStatistics = {
  rows: number;
  timeMin: number;
  timeMax: number;
  /** Base64. */
  requestIds: string;
};

/** A Parquet file that was written for one hour and application. */
export type WrittenFile = FileStatistics & { path: string; hour: number; application: string };

export type AnalystTask =
  /** Turns a journal file into one Parquet file for each hour and application, named by `prefix` and a number. */
  | { kind: "write"; journal: string; number: number; prefix: string }
  /** Merges Parquet files into one. */
  | { kind: "merge"; files: string[]; path: string }
  /** The newest `limit` rows that fulfil the condition, newest first. */
  | {
      kind: "query";
      files: string[];
      where: string;
      parameters: (string | number | bigint)[];
      limit: number;
    };

/** What a task gives when it is done; a query has given its rows by then. */
export type AnalystResult = { write: WrittenFile[]; merge: FileStatistics; query: undefined };

export type ToAnalyst = { id: number; task: AnalystTask } | { id: number; cancel: true };

export type FromAnalyst =
  | { id: number; rows: Row[] }
  | { id: number; done: AnalystResult[keyof AnalystResult] }
  | { id: number; failed: { code: string; message: string } };

/** How the analyst is set up, as its arguments. */
export type AnalystSettings = { memoryBytesMax: number; threads: number; temporaryDirectory: string };
