// A repository cut into other shards: the same tensors in the same order, in files of another size. Bytes are streamed from
// where they lie, pinned by ETag, into the new files; nothing is held but what passes. Done when a model is added, never when
// it is started.
import { PlatformError } from "@pilotlight/errors";
import type { RepositoryFile } from "@pilotlight/models";
import type { ObjectStore } from "@pilotlight/object-store";
import {
  formatIndex,
  INDEX_FILE,
  layoutFile,
  SINGLE_FILE,
  shardName,
  type TensorEntry,
} from "@pilotlight/safetensors";
import type { Repository, WeightFile } from "./repository.ts";

type Placed = { tensor: TensorEntry; from: WeightFile };

/**
 * The files of the new repository: shards of at most about this size (a larger tensor gets a file of its own), their index, and
 * the small files as they are. Throws invalidArgument for a size below one byte.
 */
export function reshard(store: ObjectStore, repository: Repository, shardBytesMax: number): RepositoryFile[] {
  if (!(shardBytesMax >= 1)) {
    throw new PlatformError("invalidArgument", "a shard has at least one byte", { field: "shardBytesMax" });
  }
  const tensors = repository.weights.flatMap((from) =>
    from.header.tensors.map((tensor): Placed => ({ tensor, from })),
  );
  const shards = cut(tensors, shardBytesMax);
  const metadata = Object.fromEntries(repository.weights[0]?.header.metadata ?? []);
  const files = shards.map((placed, i) => {
    const name = shards.length === 1 ? SINGLE_FILE : shardName(i + 1, shards.length);
    return shardFile(store, name, placed, metadata);
  });
  const index = Buffer.from(formatIndex(new Map(files.map((file) => [file.name, file.tensors]))));
  const small = [...repository.files].map(([name, bytes]) => bytesFile(name, bytes));
  return [
    ...small,
    ...files.map(({ name, bytes, open }) => ({ name, bytes, open })),
    ...(files.length > 1 ? [bytesFile(INDEX_FILE, index)] : []),
  ];
}

function cut(tensors: readonly Placed[], bytesMax: number): Placed[][] {
  const shards: Placed[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const placed of tensors) {
    if (bytes + placed.tensor.length > bytesMax) {
      shards.push([]);
      bytes = 0;
    }
    shards.at(-1)?.push(placed);
    bytes += placed.tensor.length;
  }
  return shards;
}

function shardFile(store: ObjectStore, name: string, placed: Placed[], metadata: Record<string, string>) {
  const origin = new Map(placed.map(({ tensor, from }) => [tensor.name, { tensor, from }]));
  const layout = layoutFile(
    placed.map(({ tensor: { name, dtype, shape } }) => ({ name, dtype, shape })),
    metadata,
  );
  const open = async function* (): AsyncGenerator<Uint8Array> {
    yield layout.head;
    for (const { name } of layout.tensors) {
      const { tensor, from } = origin.get(name) as Placed;
      if (tensor.length === 0) continue;
      const range = { offset: tensor.offset, length: tensor.length };
      yield* (await store.stream(from.key, { range, ifMatch: from.etag })).body;
    }
  };
  return { name, bytes: layout.fileBytes, open, tensors: layout.tensors };
}

const bytesFile = (name: string, bytes: Uint8Array): RepositoryFile => ({
  name,
  bytes: bytes.byteLength,
  open: async function* () {
    yield bytes;
  },
});
