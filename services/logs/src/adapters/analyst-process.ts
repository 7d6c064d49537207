// The analyst: a process of its own around the embedded analytical database (DuckDB). It lives only while there is something
// to write or to search, so that an idle log service is small, and so that a query that needs too much memory ends the
// analyst and not the service. Files in, files and rows out; it knows no bucket and no network.
import { readFile } from "node:fs/promises";
import { fromBinary } from "@bufbuild/protobuf";
import type { DuckDBConnection, DuckDBInstance } from "@duckdb/node-api";
import { LogBatchSchema, type LogLine, timestampMs } from "@pilotlight/contracts";
import { toPlatformError } from "@pilotlight/errors";
import { Bloom } from "../domain/bloom.ts";
import { LEVEL_NAMES } from "../domain/query.ts";
import { framesOf } from "../store/journal.ts";
import {
  type AnalystSettings,
  type AnalystTask,
  COLUMNS,
  type FileStatistics,
  type FromAnalyst,
  type Row,
  type ToAnalyst,
  type WrittenFile,
} from "./analyst-protocol.ts";

const US_PER_MS = 1_000;
const US_PER_HOUR = 3_600_000_000;
/** Rows of a row group: small enough that a request's lines cost little, large enough to compress. */
const ROW_GROUP_ROWS = 20_480;
const CHUNK_ROWS = 2_048;
const PAGE_ROWS = 1_000;
const SEQ_PER_JOURNAL = 2 ** 24;

type Duckdb = typeof import("@duckdb/node-api");

/** Serves the parent until it goes away. */
export async function runAnalyst(settings: AnalystSettings): Promise<void> {
  const duckdb = await import("@duckdb/node-api");
  const instance = await duckdb.DuckDBInstance.create(":memory:", {
    memory_limit: `${Math.floor(settings.memoryBytesMax / 1024 ** 2)}MiB`,
    threads: String(settings.threads),
    temp_directory: settings.temporaryDirectory,
    preserve_insertion_order: "false",
    // Segments are data, not programs: nothing is loaded, nothing is fetched.
    autoinstall_known_extensions: "false",
    autoload_known_extensions: "false",
  });
  const running = new Map<number, DuckDBConnection>();
  const send = (message: FromAnalyst) =>
    new Promise<void>((resolve) => process.send?.(message, () => resolve()));
  process.on("disconnect", () => process.exit(0));
  process.on("message", (message: ToAnalyst) => {
    if ("cancel" in message) return running.get(message.id)?.interrupt();
    void serve(duckdb, instance, running, message.id, message.task, send);
  });
}

async function serve(
  duckdb: Duckdb,
  instance: DuckDBInstance,
  running: Map<number, DuckDBConnection>,
  id: number,
  task: AnalystTask,
  send: (message: FromAnalyst) => Promise<void>,
): Promise<void> {
  const connection = await instance.connect();
  running.set(id, connection);
  try {
    switch (task.kind) {
      case "write":
        await send({ id, done: await writeJournal(duckdb, connection, task) });
        break;
      case "merge":
        await send({ id, done: await mergeFiles(connection, task) });
        break;
      case "query":
        await queryFiles(connection, task, (rows) => send({ id, rows }));
        await send({ id, done: undefined });
        break;
      default:
        task satisfies never;
    }
  } catch (thrown) {
    const { code, message } = toPlatformError(thrown);
    // The database says it in words only.
    const isMissing = /No files found|Cannot open file/i.test(message);
    await send({ id, failed: { code: isMissing ? "notFound" : code, message } });
  } finally {
    running.delete(id);
    connection.closeSync();
  }
}

const STAGED =
  "time_us bigint, seq bigint, level varchar, node varchar, service varchar, component varchar, application varchar, " +
  "version bigint, deployment varchar, replica_id varchar, request_id varchar, trace_id varchar, message varchar, fields varchar";
const STORED = COLUMNS.map((column) =>
  column === "time"
    ? 'make_timestamp(time_us) as "time"'
    : column === "version"
      ? "version::uinteger as version"
      : column,
).join(", ");

const copyTo = (path: string): string =>
  `to '${path.replaceAll("'", "''")}' (format parquet, compression zstd, row_group_size ${ROW_GROUP_ROWS})`;

async function writeJournal(
  duckdb: Duckdb,
  connection: DuckDBConnection,
  task: Extract<AnalystTask, { kind: "write" }>,
): Promise<WrittenFile[]> {
  await connection.run(`create temp table staged (${STAGED})`);
  await stage(duckdb, connection, rowsOfJournal(await readFile(task.journal), task.number));
  const partitions = await connection.runAndReadAll(
    `select (time_us // ${US_PER_HOUR})::double, application from staged group by all order by all`,
  );
  const written: WrittenFile[] = [];
  for (const [i, [hour, application]] of (partitions.getRows() as [number, string][]).entries()) {
    const path = `${task.prefix}${i}.parquet`;
    await connection.run(`create or replace temp view part as select * from staged
      where time_us // ${US_PER_HOUR} = ${hour} and application = '${application.replaceAll("'", "''")}'`);
    await connection.run(`copy (select ${STORED} from part order by time_us, seq) ${copyTo(path)}`);
    const place = { path, hour: (hour * US_PER_HOUR) / US_PER_MS, application };
    written.push({ ...place, ...(await statisticsOf(connection, "part", "time_us")) });
  }
  return written;
}

