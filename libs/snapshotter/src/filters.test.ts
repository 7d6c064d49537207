import { describe, expect, test } from "vitest";
import { parseFilters } from "./filters.ts";

const thing: Record<string, string> = {
  kind: "active",
  name: "default/3/a b",
  parent: "",
  "labels.containerd.io/snapshot.ref": "sha256:12ab",
  "labels.l": "2",
};
const matches = (...filters: string[]) => parseFilters(filters)((path) => thing[path.join(".")]);

describe("filters", () => {
  test("without filters everything matches, also with an empty one", () => {
    expect(matches()).toBe(true);
    expect(matches("")).toBe(true);
  });
  test.each([
    ['labels."containerd.io/snapshot.ref"==sha256:12ab,parent==""', true],
    ['labels."containerd.io/snapshot.ref"==sha256:12ab,parent=="x"', false],
    ["kind==active", true],
    ["kind == active , labels.l", true],
    ["labels.l==2,kind==view", false],
    ["labels.unknown", false],
    ["labels.unknown==x", false],
    ["labels.unknown!=x", true],
    ['parent!=""', false],
    ['name=="default/3/a b"', true],
    ['name=="default\\x2f3\\u002fa\\040b"', true],
    ["labels.l~=^[0-9]$", true],
    ["name~=/^default\\/[0-9]/", true],
    ["name~=|view|", false],
  ])("%s is %s", (filter, expected) => {
    expect(matches(filter)).toBe(expected);
  });
  test("one of several is enough", () => {
    expect(matches("kind==view", "labels.l==2")).toBe(true);
    expect(matches("kind==view", "labels.l==3")).toBe(false);
  });
  test.each(["==x", "kind==", "kind=x", "kind==active active", "name~=(", 'name=="open', "a..b"])(
    "%s is refused",
    (filter) => {
      expect(() => matches(filter)).toThrow(expect.objectContaining({ code: "invalidArgument" }));
    },
  );
});
