// What we accept and what we answer, held against the official client's own types: a mismatch does not compile.
import type OpenAI from "openai";
import { expectTypeOf, test } from "vitest";
import type * as z from "zod";
import type {
  ChatCompletion,
  ChatCompletionChunk,
  Completion,
  chatCompletionRequest,
  completionRequest,
  EmbeddingList,
  ErrorBody,
  embeddingsRequest,
  ModelEntry,
  Usage,
} from "./index.ts";

/** An interface as a plain type: only those may be assigned to a type with an index signature. */
type Plain<T> = T extends string
  ? string extends T
    ? string
    : T extends `${infer Literal}`
      ? Literal
      : string
  : T extends (infer Item)[]
    ? Plain<Item>[]
    : T extends object
      ? { [K in keyof T]: Plain<T[K]> }
      : T;
type Fits<T, Target> = [T] extends [Target] ? true : false;
/** `prompt: null` is legal for hosted models that start from nothing; here it is refused, with the field's name. */
type WithPrompt = Omit<OpenAI.CompletionCreateParams, "prompt"> & {
  prompt: NonNullable<OpenAI.CompletionCreateParams["prompt"]>;
};

test("whatever the official client can send is accepted", () => {
  expectTypeOf<
    Fits<Plain<OpenAI.ChatCompletionCreateParams>, z.input<typeof chatCompletionRequest>>
  >().toEqualTypeOf<true>();
  expectTypeOf<
    Fits<Plain<OpenAI.EmbeddingCreateParams>, z.input<typeof embeddingsRequest>>
  >().toEqualTypeOf<true>();
  expectTypeOf<Fits<Plain<WithPrompt>, z.input<typeof completionRequest>>>().toEqualTypeOf<true>();
});

test("whatever we answer is what the official client expects", () => {
  expectTypeOf<Fits<ChatCompletion, OpenAI.ChatCompletion>>().toEqualTypeOf<true>();
  expectTypeOf<Fits<ChatCompletionChunk, OpenAI.ChatCompletionChunk>>().toEqualTypeOf<true>();
  expectTypeOf<Fits<Completion, OpenAI.Completion>>().toEqualTypeOf<true>();
  expectTypeOf<Fits<Usage, OpenAI.CompletionUsage>>().toEqualTypeOf<true>();
  expectTypeOf<Fits<ModelEntry, OpenAI.Model>>().toEqualTypeOf<true>();
  expectTypeOf<Fits<ErrorBody["error"], OpenAI.ErrorObject>>().toEqualTypeOf<true>();
  // The client's own type leaves out that `encoding_format: base64` answers with text.
  type Numbers = Extract<EmbeddingList["data"][number]["embedding"], number[]>;
  expectTypeOf<Numbers>().toEqualTypeOf<OpenAI.Embedding["embedding"]>();
  expectTypeOf<Fits<EmbeddingList["usage"], OpenAI.CreateEmbeddingResponse["usage"]>>().toEqualTypeOf<true>();
});