async function mergeFiles(
  connection: DuckDBConnection,
  task: Extract<AnalystTask, { kind: "merge" }>,
): Promise<FileStatistics> {
  await connection.run(`create temp view part as select * from ${readParquet(task.files)}`);
  await connection.run(`copy (select * from part order by "time", seq) ${copyTo(task.path)}`);
  return statisticsOf(connection, "part", `epoch_us("time")`);
}

async function statisticsOf(
  connection: DuckDBConnection,
  table: string,
  timeUs: string,
): Promise<FileStatistics> {
  const summary = await connection.runAndReadAll(
    `select count(*)::double, min(${timeUs})::double, max(${timeUs})::double from ${table}`,
  );
  const [rows, min, max] = summary.getRows()[0] as [number, number, number];
  const ids = await connection.runAndReadAll(
    `select distinct request_id from ${table} where request_id <> ''`,
  );
  const bloom = Bloom.of(ids.getRows().map(([id]) => id as string));
  return {
    rows,
    timeMin: Math.floor(min / US_PER_MS),
    timeMax: Math.ceil(max / US_PER_MS),
    requestIds: Buffer.from(bloom.bytes).toString("base64"),
  };
}

async function queryFiles(
  connection: DuckDBConnection,
  task: Extract<AnalystTask, { kind: "query" }>,
  give: (rows: Row[]) => Promise<void>,
): Promise<void> {
  const columns = COLUMNS.map((column) =>
    column === "time"
      ? `epoch_us("time")::double`
      : ["seq", "version"].includes(column)
        ? `${column}::double`
        : column,
  );
  const result = await connection.stream(
    `select ${columns.join(", ")} from ${readParquet(task.files)} where ${task.where}
     order by "time" desc, seq desc limit ${task.limit}`,
    task.parameters,
  );
  let page: Row[] = [];
  for (
    let chunk = await result.fetchChunk();
    chunk !== null && chunk.rowCount > 0;
    chunk = await result.fetchChunk()
  ) {
    for (const row of chunk.getRows() as Row[]) {
      page.push(row);
      if (page.length < PAGE_ROWS) continue;
      await give(page);
      page = [];
    }
  }
  if (page.length > 0) await give(page);
}

const readParquet = (files: readonly string[]): string =>
  `read_parquet([${files.map((file) => `'${file.replaceAll("'", "''")}'`).join(", ")}], union_by_name = true)`;

async function stage(duckdb: Duckdb, connection: DuckDBConnection, rows: Iterable<Row>): Promise<void> {
  const { BIGINT, VARCHAR, DuckDBDataChunk } = duckdb;
  const types = COLUMNS.map((column) => (["time", "seq", "version"].includes(column) ? BIGINT : VARCHAR));
  const appender = await connection.createAppender("staged");
  let columns: (string | bigint)[][] = types.map(() => []);
  const flush = () => {
    const count = columns[0]?.length ?? 0;
    if (count === 0) return;
    const chunk = DuckDBDataChunk.create(types, count);
    chunk.setColumns(columns);
    appender.appendDataChunk(chunk);
    columns = types.map(() => []);
  };
  for (const row of rows) {
    for (const [i, value] of row.entries())
      columns[i]?.push(typeof value === "number" ? BigInt(value) : value);
    if ((columns[0]?.length ?? 0) >= CHUNK_ROWS) flush();
  }
  flush();
  appender.closeSync();
}

function* rowsOfJournal(bytes: Buffer, number: number): Generator<Row> {
  let index = 0;
  for (const { payload } of framesOf(bytes)) {
    const { nodeId, lines } = fromBinary(LogBatchSchema, payload);
    for (const line of lines) yield rowOf(line, nodeId, number * SEQ_PER_JOURNAL + index++);
  }
}

function rowOf(line: LogLine, nodeId: string, seq: number): Row {
  const { service, component, application, version, deployment, replicaId, requestId, traceId, message } =
    line;
  const timeUs = (line.at === undefined ? 0 : timestampMs(line.at)) * US_PER_MS;
  const names = [nodeId, service, component, application] as const;
  return [
    timeUs,
    seq,
    LEVEL_NAMES[line.level] ?? "",
    ...names,
    version,
    deployment,
    replicaId,
    requestId,
    traceId,
    message,
    line.fieldsJson,
  ];
}
