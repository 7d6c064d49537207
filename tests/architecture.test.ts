// The rules of the house, as tests: where arrows may point, where generated code may live, what every folder has.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { describe, expect, test } from "vitest";

const ROOT = join(import.meta.dirname, "..");

type Manifest = {
  name: string;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
  exports?: unknown;
};
type Workspace = {
  folder: string;
  kind: "libs" | "services" | "native" | "examples" | "other";
  manifest: Manifest;
};

const folders = [
  ...["libs", "services", "native", "examples"].flatMap((kind) =>
    readdirSync(join(ROOT, kind)).map((name) => `${kind}/${name}`),
  ),
  "bench",
  "tests",
  "deploy/local",
];
const workspaces: Workspace[] = folders
  .filter((folder) => existsSync(join(ROOT, folder, "package.json")))
  .map((folder) => ({
    folder,
    kind:
      (["libs", "services", "native", "examples"] as const).find((kind) => folder.startsWith(`${kind}/`)) ??
      "other",
    manifest: JSON.parse(readFileSync(join(ROOT, folder, "package.json"), "utf8")) as Manifest,
  }));
const byName = new Map(workspaces.map((workspace) => [workspace.manifest.name, workspace]));

const sources = (folder: string): string[] =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
    .map((file) => join(folder, file))
    .filter(
      (file) =>
        file.endsWith(".ts") && !/node_modules|\/dist\/|\/gen\/|\/target\/|tests\/fixtures/.test(file),
    );

/** Specifiers of a file's imports, of types too. */
function importsOf(file: string): string[] {
  const text = readFileSync(join(ROOT, file), "utf8");
  return [
    ...text.matchAll(
      /(?:^|\s|;)(?:import|export)\b[^"';]*?from\s*["']([^"']+)["']|import\(\s*["']([^"']+)["']\s*\)|^import\s+["']([^"']+)["']/gm,
    ),
  ].map((match) => match[1] ?? match[2] ?? match[3] ?? "");
}

/** Libraries without I/O: they may stand on contracts, errors and plain libraries only. */
const PURE = ["libs/policy", "libs/spec", "libs/image-format", "libs/safetensors", "libs/openai"];
const PURE_MAY_USE = new Set(["@pilotlight/contracts", "@pilotlight/errors"]);

describe("arrows", () => {
  test.each(workspaces.map((workspace) => [workspace.folder, workspace] as const))(
    "%s imports only what stands below it",
    (_folder, workspace) => {
      for (const file of sources(workspace.folder)) {
        const isTest = file.endsWith(".test.ts") || file.includes("/testing/") || file.includes("/fixtures/");
        for (const specifier of importsOf(file)) {
          if (specifier.startsWith(".")) {
            const target = relative(ROOT, resolve(ROOT, dirname(file), specifier));
            expect(
              target.startsWith(`${workspace.folder}/`),
              `${file} reaches into another folder: ${specifier}`,
            ).toBe(true);
            continue;
          }
          const name = /^@pilotlight\/[^/]+/.exec(specifier)?.[0];
          if (name === undefined) continue;
          const target = byName.get(name);
          expect(target, `${file} imports ${name}, which does not exist`).toBeDefined();
          const declared = {
            ...workspace.manifest.dependencies,
            ...(isTest ? workspace.manifest.devDependencies : {}),
          };
          expect(
            name in declared || name === workspace.manifest.name,
            `${file} imports ${name} without declaring it in package.json`,
          ).toBe(true);
          if (workspace.kind !== "other" && !isTest) {
            expect(
              target?.kind,
              `${file} imports ${name}: nothing depends on a service or on deploy`,
            ).toMatch(/^(libs|native)$/);
          }
          if (PURE.includes(workspace.folder) && !isTest)
            expect(PURE_MAY_USE.has(name), `${file}: a library without I/O imports ${name}`).toBe(true);
          if (name === "@pilotlight/testing")
            expect(
              isTest || workspace.kind === "other",
              `${file}: @pilotlight/testing outside of tests`,
            ).toBe(true);
        }
      }
    },
  );
  test("generated code lives in libs/contracts only, and is reached through it", () => {
    for (const workspace of workspaces) {
      for (const file of sources(workspace.folder)) {
        for (const specifier of importsOf(file)) {
          if (/_pb\.js$/.test(specifier)) expect(file).toMatch(/^libs\/contracts\//);
        }
      }
    }
  });
  test("an import is seen in every form that it can have", () => {
    expect(importsOf("tests/fixtures/imports.ts")).toEqual([
      "@a/one",
      "@a/two",
      "@a/three",
      "@a/four",
      "@a/five",
      "./six.ts",
    ]);
  });
});

describe("every service has the same shape", () => {
  const services = workspaces.filter((workspace) => workspace.kind === "services");
  test.each(services.map((service) => [service.folder] as const))("%s", (folder) => {
    for (const part of ["README.md", "Dockerfile", "src/main.ts", "src/config.ts"]) {
      expect(existsSync(join(ROOT, folder, part)), `${folder}/${part}`).toBe(true);
    }
    const main = readFileSync(join(ROOT, folder, "src/main.ts"), "utf8");
    expect(main).toContain("runService(");
    expect(main.split("\n").length, "main.ts wires parts, nothing else").toBeLessThan(150);
    for (const file of sources(folder)) {
      if (file.endsWith(".test.ts") || file.includes("/testing/")) continue;
      expect(
        /process\.env\b/.test(readFileSync(join(ROOT, file), "utf8")),
        `${file} reads process.env; config.ts is the only door`,
      ).toBe(false);
    }
  });
});

describe("every file", () => {
  const all = workspaces
    .flatMap((workspace) => sources(workspace.folder))
    .filter((file) => !file.endsWith(".test.ts") && !file.endsWith("index.ts"));
  test("opens with a comment that says its one idea", () => {
    const silent = all.filter(
      (file) => !/^(#!.*\n)?\s*(\/\/|\/\*)/.test(readFileSync(join(ROOT, file), "utf8")),
    );
    expect(silent).toEqual([]);
  });
  test("is small", () => {
    const long = all.filter((file) => readFileSync(join(ROOT, file), "utf8").split("\n").length > 450);
    expect(long).toEqual([]);
  });
});
