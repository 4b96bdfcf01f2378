"""Every kernel beside its NumPy twin, over random shapes, alignments and types, on whatever device there is.

`CASES` are functions of (on, seed). A device `on` is a GPU in tests/gpu and g++'s code in tests/unit; results must have
the twin's bits, and nothing around an array may change.
"""

import numpy as np
from buffers import bits, distinct, special

from hpcdist.kernels import average, bucket, combine, lars, quantise, sgd, sparse, unscale
from hpcdist.kernels.reduce import DTYPES
from hpcdist.kernels.segments import TILE, Segments

SUBJECTS = (average, bucket, combine, lars, quantise, sgd, sparse, unscale)
KERNELS = {subject.__name__.rpartition(".")[2]: subject.KERNELS for subject in SUBJECTS}
BORDER = 64  # elements on both sides of every array
MOST_HALVES = 30_000  # different numbers near 1 that `distinct` finds in float16


class Memory:
    """Arrays on a device, each between two borders that nobody may write, at an alignment of its own."""

    def __init__(self, on, rng):
        self.on, self.rng, self.placed = on, rng, []
        self.shift = None if rng.random() < 0.4 else int(rng.integers(0, 16))  # elements; None: each its own

    def put(self, values):
        values = values.view(np.uint16) if values.dtype.name == "bfloat16" else values
        shift = int(self.rng.integers(0, 16)) if self.shift is None else self.shift
        begin = BORDER + shift
        whole = np.full(values.size + shift + 2 * BORDER, 77, values.dtype)
        whole[begin : begin + values.size] = values.reshape(-1)
        there = self.on.put(whole)
        view = there[begin : begin + values.size]
        self.placed.append((there, begin, values.size))
        return view

    def room(self, count, dtype):
        return self.put(np.full(count, 99).astype(dtype))

    def check_borders(self):
        for there, begin, count in self.placed:
            here = host(there)
            assert (here[:begin] == 77).all()
            assert (here[begin + count :] == 77).all()


def host(array):
    return array.get() if hasattr(array, "get") else array


def same(got, wanted):
    """That an array on a device has the bits of one here."""
    wanted = wanted.view(np.uint16) if wanted.dtype.name == "bfloat16" else wanted
    got = host(got)
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(bits(got), bits(wanted))


def some_count(rng):
    """Mostly small, and beyond what three blocks take at once."""
    return int(rng.choice([1, 2, rng.integers(3, 40), rng.integers(40, 3000), rng.integers(3000, 9000)]))


def some_rows(rng, size, count, dtype, op="sum"):
    """Numbers that differ, subnormals among them, or many zeros, infinities and NaNs."""
    seed = int(rng.integers(2**31))
    if rng.random() < 0.5 and DTYPES[dtype].kind != "i":
        return special(size, count, dtype, seed)
    rows = distinct(size, count, dtype, op, seed)
    if DTYPES[dtype].kind != "i" and rng.random() < 0.5:
        with np.errstate(all="ignore"):
            rows = (rows * np.finfo(np.float32).smallest_normal).astype(DTYPES[dtype])
    return rows


def floats(rng, count):
    """float32 of all sizes and signs."""
    return (rng.standard_normal(count) * 10.0 ** rng.integers(-6, 4)).astype(np.float32)


def sum_max_min_prod_of_two(on, seed):
    for number, dtype in enumerate(DTYPES):
        for which, op in enumerate(combine.OPS):
            rng = np.random.default_rng([seed, number, which])
            left, right = some_rows(rng, 2, some_count(rng), dtype, op)
            memory = Memory(on, rng)
            sources = memory.put(left), memory.put(right)
            out = [*sources, memory.room(left.size, sources[0].dtype)][rng.integers(3)]
            combine.combine(op, out, sources, on=on)
            same(out, combine.combined(op, [left, right]))
            memory.check_borders()


