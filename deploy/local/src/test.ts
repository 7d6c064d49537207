// `npm test`: the static checks, the crates' tests, then every TypeScript test on real servers. Ends with one line
// `N passed, N failed`, where each static check counts as one. A test that failed is tried once more, for these machines are
// shared and slow at times; what passed only then is listed, for it is to be mended.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { ensureNatsServer, ensurePostgres, ensureVersitygw } from "@pilotlight/servers";
import { ROOT } from "./checkout.ts";
import { runChecks, rustChecks, STATIC_CHECKS } from "./checks.ts";

const filters = process.argv.slice(2);

// What tests share and would otherwise install at the same time.
await ensureNatsServer();
await ensurePostgres();
await ensureVersitygw().catch((error: Error) => process.stdout.write(`note: ${error.message}\n`));

const checks =
  filters.length > 0 ? { passed: 0, failed: 0 } : await runChecks([...STATIC_CHECKS, ...rustChecks()]);
const tests = await runVitest(filters);
const passed = checks.passed + tests.passed;
const failed = checks.failed + tests.failed;
if (tests.skipped > 0)
  process.stdout.write(`${tests.skipped} skipped: what this machine cannot do is named above\n`);
process.stdout.write(`${passed} passed, ${failed} failed\n`);
process.exit(failed === 0 ? 0 : 1);

type Report = {
  numPassedTests: number;
  numFailedTests: number;
  numPendingTests: number;
  numFailedTestSuites: number;
  testResults: {
    name: string;
    status: string;
    message: string;
    assertionResults: { status: string; fullName: string; failureMessages: string[] }[];
  }[];
};

async function runVitest(
  patterns: readonly string[],
): Promise<{ passed: number; failed: number; skipped: number }> {
  const folder = mkdtempSync(join(tmpdir(), "pilotlight-test-"));
  const file = join(folder, "report.json");
  try {
    const args = [
      join(ROOT, "node_modules/vitest/vitest.mjs"),
      "run",
      "--retry=1",
      "--reporter=default",
      "--reporter=json",
      `--outputFile.json=${file}`,
      ...patterns,
    ];
    const code = await new Promise<number>((resolve) => {
      spawn(process.execPath, args, { cwd: ROOT, stdio: "inherit", env: process.env }).once("exit", (exit) =>
        resolve(exit ?? 1),
      );
    });
    const report = JSON.parse(readFileSync(file, "utf8")) as Report;
    // A file that could not even be loaded has no tests in it, but it failed.
    const broken = report.testResults.filter(
      (result) => result.status === "failed" && result.assertionResults.length === 0,
    ).length;
    const failed = report.numFailedTests + broken;
    for (const line of [...secondTries(report), ...failuresIn(report)]) process.stdout.write(`${line}\n`);
    return {
      passed: report.numPassedTests,
      failed: code !== 0 && failed === 0 ? 1 : failed,
      skipped: report.numPendingTests,
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Tests that failed first and passed then: their first failures are kept with them. */
function secondTries({ testResults }: Report): string[] {
  return testResults.flatMap(({ name, assertionResults }) =>
    assertionResults
      .filter(({ status, failureMessages }) => status === "passed" && failureMessages.length > 0)
      .map(
        ({ fullName, failureMessages }) =>
          `passed at its second try: ${relative(ROOT, name)}: ${fullName}: ${firstLine(failureMessages[0] ?? "")}`,
      ),
  );
}

/** What failed, last of all: a long log shows it at its end. */
function failuresIn({ testResults }: Report): string[] {
  return testResults.flatMap(({ name, status, message, assertionResults }) => {
    const file = relative(ROOT, name);
    if (status === "failed" && assertionResults.length === 0)
      return [`failed: ${file}: ${firstLine(message)}`];
    return assertionResults
      .filter((one) => one.status === "failed")
      .map((one) => `failed: ${file}: ${one.fullName}: ${firstLine(one.failureMessages[0] ?? "")}`);
  });
}

function firstLine(text: string): string {
  return text.split("\n", 1)[0] ?? "";
}
