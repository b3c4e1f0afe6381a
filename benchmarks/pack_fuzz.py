"""Does any changed file crash the reader, hang it, or take more memory than its header states?

Bytes, cuts, lines and offsets of packed files are changed at random; most get right checksums again, as an
attacker would write them. Each must be read, or refused with a ValueError.

python benchmarks/pack_fuzz.py --files 12000
"""

import argparse
import random
import resource
import tempfile
import time
from pathlib import Path

import torch
from results import write_section

from tonsor.pack import load, pack, save, uniform, unpack
from tonsor.pack.file_test import LIMIT, mutated, state

SETTINGS = [{}, {"bits": 4}, {"bits": 3, "sharing": uniform}]


def one(path: Path) -> str:
    """Return what became of a file: "read", "refused", or what it should not have done."""
    try:
        got = unpack(load(path, limit=LIMIT))
    except ValueError:
        return "refused"
    return "read" if sum(tensor.nbytes for tensor in got.values()) <= LIMIT else "read more than it said"


def main() -> None:
    """Change files, read them, and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    drawn, ends, slowest = random.Random(arguments.seed), dict[str, int](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tonsor"
        sources = []
        for settings in SETTINGS:
            save(pack(state(), **settings), path)
            unpack(load(path))
            sources.append(path.read_bytes())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(arguments.files):
            path.write_bytes(mutated(sources[number % len(sources)], drawn))
            began = time.process_time()
            end = one(path)
            slowest = max(slowest, time.process_time() - began)
            ends[end] = ends.get(end, 0) + 1
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    told = ", ".join(f"{count:,} {end}" for end, count in sorted(ends.items()))
    body = (
        f"{arguments.files:,} changed files: {told}; no other error, no crash. The slowest took "
        f"{slowest * 1e3:.0f} ms; the memory of the process grew by {grown:.1f} MiB in all, at a limit of "
        f"{LIMIT / 2**20:.0f} MiB a file."
    )
    write_section("Pack: changed files", f"python benchmarks/pack_fuzz.py --files {arguments.files}", body)


if __name__ == "__main__":
    main()
