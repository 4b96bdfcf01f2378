"""All-reduces drawn by seed on 1 to 9 ranks: counts, types, operators, algorithms, addresses and nodes, all mixed.

    python tests/random_calls.py --seconds 30 --seed 1 --out results/random-calls

Each call is made twice, as a plan or in one line, on arrays as users have them, and every element of every rank is
compared with what NumPy computes of the inputs; an input out of place must be left alone. What fails is told with all
that it takes to call it again. The exit code is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

RANKS = range(1, 10)
PRIME = 997
COUNTS = (0, 1, 2, 7, 600, 5_000, 200_000)  # the last three are bounds of what is drawn


def draw(luck: random.Random, size: int) -> dict:
    """A call, the same on all ranks."""
    from hpcdist import algorithms
    from hpcdist.kernels.reduce import DTYPES, OPS

    count, names = luck.choice(COUNTS), ["auto"] * 3 + [*algorithms.ALLREDUCE, "one_shot", "two_shot:3"]
    algorithm = luck.choice([*names, "shared", "shared:ring"])
    dtype, op = luck.choice([*DTYPES]), luck.choice(OPS)
    return {
        "dtype": dtype,
        "op": "max" if (dtype, op) == ("bfloat16", "prod") else op,  # products of these numbers leave its range
        "count": luck.randrange(count) if count > 7 else count,
        "algorithm": algorithm,
        "line": luck.choice([True, False]),
        "out": luck.choice([True, False]),
        "array": "empty" if algorithm.startswith("shared") else luck.choice(["own", "slice", "empty"]),
        "begin": luck.randrange(9),
        "topology": luck.choice([None, None, [rank % 2 for rank in range(size)], [rank // 2 for rank in range(size)]]),
        "seed": luck.randrange(1 << 30),
    }


def compare(result, few, op: str) -> None:
    """That the result is right: the first elements by exact arithmetic, the others by being the same, or nearly."""
    import numpy as np
    from buffers import ROUNDING, check

    check(result[:PRIME], few, op)
    again = np.arange(result.size) % PRIME
    if result.dtype.kind in "iu" or op in ("max", "min"):
        np.testing.assert_array_equal(result, result[:PRIME][again])
        return
    magnitudes = np.abs(few.astype(np.float64))
    scale = magnitudes.prod(axis=0) if op == "prod" else magnitudes.sum(axis=0)
    error = np.abs(result.astype(np.float64) - result[:PRIME].astype(np.float64)[again])
    assert (error <= 2.02 * len(few) * ROUNDING[result.dtype.name] * scale[again]).all(), "far from its repetition"


def run(comm, call: dict) -> str:
    """What went wrong on this rank; nothing, or "refused", if all was right."""
    import numpy as np
    from buffers import distinct

    import hpcdist

    # Of 16 bits there are not so many finite numbers: they repeat after a prime number of elements.
    few = distinct(comm.size, min(call["count"], PRIME), call["dtype"], call["op"], call["seed"])
    values = np.take(few, np.arange(call["count"]) % PRIME, axis=1)

    def array(content):
        shape, dtype, begin = values[0].shape, values.dtype, call["begin"]
        made = {
            "own": lambda: np.empty(shape, dtype),
            "slice": lambda: np.empty(values[0].size + 9, dtype)[begin : begin + values[0].size],
            "empty": lambda: hpcdist.empty(shape, dtype, comm),
        }[call["array"]]()
        made[:] = content
        return made

    buffer, out = array(0), array(0) if call["out"] else None
    how = {"op": call["op"], "algorithm": call["algorithm"]}
    plan = None
    try:
        for _ in range(2):
            buffer[:] = values[comm.rank]
            if call["line"]:
                hpcdist.allreduce(comm, buffer, out=out, **how)
            else:
                plan = plan or hpcdist.plan(comm, buffer, out, topology=call["topology"], **how)
                plan()
            compare(buffer if out is None else out, few, call["op"])
            if out is not None:
                np.testing.assert_array_equal(buffer, values[comm.rank])
    except hpcdist.ArgumentError:
        return "refused"
    except AssertionError as error:
        return f"{str(error)[:300]} ..." if str(error) else "wrong"
    finally:
        if plan:
            plan.close()
    return ""


def ranks(seed: int, seconds: float) -> None:
    """Calls on these ranks until the time is over; rank 0 prints what there was of them."""
    from mpi4py import MPI

    import hpcdist

    comm, luck = MPI.COMM_WORLD, random.Random(seed)
    end, found = time.monotonic() + seconds, {"ranks": comm.size, "calls": 0, "refused": 0, "wrong": []}
    while comm.bcast(time.monotonic() < end):
        call = draw(luck, comm.size)
        said = comm.allgather(run(comm, call))
        found["calls"] += 1
        found["refused"] += "refused" in said
        if wrong := [f"rank {rank}: {words}" for rank, words in enumerate(said) if words not in ("", "refused")]:
            found["wrong"].append({"call": call, "why": wrong})
        if found["calls"] % 50 == 0:
            hpcdist.release(comm)
    if comm.rank == 0:
        print(json.dumps(found))


def main() -> int:
    """All numbers of ranks in turn, and the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each number of ranks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder of the report")
    parser.add_argument("--here", action="store_true", help="be one of the ranks")
    asked = parser.parse_args()
    if asked.here:
        ranks(asked.seed, asked.seconds)
        return 0
    command = ["python", *sys.argv]
    lines = [f"    {' '.join(command)}", "", f"{time.strftime('%F %T %z')}. Seed {asked.seed}.", ""]
    lines += ["| ranks | calls | refused | wrong |", "|---|---|---|---|"]
    wrong: list[dict] = []
    for size in RANKS:
        program = [
            sys.executable,
            __file__,
            "--here",
            "--seconds",
            str(asked.seconds),
            "--seed",
            str(asked.seed + size),
        ]
        start = [sys.executable, "-m", "hpcdist", "run", "-n", str(size), "--", *program]
        done = subprocess.run(start, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        lines.append(f"| {size} | {found['calls']} | {found['refused']} | {len(found['wrong'])} |")
        print(lines[-1], flush=True)
        wrong += [{"ranks": size, **each} for each in found["wrong"]]
    lines += ["", *(f"- WRONG: {json.dumps(each)}" for each in wrong)]
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "random-calls.md").write_text(
            "\n".join(["# All-reduces drawn by seed", "", *lines]).rstrip() + "\n"
        )
    print(*lines[-len(wrong) :] if wrong else ["all right"], sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
