import type { BoundsSet } from "@pilotlight/contracts";
import { expect, test } from "vitest";
import { digestsInUse, imagesOfVersions } from "./images-in-use.ts";

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
