// The baseline's program in its container, after the download: the same engine as on the other side takes the repository's files
// from the disk, tensor by tensor and rank by rank, and gives one token. Arguments: the folder, the number of ranks of its
// tensor-parallel group. Prints marks as lines of JSON.
import { open, readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { createEngine } from "@pilotlight/engine";
import {
  decoderSplit,
  LENGTH_BYTES,
  parseHeader,
  parseHeaderLength,
  type Split,
  sliceForRank,
  type TensorEntry,
} from "@pilotlight/safetensors";
import { ENGINE, PROMPT } from "./request.ts";

const [folder = "", ranksText = "1"] = process.argv.slice(2);
const ranks = Number(ranksText);
const mark = (what: string, more: object = {}) =>
  process.stdout.write(`${JSON.stringify({ mark: what, at: Date.now(), ...more })}\n`);

async function tensorsOf(path: string): Promise<TensorEntry[]> {
  const { size } = await stat(path);
  await using file = await open(path);
  const first = Buffer.alloc(LENGTH_BYTES);
  await file.read(first, 0, LENGTH_BYTES, 0);
  const header = Buffer.alloc(parseHeaderLength(first, size));
  await file.read(header, 0, header.length, LENGTH_BYTES);
  return parseHeader(header, size).tensors;
}

mark("process up");
const text = (name: string) => readFile(join(folder, name), "utf8");
const configJson = await text("config.json");
const config = JSON.parse(configJson) as { num_attention_heads: number; num_key_value_heads: number };
const heads = { attentionHeads: config.num_attention_heads, keyValueHeads: config.num_key_value_heads };
const splitOf = (name: string): Split => (ranks > 1 ? decoderSplit(name, heads) : { kind: "replicate" });

const engine = await createEngine({
  ...ENGINE,
  tensorParallel: ranks,
  configJson,
  tokenizerJson: await text("tokenizer.json"),
  tokenizerConfigJson: await text("tokenizer_config.json"),
});
for (const name of (await readdir(folder)).filter((file) => file.endsWith(".safetensors"))) {
  const path = join(folder, name);
  for (const tensor of await tensorsOf(path)) {
    for (let rank = 0; rank < ranks; rank++)
      await engine.pushMapped({ ...sliceForRank(tensor, splitOf(tensor.name), { rank, ranks }), rank, path });
  }
}
await engine.ready;
mark("engine ready");
const request = { promptTokenIds: PROMPT, maxTokens: 1, temperature: 0, ignoreEos: true, logprobs: 1 };
for await (const { logprobs } of engine.generate(request)) {
  const [token] = logprobs ?? [];
  if (token !== undefined) mark("first token", { logprob: token.logprob });
}
await engine.close();
process.exit(0);
