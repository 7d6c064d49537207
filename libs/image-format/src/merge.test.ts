import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { LayerMerger, walk } from "./merge.ts";
import { fuzzRuns } from "./testing/fuzz-runs.ts";
import { scanTar } from "./testing/image.ts";
import { type TestEntry, tar } from "./testing/tar.ts";

/** "path kind [detail]" of every name, the root left out; hard links of one inode share a #number. */
function merged(...layers: TestEntry[][]): string[] {
  const merger = new LayerMerger();
  for (const layer of layers) merger.apply(scanTar(tar(layer)).record.entries);
  const inodes = new Map<object, number>();
  return [...walk(merger.root)].slice(1).map(({ path, inode }) => {
    const names = inodes.size;
    if (!inodes.has(inode)) inodes.set(inode, names);
    const detail =
      inode.kind === "symlink" ? ` -> ${inode.linkTarget}` : inode.kind === "file" ? ` ${inode.size}` : "";
    return `${path} ${inode.kind}${detail}`;
  });
}

const dir = (name: string, extra: Partial<TestEntry> = {}): TestEntry => ({
  name: `${name}/`,
  type: "5",
  mode: 0o755,
  ...extra,
});
const file = (name: string, content = "x", extra: Partial<TestEntry> = {}): TestEntry => ({
  name,
  content,
  ...extra,
});
const link = (name: string, target: string): TestEntry => ({ name, type: "2", link: target });
const hard = (name: string, target: string): TestEntry => ({ name, type: "1", link: target });

describe("merging", () => {
  const cases: Array<[string, TestEntry[][], string[]]> = [
    ["a whiteout removes a file of a lower layer", [[file("a"), file("b")], [file(".wh.a")]], ["b file 1"]],
    [
      "a whiteout removes a whole directory",
      [[dir("d"), file("d/x"), file("k")], [file(".wh.d")]],
      ["k file 1"],
    ],
    [
      "a whiteout leaves what its own layer adds, whatever the order",
      [[file("a", "old!")], [file("a", "new"), file(".wh.a")]],
      ["a file 3"],
    ],
    [
      "a removed directory comes back without its old children",
      [
        [dir("d"), file("d/old")],
        [file(".wh.d"), dir("d"), file("d/new")],
      ],
      ["d directory", "d/new file 1"],
    ],
    [
      "an opaque mark hides lower children only",
      [
        [dir("d"), file("d/old")],
        [file("d/new"), file("d/.wh..wh..opq")],
      ],
      ["d directory", "d/new file 1"],
    ],
    [
      "a whiteout of nothing is nothing",
      [[file("a")], [file(".wh.b"), file("x/.wh.y")]],
      ["a file 1", "x directory"],
    ],
    [
      "other aufs names carry nothing",
      [[file("a")], [file(".wh..wh.plnk"), file(".wh..wh.aufs")]],
      ["a file 1"],
    ],
    [
      "a file replaces a directory and its subtree",
      [[dir("d"), file("d/x")], [file("d", "now")]],
      ["d file 3"],
    ],
    ["a directory replaces a file", [[file("d")], [dir("d"), file("d/x")]], ["d directory", "d/x file 1"]],
    [
      "a path below a lower file replaces the file",
      [[file("d")], [file("d/x")]],
      ["d directory", "d/x file 1"],
    ],
    ["missing parents are made", [[file("a/b/c")]], ["a directory", "a/b directory", "a/b/c file 1"]],
    ["a later entry of the same archive wins", [[file("a", "one"), file("a", "four")]], ["a file 4"]],
    [
      "a symlink of the same layer is followed",
      [[dir("usr"), dir("usr/lib"), link("lib", "usr/lib"), file("lib/x")]],
      ["lib symlink -> usr/lib", "usr directory", "usr/lib directory", "usr/lib/x file 1"],
    ],
    [
      "a symlink of a lower layer is replaced by a directory",
      [[dir("usr"), dir("usr/lib"), link("lib", "usr/lib")], [file("lib/x")]],
      ["lib directory", "lib/x file 1", "usr directory", "usr/lib directory"],
    ],
    [
      "a symlink that climbs is clamped to the root",
      [[link("up", "../../../etc"), dir("etc"), file("up/x")]],
      ["etc directory", "etc/x file 1", "up symlink -> ../../../etc"],
    ],
    [
      "an absolute symlink means the image's root",
      [[dir("etc"), link("abs", "/etc"), file("abs/x")]],
      ["abs symlink -> /etc", "etc directory", "etc/x file 1"],
    ],
    [
      "a replaced hard link leaves the other name alone",
      [[file("a", "1234"), hard("b", "a")], [file("a", "x")]],
      ["a file 1", "b file 4"],
    ],
    [
      "a hard link reaches into a lower layer",
      [[file("a", "1234")], [hard("b", "/a")]],
      ["a file 4", "b file 4"],
    ],
    [
      "names are ordered by bytes",
      [[file("b"), file("a-"), file("a"), file("a/..b".replace("/", "_"))]],
      ["a file 1", "a- file 1", "a_..b file 1", "b file 1"],
    ],
  ];
  test.each(cases)("%s", (_name, layers, expected) => {
    expect(merged(...layers)).toEqual(expected);
  });

  test.each<[string, TestEntry[][]]>([
    ["a hard link to nothing", [[hard("b", "a")]]],
    ["a hard link to a directory", [[dir("d"), hard("b", "d")]]],
    ["a path below a file of the same layer", [[file("d"), file("d/x")]]],
    ["a loop of symlinks", [[link("a", "b"), link("b", "a"), file("a/x")]]],
    ["a root that is a file", [[{ name: "./", type: "2", link: "x" }]]],
  ])("%s is refused", (_name, layers) => {
    expect(() => merged(...layers)).toThrow(expect.objectContaining({ code: "corrupt" }));
  });

  test("a directory above a directory brings its own attributes and keeps the children", () => {
    const merger = new LayerMerger();
    merger.apply(scanTar(tar([dir("d", { mode: 0o700, uid: 1 }), file("d/x")])).record.entries);
    merger.apply(scanTar(tar([dir("d", { mode: 0o1777, uid: 2 })])).record.entries);
    const d = merger.root.children!.get("d")!;
    expect(d).toMatchObject({ mode: 0o1777, uid: 2 });
    expect([...d.children!.keys()]).toEqual(["x"]);
  });

  test("trusted attributes never pass, others do", () => {
    const { record } = scanTar(
      tar([
        file("a", "x", { pax: { "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.k": "v" } }),
      ]),
    );
    expect([...record.entries[0]!.xattrs.keys()]).toEqual(["user.k"]);
  });

  test("whatever the layers hold, the merge ends with a tree or `corrupt`", () => {
    const name = fc
      .array(fc.constantFrom("a", "b", "c", ".wh.a", ".wh.b", ".wh..wh..opq", "..", "."), {
        minLength: 1,
        maxLength: 4,
      })
      .map((parts) => parts.join("/"));
    const entry = fc.record<TestEntry>({ name, type: fc.constantFrom("0", "1", "2", "5"), link: name });
    fc.assert(
      fc.property(fc.array(fc.array(entry, { maxLength: 8 }), { maxLength: 4 }), (layers) => {
        try {
          const names = merged(...layers);
          expect(new Set(names).size).toBe(names.length);
          expect(names.filter((line) => /(^|\/)\.wh\.[^/ ]* (file|symlink)/.test(line))).toEqual([]);
        } catch (error) {
          expect((error as { code?: string }).code, String(error)).toBe("corrupt");
        }
      }),
      { numRuns: fuzzRuns(1000) },
    );
  });
});
