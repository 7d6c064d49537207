// Embeddings in the OpenAI API's form.
import type { Engine } from "@pilotlight/engine";
import { PlatformError } from "@pilotlight/errors";
import type { EmbeddingsRequest } from "@pilotlight/openai";
import type { Answer, EngineCall } from "../../engine.ts";

type Input = string | readonly number[];

/** Embeds the inputs of a request. Throws `invalidArgument` for dimensions that the model does not have. */
export async function embeddings(
  engine: Engine,
  request: EmbeddingsRequest,
  call: EngineCall,
  modelName: string,
): Promise<Answer> {
  const { dimensions } = engine.model;
  if (request.dimensions !== undefined && request.dimensions !== dimensions) {
    throw new PlatformError(
      "invalidArgument",
      `this model's embeddings have ${dimensions} dimensions, no others`,
      {
        field: "dimensions",
        remedy: `Leave it out, or ask for ${dimensions}.`,
      },
    );
  }
  const inputs = inputsOf(request.input);
  const { requestId, signal } = call;
  const [vectors, counts] = await Promise.all([
    engine.embed(inputs, { requestId, signal }),
    Promise.all(inputs.map((input) => tokensOf(engine, input))),
  ]);
  const isBase64 = request.encoding_format === "base64";
  const tokens = counts.reduce((sum, count) => sum + count, 0);
  const body = {
    object: "list",
    model: modelName,
    data: vectors.map((vector, index) => ({
      object: "embedding",
      index,
      embedding: isBase64 ? toBase64(vector) : [...vector],
    })),
    usage: { prompt_tokens: tokens, total_tokens: tokens },
  };
  return { kind: "whole", status: 200, contentType: "application/json", body: JSON.stringify(body) };
}

function inputsOf(input: EmbeddingsRequest["input"]): readonly Input[] {
  if (typeof input === "string") return [input];
  return typeof input[0] === "number" ? [input as number[]] : (input as readonly Input[]);
}

const tokensOf = async (engine: Engine, input: Input): Promise<number> =>
  typeof input === "string" ? (await engine.tokenize(input)).length : input.length;

/** Little-endian f32, which is what every machine this runs on has in memory. */
const toBase64 = (vector: Float32Array): string =>
  Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString("base64");
