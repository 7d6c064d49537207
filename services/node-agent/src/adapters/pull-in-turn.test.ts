import { expect, test } from "vitest";
import { pullInTurn } from "./pull-in-turn.ts";

const image = { reference: "r", manifestDigest: "sha256:1", imageId: "i" };

function node(mine: boolean, patienceMs: number) {
  const happened: string[] = [];
  const pull = pullInTurn(
    async () => ({ mine, end: () => happened.push("ended") }),
    async () => {
      happened.push("pulled");
      return image;
    },
    patienceMs,
  );
  return { happened, pull };
}

test("the node whose turn it is pulls", async () => {
  const { happened, pull } = node(true, 1e9);
  expect(await pull("r", "sha256:1", new AbortController().signal)).toBe(image);
  expect(happened).toEqual(["pulled", "ended"]);
});

test("another one waits, and does not read the registry when the image comes otherwise", async () => {
  const { happened, pull } = node(false, 1e9);
  const came = new AbortController();
  const pulling = pull("r", "sha256:1", came.signal);
  came.abort();
  await expect(pulling).rejects.toThrow();
  expect(happened).toEqual(["ended"]);
});

test("nobody waits for ever", async () => {
  const { happened, pull } = node(false, 1);
  await pull("r", "sha256:1", new AbortController().signal);
  expect(happened).toEqual(["pulled", "ended"]);
});
