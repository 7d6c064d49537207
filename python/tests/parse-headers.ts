// Safetensors files as hex, one a line on standard input; what the platform's parser says of each as a line of JSON: tensors by
// name, or null for a refusal. For the comparison with the reference library.
import { createInterface } from "node:readline";
import { LENGTH_BYTES, parseHeader, parseHeaderLength } from "../../libs/safetensors/src/index.ts";

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(verdict(Buffer.from(line, "hex")))}\n`);
}

function verdict(file: Buffer): Record<string, [string, number[], number]> | null {
  try {
    const end = LENGTH_BYTES + parseHeaderLength(file, file.byteLength);
    const { tensors } = parseHeader(file.subarray(LENGTH_BYTES, end), file.byteLength);
    return Object.fromEntries(
      tensors.map(({ name, dtype, shape, length }) => [name, [dtype, shape, length]]),
    );
  } catch {
    return null;
  }
}
