// The native copier as the Python loader reaches it: the library that was built, called through ctypes by a plain Python, on a
// stand-in for the CUDA driver (testing/fake-cuda.c). It proves the calls and their order, the bytes and the errors; not what a
// real driver does with them.
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { buildStreamer } from "../build.mjs";

const LOADER = join(import.meta.dirname, "../../../python/pilotlight_loader/device.py");
/** Python without PyTorch: the module alone, not the package that imports it. */
const PRELUDE = `
import ctypes, importlib.util, sys
spec = importlib.util.spec_from_file_location("device", ${JSON.stringify(LOADER)})
device = importlib.util.module_from_spec(spec)
spec.loader.exec_module(device)
`;

let folder: string;
let library: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "pilotlight-device-"));
  library = (await buildStreamer()).path;
  const source = join(import.meta.dirname, "../testing/fake-cuda.c");
  execFileSync(process.env.CC ?? "cc", ["-shared", "-fPIC", "-o", join(folder, "libcuda.so.1"), source]);
}, 600_000);
afterAll(() => rmSync(folder, { recursive: true }));

function python(program: string, environment: Record<string, string> = {}) {
  const log = join(folder, `log-${Math.random()}`);
  const { status, stdout, stderr } = spawnSync("python3", ["-c", PRELUDE + program], {
    encoding: "utf8",
    env: { ...process.env, PILOTLIGHT_STREAMER_LIBRARY: library, FAKE_CUDA_LOG: log, ...environment },
  });
  const calls = () =>
    readFileSync(log, "utf8")
      .trim()
      .split("\n")
      .map((line) => line.trim());
  return { status, stdout: stdout.trim(), stderr, calls };
}
const withFake = () => ({ LD_LIBRARY_PATH: folder });

const COPY = `
source = ctypes.create_string_buffer(bytes(range(256)) * 16, 4096)
target = ctypes.create_string_buffer(4096)
copier = device.Copier(0)
copier.register(ctypes.addressof(source), 4096)
copier.copy(ctypes.addressof(target), ctypes.addressof(source), 4096, consumer=7)
copier.wait()
assert target.raw == source.raw
print("same")
copier.close()
copier.close()
`;

describe("copies to a device, on a stand-in for the driver", () => {
  test("are ordered with the consumer's stream on both sides, on pinned memory that is given free", () => {
    const { stdout, stderr, calls } = python(COPY, withFake());
    expect(stdout, stderr).toBe("same");
    expect(calls()).toEqual([
      "cuInit 0",
      "cuDeviceGetCount 1",
      "cuDeviceGet 0",
      "cuDevicePrimaryCtxRetain 0",
      "cuStreamCreate 1 flags 1",
      "cuStreamCreate 2 flags 1",
      "cuMemHostRegister_v2 4096 flags 9",
      "cuEventCreate 1 flags 2",
      "cuEventRecord event 1 stream 7",
      "cuStreamWaitEvent stream 1 event 1 flags 0",
      "cuEventDestroy_v2 1",
      "cuMemcpyHtoDAsync_v2 4096 stream 1",
      "cuEventCreate 2 flags 2",
      "cuEventRecord event 2 stream 1",
      "cuStreamWaitEvent stream 7 event 2 flags 0",
      "cuEventDestroy_v2 2",
      "cuStreamSynchronize 1",
      "cuStreamSynchronize 2",
      "cuStreamSynchronize 1",
      "cuStreamSynchronize 2",
      "cuMemHostUnregister",
      "cuStreamDestroy_v2 1",
      "cuStreamDestroy_v2 2",
      "cuDevicePrimaryCtxRelease_v2 0",
    ]);
  });

  test("take a rank's slice out of its rows, and use their streams in turns", () => {
    const program = `
source = ctypes.create_string_buffer(bytes(range(256)) * 16, 4096)
target = ctypes.create_string_buffer(64 * 8)
copier = device.Copier(0)
copier.copy(ctypes.addressof(target), ctypes.addressof(source) + 16, 8, stride_bytes=64, runs=64)
copier.copy(ctypes.addressof(target), ctypes.addressof(source) + 16, 8, stride_bytes=64, runs=64)
copier.wait()
assert target.raw == b"".join(source.raw[16 + i * 64 : 24 + i * 64] for i in range(64))
print("same")
`;
    const { stdout, stderr, calls } = python(program, withFake());
    expect(stdout, stderr).toBe("same");
    expect(calls().filter((line) => line.startsWith("cuMemcpy"))).toEqual([
      "cuMemcpy2DAsync_v2 64 x 8 pitch 64 to 8 stream 1",
      "cuMemcpy2DAsync_v2 64 x 8 pitch 64 to 8 stream 2",
    ]);
  });

  test.each(["cuMemHostRegister_v2", "cuMemcpyHtoDAsync_v2", "cuStreamWaitEvent"])(
    "a failing %s is told by name, and nothing is left behind",
    (call) => {
      const { status, stderr, calls } = python(COPY, { ...withFake(), FAKE_CUDA_FAIL: call });
      expect(status).not.toBe(0);
      expect(stderr).toContain(`DeviceError: ${call}: CUDA_ERROR_OUT_OF_MEMORY (2)`);
      const [created, destroyed] = ["cuEventCreate", "cuEventDestroy_v2"].map(
        (name) => calls().filter((line) => line.startsWith(`${name} `)).length,
      );
      expect(destroyed).toBe(created);
    },
  );
});

describe("a device that is not there", () => {
  test.each([
    ["another ordinal", "device.Copier(3)", "there is no CUDA device 3: the machine has 1"],
    ["no device at all", "device.Copier(0)", "there is no CUDA device 0: the machine has 0"],
  ])("%s is said", (name, program, message) => {
    const devices = { FAKE_CUDA_DEVICES: name === "no device at all" ? "0" : "1" };
    expect(python(program, { ...withFake(), ...devices }).stderr).toContain(message);
  });
  test("a file that is something else is no native part", () => {
    const { stderr } = python("device.Copier(0)", { PILOTLIGHT_STREAMER_LIBRARY: "/etc/hostname" });
    expect(stderr).toContain("is not the streamer's native part");
  });
});
