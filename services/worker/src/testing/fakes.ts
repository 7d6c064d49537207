// The other sides for tests: a node agent that notes reports and can tell to drain, and a weight streamer that serves
// generated repositories from a folder. Both can go away and come back on the same address.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import {
  type AttachWorkerRequest,
  NodeAgentService,
  timestampFromMs,
  WeightStreamerService,
} from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import {
  type Architecture,
  type GenerateOptions,
  generateModel,
  type RepositoryFile,
} from "@pilotlight/models";
import {
  decoderSplit,
  LENGTH_BYTES,
  parseHeader,
  parseHeaderLength,
  type Rank,
  type Split,
  sliceForRank,
  type TensorEntry,
} from "@pilotlight/safetensors";
import { type GrpcDoor, grpcService, serveGrpc } from "@pilotlight/service";

const WEIGHTS = "model.safetensors";

/** Writes a tiny model's repository into a folder. */
export async function writeTinyModel(
  directory: string,
  architecture: Architecture,
  shape: NonNullable<GenerateOptions["shape"]> = {},
): Promise<void> {
  const files = generateModel({ architecture, preset: "tiny", seed: 7, shape });
  for (const file of files) await writeFileOf(directory, file);
}

async function writeFileOf(directory: string, file: RepositoryFile): Promise<void> {
  const parts: Uint8Array[] = [];
  for await (const part of file.open()) parts.push(part);
  const path = join(directory, file.name);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, Buffer.concat(parts));
}

type Restartable = {
  readonly address: string;
  /** Cuts every connection. */
  down(): Promise<void>;
  /** Listens on the same address again. */
  up(): Promise<void>;
};

async function restartable(service: Parameters<typeof serveGrpc>[1][number]): Promise<Restartable> {
  let door: GrpcDoor = await serveGrpc("127.0.0.1:0", [service]);
  const { address } = door;
  return {
    address,
    down: () => door.close(0),
    async up() {
      door = await serveGrpc(address, [service]);
    },
  };
}

export type FakeNodeAgent = Restartable & {
  /** Every report, oldest first. */
  readonly reports: AttachWorkerRequest[];
  /** Streams that were opened so far. */
  readonly attached: number;
  /** Tells the replica at this endpoint to drain. */
  drain(endpoint: string, deadlineAt: number): void;
};

export async function startFakeNodeAgent(token: string): Promise<FakeNodeAgent> {
  const reports: AttachWorkerRequest[] = [];
  /** By endpoint. */
  const commands = new Map<string, (deadlineAt: number) => void>();
  let attached = 0;
  const service = grpcService(NodeAgentService, {
    async *attachWorker(requests, call) {
      attached++;
      const ended = Promise.withResolvers<null>();
      const told = Promise.withResolvers<number>();
      call.signal.addEventListener("abort", () => ended.resolve(null));
      const reading = (async () => {
        for await (const request of requests) {
          if (request.token !== token) throw new PlatformError("unauthenticated", "a stranger");
          reports.push(request);
          commands.set(request.endpoint, told.resolve);
        }
      })();
      reading.then(() => ended.resolve(null), ended.reject);
      const deadlineAt = await Promise.race([told.promise, ended.promise]);
      if (deadlineAt !== null) {
        yield { command: { case: "drain", value: { deadline: timestampFromMs(deadlineAt) } } };
        await ended.promise;
      }
    },
    listReplicas: async () => ({ replicas: [] }),
  });
  const door = await restartable(service);
  return {
    ...door,
    reports,
    get attached() {
      return attached;
    },
    drain(endpoint, deadlineAt) {
      commands.get(endpoint)?.(deadlineAt);
    },
  };
}

export type FakeStreamer = Restartable & {
  /** Streams that are open. */
  readonly leases: number;
  /** How many streams were opened. */
  readonly opened: number;
  /** The next stream is cut after so many tensors. */
  breakAfter(tensors: number): void;
  /** Streams of this rank get no weights. */
  refuseRank(rank: number | null): void;
};

/** Serves `directory/<source>` for `file` sources that are bare names, whole or sliced for the rank that asks. */
export async function startFakeStreamer(directory: string): Promise<FakeStreamer> {
  const counts = { leases: 0, opened: 0 };
  let breakAfter: number | null = null;
  let refusedRank: number | null = null;
  const service = grpcService(WeightStreamerService, {
    async *loadWeights({ source, rank, ranks }, call) {
      counts.leases++;
      counts.opened++;
      try {
        const whole = await tensorsOf(join(directory, source)).catch((cause: unknown) => {
          throw new PlatformError("notFound", `there is no repository ${source}`, { cause });
        });
        const files = await filesOf(join(directory, source));
        const tensors = slicesOf(whole, files, { rank, ranks });
        yield { event: { case: "opened", value: { files } } };
        if (rank === refusedRank) throw new PlatformError("corrupt", "a checksum differs");
        for (const [index, value] of tensors.entries()) {
          if (breakAfter !== null && index >= breakAfter) {
            breakAfter = null;
            throw new PlatformError("unavailable", "the streamer was killed");
          }
          yield { event: { case: "tensor", value } };
        }
        yield { event: { case: "complete", value: { bytesFetched: 0n, durationMs: 1 } } };
        await new Promise((resolve) => call.signal.addEventListener("abort", resolve));
      } finally {
        counts.leases--;
      }
    },
    listWeights: async () => ({}),
  });
  const door = await restartable(service);
  return {
    ...door,
    get leases() {
      return counts.leases;
    },
    get opened() {
      return counts.opened;
    },
    breakAfter(tensors) {
      breakAfter = tensors;
    },
    refuseRank(rank) {
      refusedRank = rank;
    },
  };
}

type FileTensor = TensorEntry & { path: string };

async function tensorsOf(repository: string): Promise<FileTensor[]> {
  const path = join(repository, WEIGHTS);
  const bytes = await readFile(path);
  const start = LENGTH_BYTES + parseHeaderLength(bytes.subarray(0, LENGTH_BYTES), bytes.length);
  const { tensors } = parseHeader(bytes.subarray(LENGTH_BYTES, start), bytes.length);
  return tensors.map((tensor) => ({ ...tensor, path }));
}

/** As the streamer announces them. */
function slicesOf(tensors: FileTensor[], files: Record<string, Uint8Array>, { rank, ranks }: Rank) {
  const config = JSON.parse(Buffer.from(files["config.json"] ?? []).toString()) as Record<string, number>;
  const heads = {
    attentionHeads: config.num_attention_heads ?? 0,
    keyValueHeads: config.num_key_value_heads ?? 0,
  };
  return tensors.map((tensor) => {
    const split: Split = ranks > 1 ? decoderSplit(tensor.name, heads) : { kind: "replicate" };
    const slice = sliceForRank(tensor, split, { rank, ranks: Math.max(1, ranks) });
    return {
      ...slice,
      path: tensor.path,
      shape: slice.shape.map(BigInt),
      offset: BigInt(slice.offset),
      length: BigInt(slice.length),
      runBytes: BigInt(slice.runBytes),
      strideBytes: BigInt(slice.strideBytes),
      runs: BigInt(slice.runs),
    };
  });
}

async function filesOf(repository: string): Promise<Record<string, Uint8Array>> {
  const files: Record<string, Uint8Array> = {};
  for (const name of ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]) {
    const bytes = await readFile(join(repository, name)).catch(() => null);
    if (bytes !== null) files[name] = bytes;
  }
  return files;
}
