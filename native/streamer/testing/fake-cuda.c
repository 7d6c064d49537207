/* NOT the CUDA driver: a stand-in for tests on machines without an accelerator. "Device memory" is the process's own, copies are
   done when their stream is synchronised or waited for by nobody else, and every call is a line in the file that FAKE_CUDA_LOG
   names. FAKE_CUDA_FAIL names a call that fails with CUDA_ERROR_OUT_OF_MEMORY; FAKE_CUDA_DEVICES says how many there are. */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { size_t sx, sy; unsigned sk; const void *sh; uint64_t sd; void *sa; size_t sp;
                 size_t tx, ty; unsigned tk; void *th; uint64_t td; void *ta; size_t tp; size_t width, height; } copy2d;

enum { STREAMS_MAX = 64, QUEUE_MAX = 4096 };
typedef struct { uint64_t target; const char *source; size_t run, stride, runs; } pending;
static struct { pending queue[QUEUE_MAX]; int count; } streams[STREAMS_MAX];
static uintptr_t stream_count, event_count;

static int called(const char *name, const char *format, ...) {
  const char *path = getenv("FAKE_CUDA_LOG");
  FILE *log = path ? fopen(path, "a") : NULL;
  if (log) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(log, "%s ", name);
    vfprintf(log, format, arguments);
    fputc('\n', log);
    va_end(arguments);
    fclose(log);
  }
  const char *failing = getenv("FAKE_CUDA_FAIL");
  return failing && strcmp(failing, name) == 0 ? 2 : 0;
}

static void run(uintptr_t stream) {
  for (int i = 0; i < streams[stream].count; i++) {
    pending *one = &streams[stream].queue[i];
    for (size_t r = 0; r < one->runs; r++)
      memcpy((char *)(uintptr_t)one->target + r * one->run, one->source + r * one->stride, one->run);
  }
  streams[stream].count = 0;
}

static int push(uintptr_t stream, pending one) {
  if (streams[stream].count == QUEUE_MAX) run(stream);
  streams[stream].queue[streams[stream].count++] = one;
  return 0;
}

int cuGetErrorName(int code, const char **name) { *name = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_UNKNOWN"; return 0; }
int cuInit(unsigned flags) { return called("cuInit", "%u", flags); }
int cuDeviceGetCount(int *count) { const char *n = getenv("FAKE_CUDA_DEVICES"); *count = n ? atoi(n) : 1; return called("cuDeviceGetCount", "%d", *count); }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return called("cuDeviceGet", "%d", ordinal); }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)0xc0; return called("cuDevicePrimaryCtxRetain", "%d", device); }
int cuDevicePrimaryCtxRelease_v2(int device) { return called("cuDevicePrimaryCtxRelease_v2", "%d", device); }
int cuCtxPushCurrent_v2(void *context) { (void)context; return 0; }
int cuCtxPopCurrent_v2(void **context) { *context = (void *)0xc0; return 0; }
int cuMemHostRegister_v2(void *start, size_t bytes, unsigned flags) { (void)start; return called("cuMemHostRegister_v2", "%zu flags %u", bytes, flags); }
int cuMemHostUnregister(void *start) { (void)start; return called("cuMemHostUnregister", ""); }
int cuStreamCreate(void **stream, unsigned flags) { *stream = (void *)++stream_count; return called("cuStreamCreate", "%zu flags %u", (size_t)stream_count, flags); }
int cuStreamDestroy_v2(void *stream) { return called("cuStreamDestroy_v2", "%zu", (size_t)(uintptr_t)stream); }
int cuStreamSynchronize(void *stream) { run((uintptr_t)stream); return called("cuStreamSynchronize", "%zu", (size_t)(uintptr_t)stream); }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return called("cuStreamWaitEvent", "stream %zu event %zu flags %u", (size_t)(uintptr_t)stream, (size_t)(uintptr_t)event, flags); }
int cuEventCreate(void **event, unsigned flags) { *event = (void *)++event_count; return called("cuEventCreate", "%zu flags %u", (size_t)event_count, flags); }
int cuEventRecord(void *event, void *stream) { return called("cuEventRecord", "event %zu stream %zu", (size_t)(uintptr_t)event, (size_t)(uintptr_t)stream); }
int cuEventDestroy_v2(void *event) { return called("cuEventDestroy_v2", "%zu", (size_t)(uintptr_t)event); }
int cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t bytes, void *stream) {
  int failed = called("cuMemcpyHtoDAsync_v2", "%zu stream %zu", bytes, (size_t)(uintptr_t)stream);
  return failed ? failed : push((uintptr_t)stream, (pending){target, source, bytes, bytes, 1});
}
int cuMemcpy2DAsync_v2(const copy2d *copy, void *stream) {
  int failed = called("cuMemcpy2DAsync_v2", "%zu x %zu pitch %zu to %zu stream %zu", copy->height, copy->width, copy->sp, copy->tp, (size_t)(uintptr_t)stream);
  return failed ? failed : push((uintptr_t)stream, (pending){copy->td, copy->sh, copy->width, copy->sp, copy->height});
}
