import { once } from "node:events";
import type { ImageToMount } from "@pilotlight/compute";
import type { ImageConverterService } from "@pilotlight/contracts";
import { type ErrorCode, PlatformError } from "@pilotlight/errors";
import type { GrpcClient } from "@pilotlight/service";
import { describe, expect, test } from "vitest";
import { ensureImage, type Pull } from "./image-converter.ts";

type Converter = GrpcClient<typeof ImageConverterService>;
type Answer = (signal: AbortSignal) => AsyncGenerator<unknown>;

const DIGEST = `sha256:${"a".repeat(64)}`;
const resolving = { event: { case: "progressed", value: { manifestDigest: "" } } };
const resolved = { event: { case: "progressed", value: { manifestDigest: DIGEST } } };
const ready = { event: { case: "ready", value: { imageId: "converted", manifestDigest: DIGEST } } };
const pulledImage: ImageToMount = {
  reference: "app",
  imageId: "pulled",
  manifestDigest: DIGEST,
  pulled: true,
};

const converter = (answer: Answer) =>
  ({
    ensureImage: (_: unknown, { signal }: { signal: AbortSignal }) => answer(signal),
  }) as unknown as Converter;
const never = (signal: AbortSignal) => once(signal, "abort").then(() => Promise.reject(signal.reason));
const ensure = (answer: Answer, pull: Pull | undefined) =>
  ensureImage(converter(answer), "app", pull, new AbortController().signal);

describe("an image that the converter has", () => {
  test("is not pulled", async () => {
    let pulls = 0;
    const found = await ensure(
      async function* () {
        yield resolving;
        yield ready;
      },
      async () => {
        pulls++;
        return pulledImage;
      },
    );
    expect(found.imageId).toBe("converted");
    expect(pulls).toBe(0);
  });
});

describe("an image that is seen for the first time", () => {
  test("is taken from the node's own pull if that is faster; the question to the converter ends", async () => {
    let ended = false;
    const found = await ensure(
      async function* (signal) {
        signal.addEventListener("abort", () => {
          ended = true;
        });
        yield resolved;
        await never(signal);
      },
      async (_, digest) => ({ ...pulledImage, manifestDigest: digest }),
    );
    expect(found).toEqual(pulledImage);
    expect(ended).toBe(true);
  });

  test("is taken from the bucket if the converter is faster; the pull ends", async () => {
    const stopped: boolean[] = [];
    const found = await ensure(
      async function* () {
        yield resolved;
        yield ready;
      },
      async (_, __, signal) => {
        await never(signal).catch(() => stopped.push(true));
        throw new PlatformError("cancelled", "not needed");
      },
    );
    expect(found.imageId).toBe("converted");
    await expect.poll(() => stopped).toEqual([true]);
  });

  test("comes from the converter if the pull fails", async () => {
    const { promise: failed, resolve } = Promise.withResolvers<void>();
    const found = await ensure(
      async function* () {
        yield resolved;
        await failed;
        yield ready;
      },
      async () => {
        resolve();
        throw new PlatformError("unauthenticated", "no credentials");
      },
    );
    expect(found.imageId).toBe("converted");
  });

  const failing = (code: ErrorCode): Answer =>
    async function* () {
      yield resolved;
      throw new PlatformError(code, "the converter's reason");
    };

  test.each<ErrorCode>(["unavailable", "resourceExhausted"])(
    "comes from the pull if the converter fails with %s",
    async (code) => {
      expect(await ensure(failing(code), async () => pulledImage)).toEqual(pulledImage);
    },
  );

  test("is not started against the converter's policy", async () => {
    const pull = ensure(failing("permissionDenied"), async (_, __, signal) => never(signal));
    await expect(pull).rejects.toMatchObject({ code: "permissionDenied" });
  });

  test("fails with the converter's reason if both ways fail", async () => {
    const both = ensure(failing("corrupt"), async () => {
      throw new PlatformError("unavailable", "the pull's reason");
    });
    await expect(both).rejects.toMatchObject({ code: "corrupt" });
  });
});
