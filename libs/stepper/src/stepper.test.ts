import { expect, test } from "vitest";
import { createStepper } from "./index.ts";

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

test("the first happening steps at once, those right after it count together", async () => {
  const steps: string[] = [];
  const stepper = createStepper({
    coalesceMs: 40,
    step: async (key) => {
      steps.push(key);
      return null;
    },
  });
  stepper.poke("a");
  await expect.poll(() => steps).toEqual(["a"]);
  for (let i = 0; i < 10; i++) stepper.poke("a");
  await expect.poll(() => steps).toEqual(["a", "a"]);
  await pause(100);
  expect(steps).toEqual(["a", "a"]);
  await stepper.close();
});

test("what happens during a step is stepped afterwards", async () => {
  let steps = 0;
  const stepper = createStepper({
    coalesceMs: 0,
    step: async () => {
      steps++;
      if (steps === 1) stepper.poke("a");
      await pause(5);
      return null;
    },
  });
  stepper.poke("a");
  await expect.poll(() => steps).toBe(2);
  await pause(30);
  expect(steps).toBe(2);
  await stepper.close();
});

test("a step is woken when it asked for it, and never two at a time", async () => {
  let active = 0;
  let most = 0;
  const steps: string[] = [];
  const stepper = createStepper({
    coalesceMs: 0,
    step: async (key) => {
      most = Math.max(most, ++active);
      await pause(2);
      active--;
      steps.push(key);
      return steps.filter((one) => one === key).length < 3 ? Date.now() + 5 : null;
    },
  });
  for (const key of ["a", "b", "c"]) stepper.poke(key);
  await expect.poll(() => steps.toSorted().join("")).toBe("aaabbbccc");
  expect(most).toBe(1);
  await stepper.close();
});

test("a step that failed is tried again, and does not hold up others", async () => {
  const steps: string[] = [];
  const stepper = createStepper({
    coalesceMs: 0,
    step: async (key) => {
      steps.push(key);
      if (key === "bad" && steps.filter((one) => one === "bad").length < 2) throw new Error("no");
      return null;
    },
  });
  stepper.poke("bad");
  stepper.poke("good");
  await expect.poll(() => steps).toEqual(["bad", "good", "bad"]);
  await stepper.close();
});

test("nothing is stepped after the end", async () => {
  let steps = 0;
  const stepper = createStepper({
    coalesceMs: 0,
    step: async () => {
      steps++;
      return Date.now() + 5;
    },
  });
  stepper.poke("a");
  await expect.poll(() => steps).toBeGreaterThan(0);
  await stepper.close();
  const before = steps;
  await pause(30);
  expect(steps).toBe(before);
});
