// One configuration for all tests of the repository; a package's tests run with `npx vitest run <folder>`.
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["{libs,services,native,tests,examples,deploy,bench}/**/*.test.ts"],
    exclude: ["**/node_modules/**", "**/dist/**", "**/target/**"],
    // Real servers start inside tests; the limit catches hangs, it is no assertion about speed.
    testTimeout: 60_000,
    hookTimeout: 180_000,
    expect: { poll: { timeout: 30_000, interval: 20 } },
    // More than the two cores that CI has: many tests wait for servers, deadlines and restarts.
    maxWorkers: 3,
    // What tests that passed have printed is of no use to anyone; a failure keeps all of it.
    silent: "passed-only",
    slowTestThreshold: 10_000,
  },
});
