import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { WithdrawnModels } from "../domain/withdrawn-models.ts";
import { Assignments } from "../store/assignments.ts";
import { createAdmission } from "./admission.ts";

const withdrawn = new WithdrawnModels();
const never = new AbortController().signal;
let folder: string;
let assignments: Assignments;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "pilotlight-admission-"));
  assignments = new Assignments(join(folder, "state/assignments.db"));
  assignments.assigned("r1", "s3://models/a");
});
afterEach(async () => {
  assignments.close();
  await rm(folder, { recursive: true });
});

describe.each([true, false])("with strangers allowed: %s", (strangersAllowed) => {
  const admission = () => createAdmission({ assignments, withdrawn, strangersAllowed, orderWaitMs: 200 });

  test("a replica may load its own weights only", async () => {
    await admission()("r1", "s3://models/a", never);
    await expect(admission()("r1", "s3://models/b", never)).rejects.toMatchObject({
      code: "permissionDenied",
      field: "source",
    });
  });
  test("the latest order counts", async () => {
    assignments.assigned("r1", "s3://models/b");
    await admission()("r1", "s3://models/b", never);
  });
});

test("strangers load where they may, and are refused by name where they may not", async () => {
  const options = { assignments, withdrawn, orderWaitMs: 100 };
  await createAdmission({ ...options, strangersAllowed: true })("tool", "s3://models/b", never);
  await expect(
    createAdmission({ ...options, strangersAllowed: false })("tool", "s3://models/b", never),
  ).rejects.toMatchObject({ code: "permissionDenied", message: expect.stringContaining("tool") });
});

test("an order that comes after the question is waited for", async () => {
  const asked = createAdmission({ assignments, withdrawn, strangersAllowed: false, orderWaitMs: 10_000 })(
    "late",
    "s3://models/c",
    never,
  );
  assignments.assigned("late", "s3://models/c");
  await asked;
});

test("what was written down is known to the next process", () => {
  assignments.close();
  assignments = new Assignments(join(folder, "state/assignments.db"));
  expect(assignments.sourceOf("r1")).toBe("s3://models/a");
  expect(assignments.sourceOf("r2")).toBeUndefined();
});
