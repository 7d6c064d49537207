"""How a file of this machine's disk is best brought to an engine: mapped where it lies, or read into shared memory, through the page
cache or around it (O_DIRECT), over one or several threads. The file leaves the page cache before each try.

    python3 bench/weights/local-files.py [FOLDER ON THE DISK] [GIB]
"""

import mmap
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable

CHUNK_BYTES = 8 << 20
PAGE_BYTES = 4096
ROUNDS = 2

folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir()
total_bytes = int(sys.argv[2] if len(sys.argv) > 2 else 1) << 30
source = os.path.join(folder, f"local-files-{os.getpid()}.bin")
target = f"/dev/shm/local-files-{os.getpid()}.bin"


def write_source() -> None:
    chunk = os.urandom(CHUNK_BYTES)
    with open(source, "wb") as file:
        for _ in range(total_bytes // CHUNK_BYTES):
            file.write(chunk)
        os.fsync(file.fileno())


def forget() -> None:
    descriptor = os.open(source, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def mapped() -> None:
    """As an engine reads a segment that is another name of the file."""
    descriptor = os.open(source, os.O_RDONLY)
    with mmap.mmap(descriptor, total_bytes, prot=mmap.PROT_READ) as memory:
        memory.madvise(mmap.MADV_SEQUENTIAL)
        for page in range(0, total_bytes, PAGE_BYTES):
            memory[page]
    os.close(descriptor)


def copied(threads: int, flags: int) -> None:
    """Into shared memory, chunk by chunk, in place."""
    descriptor = os.open(source, os.O_RDONLY | flags)
    shared = os.open(target, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(shared, total_bytes)
    offsets = iter(range(0, total_bytes, CHUNK_BYTES))
    lock = threading.Lock()
    with mmap.mmap(shared, total_bytes) as memory, memoryview(memory) as view:

        def work() -> None:
            while True:
                with lock:
                    offset = next(offsets, None)
                if offset is None:
                    return
                with view[offset : offset + CHUNK_BYTES] as place:
                    os.preadv(descriptor, [place], offset)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    os.close(shared)
    os.close(descriptor)
    os.unlink(target)


WAYS: dict[str, Callable[[], None]] = {
    "mapped where it lies": mapped,
    "buffered, 1 thread": lambda: copied(1, 0),
    "buffered, 4 threads": lambda: copied(4, 0),
    "O_DIRECT, 1 thread": lambda: copied(1, os.O_DIRECT),
    "O_DIRECT, 4 threads": lambda: copied(4, os.O_DIRECT),
    "O_DIRECT, 8 threads": lambda: copied(8, os.O_DIRECT),
}

write_source()
try:
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            forget()
            processor, began = time.process_time(), time.perf_counter()
            way()
            seconds, used = time.perf_counter() - began, time.process_time() - processor
            gigabytes = total_bytes / 1e9
            print(f"{name:22} {gigabytes / seconds:5.2f} GB/s  {used / gigabytes:5.2f} core-s/GB", flush=True)
finally:
    os.unlink(source)