def sum_max_min_prod_of_rows(on, seed):
    for number, dtype in enumerate(DTYPES):
        for which, op in enumerate(combine.OPS):
            rng = np.random.default_rng([seed, number, which])
            size = int(rng.choice([1, 3, 4, 7, combine.MOST]))
            rows = list(some_rows(rng, size, min(some_count(rng), MOST_HALVES // size), dtype, op))
            memory = Memory(on, rng)
            sources = [memory.put(row) for row in rows]
            out = [*sources, memory.room(rows[0].size, sources[0].dtype)][rng.integers(len(sources) + 1)]
            combine.combine(op, out, sources, on=on)
            same(out, combine.combined(op, rows))
            memory.check_borders()


def sum_max_min_prod_into_all(on, seed):
    for number, dtype in enumerate(DTYPES):
        for which, op in enumerate(combine.OPS):
            rng = np.random.default_rng([seed, number, which])
            size, written = (int(rng.choice([1, 2, 3, 8, combine.MOST])) for _ in range(2))
            rows = list(some_rows(rng, size, min(some_count(rng), MOST_HALVES // size), dtype, op))
            memory = Memory(on, rng)
            sources = [memory.put(row) for row in rows]
            rooms = [memory.room(rows[0].size, sources[0].dtype) for _ in range(written)]
            both = [*sources, *rooms]
            chosen = [both[place] for place in rng.permutation(len(both))[:written]]
            combine.combine_into_all(op, chosen, sources, on=on)
            for target in chosen:
                same(target, combine.combined(op, rows))
            for source, row in zip(sources, rows, strict=True):
                if not any(source is target for target in chosen):
                    same(source, row)
            memory.check_borders()


def average_and_cast(on, seed):
    for number, (of, to) in enumerate(average.PAIRS):
        rng = np.random.default_rng([seed, number])
        total = some_rows(rng, 1, some_count(rng), of)[0]
        size = int(rng.choice([1, 3, 8, 4097, 70_000]))
        memory = Memory(on, rng)
        there = memory.put(total)
        out = there if of == to and rng.random() < 0.5 else memory.room(total.size, stored(DTYPES[to]))
        average.average(out, there, size, on=on)
        same(out, average.averaged(total, size, DTYPES[to]))
        memory.check_borders()


def stored(dtype):
    return np.dtype(np.uint16) if dtype.name == "bfloat16" else dtype


def unscale_and_check(on, seed):
    for number, dtype in enumerate(unscale.TYPES):
        rng = np.random.default_rng([seed, number])
        count, inverse = some_count(rng), float(rng.choice([1 / 1024, 0.1, 2.0**-24]))
        gradient = distinct(1, count, dtype)[0]
        if rng.random() < 0.5:
            gradient[rng.integers(count)] = rng.choice([np.inf, -np.inf, np.nan])
        memory = Memory(on, rng)
        there, flag = memory.put(gradient), memory.put(np.zeros(1, np.int32))
        out = there if dtype == "float32" and rng.random() < 0.5 else memory.room(count, np.float32)
        unscale.unscale(out, there, inverse, flag, on=on)
        wanted, overflow = unscale.unscaled(gradient, inverse)
        same(out, wanted)
        assert host(flag)[0] == overflow
        memory.check_borders()


def some_sizes(rng):
    """Sizes of segments: some empty, some of several tiles."""
    return [int(rng.choice([0, 1, rng.integers(2, 300), rng.integers(TILE - 2, 3 * TILE)])) for _ in range(6)] + [5]


def some_state(rng, sizes):
    """Parameters, velocity and gradient; where the latter two are -0, a weight decay of 0 must not make them +0."""
    parameters, velocity, gradient = (floats(rng, sum(sizes)) for _ in range(3))
    still = rng.random(sum(sizes)) < 0.2
    velocity[still] = gradient[still] = -0.0
    return [parameters, velocity, gradient]


def sgd_update(on, seed):
    rng = np.random.default_rng(seed)
    sizes = some_sizes(rng)
    arrays = some_state(rng, sizes)
    rates, decays = floats(rng, 7), floats(rng, 7) * (rng.random(7) < 0.5).astype(np.float32)
    momentum = float(rng.random())
    memory = Memory(on, rng)
    there = [memory.put(array) for array in arrays]
    segments = Segments(sizes, on=on)
    sgd.update(*there, segments, memory.put(rates), memory.put(decays), momentum, on=on)
    for got, wanted in zip(there, [*sgd.updated(*arrays, sizes, rates, decays, momentum), arrays[2]], strict=True):
        same(got, wanted)
    memory.check_borders()


def lars_update(on, seed):
    rng = np.random.default_rng(seed)
    sizes = [*some_sizes(rng), 2 * TILE + 7]
    arrays = some_state(rng, sizes)
    arrays[2 * rng.integers(2)][-2 * TILE - 7 :] = 0  # the last layer has no weights, or no gradient
    how = {"rate": 0.1, "trust": 0.001, "momentum": float(rng.random()), "decay": float(rng.choice([0, 5e-4]))}
    memory = Memory(on, rng)
    there = [memory.put(array) for array in arrays]
    lars.update(*there, Segments(sizes, on=on), **how, on=on)
    for got, wanted in zip(there, [*lars.updated(*arrays, sizes, **how), arrays[2]], strict=True):
        same(got, wanted)
    memory.check_borders()


def quantise_and_dequantise(on, seed):
    rng = np.random.default_rng(seed)
    count = some_count(rng)
    size = np.repeat(rng.choice([0, 1e-44, 1e-38, 1], quantise.groups(count)), quantise.GROUP)[:count]
    x, error = ((floats(rng, count) * size).astype(np.float32) for _ in range(2))
    if rng.random() < 0.3:
        x[rng.integers(count)] = rng.choice([np.inf, -np.inf, np.nan])
    memory = Memory(on, rng)
    codes, scales = memory.room(count, np.int8), memory.room(quantise.groups(count), np.float32)
    there, out = memory.put(error), memory.room(count, np.float32)
    quantise.quantise(codes, scales, there, memory.put(x), on=on)
    wanted = quantise.quantised(x, error)
    for got, twin in zip((codes, scales, there), wanted, strict=True):
        same(got, twin)
    quantise.dequantise(out, codes, scales, on=on)
    same(out, quantise.dequantised(*wanted[:2]))
    memory.check_borders()


def select_and_scatter(on, seed):
    rng = np.random.default_rng(seed)
    count = some_count(rng) + int(rng.choice([0, 3 * sparse.SPAN]))
    x = floats(rng, count) * (rng.random(count) < rng.choice([0.1, 1])).astype(np.float32)
    if rng.random() < 0.3:
        x[rng.integers(count)] = rng.choice([np.inf, -np.inf, np.nan])
    k, passes = int(rng.integers(1, count + 1)), int(rng.integers(1, 4))
    capacity = int(rng.choice([count, max(1, k // 2)]))
    memory = Memory(on, rng)
    indices, values = memory.room(capacity, np.int32), memory.room(capacity, np.float32)
    found = int(host(sparse.select(indices, values, memory.put(x), k, passes=passes, on=on))[0])
    *wanted, number = sparse.selected(x, k, capacity, passes)
    assert found == number
    taken = min(found, capacity)
    same(indices[:taken], wanted[0])
    same(values[:taken], wanted[1])
    dense = floats(rng, count)
    out, outside = memory.put(dense), memory.put(np.zeros(1, np.int32))
    sparse.scatter_add(out, indices[:taken], values[:taken], outside, on=on)
    same(out, sparse.scattered(dense, *wanted))
    assert host(outside)[0] == 0
    sparse.scatter_add(out, memory.put(np.array([-1, count], np.int32)), memory.put(floats(rng, 2)), outside, on=on)
    same(out, sparse.scattered(dense, *wanted))
    assert host(outside)[0] == 1
    memory.check_borders()


def pack_and_unpack(on, seed):
    for number, dtype in enumerate([*DTYPES, "int8"]):
        rng = np.random.default_rng([seed, number])
        sizes = some_sizes(rng)
        data = rng.integers(0, 256, sum(sizes) * np.dtype(DTYPES.get(dtype, dtype)).itemsize).astype(np.uint8)
        tensors = np.split(data.view(stored(np.dtype(DTYPES.get(dtype, dtype)))), np.cumsum(sizes)[:-1])
        memory = Memory(on, rng)
        there = [memory.put(tensor) for tensor in tensors]
        into = [memory.room(tensor.size, tensor.dtype) for tensor in tensors]
        flat = memory.room(sum(sizes), tensors[0].dtype)
        bucket.Bucket(there, on=on).pack(flat)
        same(flat, bucket.packed(tensors))
        bucket.Bucket(into, on=on).unpack(flat)
        for got, wanted in zip(into, bucket.unpacked(bucket.packed(tensors), [(s,) for s in sizes]), strict=True):
            same(got, wanted)
        memory.check_borders()


CASES = (
    sum_max_min_prod_of_two,
    sum_max_min_prod_of_rows,
    sum_max_min_prod_into_all,
    average_and_cast,
    unscale_and_check,
    sgd_update,
    lars_update,
    quantise_and_dequantise,
    select_and_scatter,
    pack_and_unpack,
)
