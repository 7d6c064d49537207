import { type BoundsSet, BoundsSetSchema, create } from "@pilotlight/contracts";
import { expect, test } from "vitest";
import { cacheSpecificationsOfVersions, digestsInUse, imagesOfVersions } from "./images-in-use.ts";

const HOUR_MS = 3_600_000;
const bounds = (...images: string[]) =>
  ({ versions: [{ spec: { deployments: images.map((image) => ({ image })) } }] }) as unknown as BoundsSet;
const use = (image: string, hoursAgo: number) => ({
  image,
  manifestDigest: `digest of ${image}`,
  askedAt: -hoursAgo * HOUR_MS,
});

test("images of versions stay however long ago they were asked for; others for the grace period", () => {
  const uses = [use("served", 1_000), use("rolled back", 1), use("forgotten", 3)];
  const ofVersions = imagesOfVersions([bounds("served")], "");
  expect(digestsInUse(uses, ofVersions, 0, 2 * HOUR_MS)).toEqual(
    new Set(["digest of served", "digest of rolled back"]),
  );
});

test("the platform's own worker stays, whatever versions call it", () => {
  expect(imagesOfVersions([bounds("pilotlight://worker", "", "own")], "oci:///worker")).toEqual(
    new Set(["oci:///worker", "own"]),
  );
  expect(imagesOfVersions([], "oci:///worker")).toEqual(new Set(["oci:///worker"]));
});

test("compile caches of versions that keep some are known by what these say of them", () => {
  const version = (name: string, variables: string[]) => ({
    version: 1,
    spec: { deployments: [{ name, compileCache: { variables } }] },
  });
  const said = create(BoundsSetSchema, {
    application: "app",
    versions: [version("one", ["A"]), version("same", []), version("one", ["A"]), version("two", ["A"])],
  });
  expect(cacheSpecificationsOfVersions([said]).size).toBe(2);
  expect(cacheSpecificationsOfVersions([said, { ...said, application: "other" }]).size).toBe(4);
});
