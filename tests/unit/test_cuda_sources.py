"""The CUDA kernels without a GPU: the same sources, compiled for this processor and run beside their NumPy twins."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from buffers import bits, special
from click.testing import CliRunner
from cuda_on_host import COMPILER, Host
from kernel_twins import CASES, KERNELS, floats, host

from hpcdist.kernels import average, bench, bucket, combine, lars, quantise, sgd, sparse, unscale
from hpcdist.kernels.device import FOLDER, SOURCES, THREADS
from hpcdist.kernels.reduce import DTYPES, binary
from hpcdist.kernels.segments import TILE, Segments, tiles_of
from hpcdist.optim.sgd import SGD

pytestmark = pytest.mark.long

NVCC = shutil.which("nvcc")
FLOATS = [name for name, dtype in DTYPES.items() if dtype.kind != "i"]

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="kernels are run on the host by g++, and there is none")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc here; `make check-kernels` needs it, too")


@pytest.fixture(scope="session")
def on(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kernels"
    folder.mkdir(exist_ok=True)
    return Host(folder, KERNELS)


@pytest.mark.paired
@needs_compiler
@pytest.mark.limit(600)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("seed", range(10))
def test_a_kernel_has_the_bits_of_its_twin(on, case, seed):
    case(on, seed)


# ---- what runs them here


TRAPS = """
#include "numbers.cuh"
extern "C" __global__ void alone(int* out) { if (threadIdx.x == 3) __syncthreads(); out[0] = 1; }
extern "C" __global__ void together(int* out, int value) { __syncthreads(); out[threadIdx.x] = value; }
extern "C" __global__ void unguarded(int* out) {
    __shared__ int part[THREADS];
    part[threadIdx.x] = static_cast<int>(threadIdx.x);
    out[threadIdx.x] = part[(threadIdx.x + 1) % THREADS];
}
"""


@pytest.fixture(scope="session")
def traps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traps")
    (folder / "traps.cu").write_text(TRAPS)
    return Host(folder, {"traps": ("alone", "together", "unguarded")}, sources=folder)


@needs_compiler
def test_a_barrier_that_some_threads_do_not_reach_is_found(traps):
    with pytest.raises(RuntimeError, match="alone has a barrier that some threads do not reach"):
        traps.launch("traps", "alone", 1, [np.uint64(np.zeros(1, np.int32).ctypes.data)])


@needs_compiler
def test_an_argument_of_the_wrong_size_is_found(traps):
    out = np.zeros(256, np.int32)
    traps.launch("traps", "together", 1, [np.uint64(out.ctypes.data), np.int32(7)])
    assert (out == 7).all()
    with pytest.raises(RuntimeError, match="together takes an argument 2 of another size than 8 bytes"):
        traps.launch("traps", "together", 1, [np.uint64(out.ctypes.data), 7])
    with pytest.raises(RuntimeError, match="together takes another number of arguments"):
        traps.launch("traps", "together", 1, [np.uint64(out.ctypes.data)])


@needs_compiler
def test_a_missing_barrier_shows(traps):
    out = np.zeros(256, np.int32)
    traps.launch("traps", "unguarded", 1, [np.uint64(out.ctypes.data)])
    assert (out != (np.arange(256) + 1) % 256).any()


# ---- what nvcc makes of them


@pytest.fixture(scope="session")
def ptx(tmp_path_factory):
    """The PTX of every kernel by its name, compiled as CuPy does: with -ftz=true, and here even with -fmad=true."""
    folder, found = tmp_path_factory.mktemp("ptx"), {}
    for source in SOURCES:
        out = folder / f"{source}.ptx"
        command = [NVCC, "-std=c++17", "-arch=compute_80", "-ftz=true", "-fmad=true", "-ptx", FOLDER / f"{source}.cu"]
        subprocess.run([*command, "-o", out], check=True)
        for part in out.read_text().split(".visible .entry ")[1:]:
            found[source, part[: part.index("(")]] = part
    return found


@needs_nvcc
@pytest.mark.limit(600)
def test_the_kernels_of_a_source_are_those_that_its_module_lists(ptx):
    assert set(ptx) == {(source, kernel) for source, kernels in KERNELS.items() for kernel in kernels}


@needs_nvcc
@pytest.mark.limit(600)
def test_no_option_changes_what_float32_arithmetic_gives(ptx):
    """Neither contraction nor flushing: the two that CuPy and nvcc bring along."""
    for name, text in ptx.items():
        assert not re.search(r"\bfma\.|\b(add|sub|mul|div)(\.rn)?(\.ftz)+\.f32|\b(add|mul)\.f32", text), name


@needs_nvcc
@pytest.mark.limit(600)
def test_memory_is_moved_16_bytes_at_a_time_and_registers_suffice(ptx):
    bulk = re.compile(r"\b(ld|st)(?:\.global)?(?:\.nc|\.wb)?\.(?:v4\.[busf]32|v2\.[busf]64)")
    for (source, kernel), text in ptx.items():
        if source in ("bucket", "combine", "sgd") or kernel in ("lars_update", "unscale_float32"):
            assert {found[1] for found in bulk.finditer(text)} == {"ld", "st"}, kernel
        assert ".local" not in text, kernel


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("numbers.cuh", "THREADS", THREADS),
        ("numbers.cuh", "WARP", quantise.WARP),
        ("quantise.cu", "GROUP", quantise.GROUP),
        ("combine.cu", "MOST", combine.MOST),
        ("sparse.cu", "BINS", sparse.BINS),
        ("sparse.cu", "RUN", sparse.SPAN // THREADS),
    ],
)
def test_a_constant_is_the_same_on_both_sides(file, name, value):
    assert f"constexpr int {name} = {value};" in (FOLDER / file).read_text()


# ---- twins


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors treat NaNs and -0 otherwise")
@pytest.mark.parametrize("op", combine.OPS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_twin_of_two_is_numpys_own_but_for_two_nans(dtype, op):
    left, right = special(2, 999, dtype)
    with np.errstate(all="ignore"):
        wanted, got = binary(op)(left, right), combine.combined(op, [left, right])
    both = np.isnan(left) & np.isnan(right)
    assert 0 < both.sum() < 100
    np.testing.assert_array_equal(bits(got)[~both], bits(wanted)[~both])
    np.testing.assert_array_equal(np.signbit(got[both]), np.signbit(left[both]))


def test_a_sum_of_many_halves_is_rounded_once():
    rows = [np.full(5, value, np.float16) for value in (2048, 1, 1, 1, 1)]
    assert combine.combined("sum", rows).tolist() == [2052] * 5
    assert sum(rows[1:], rows[0]).tolist() == [2048] * 5


def test_the_twin_of_sgd_is_the_optimizer():
    rng = np.random.default_rng(1)
    parameters, velocity = floats(rng, 500), np.zeros(500, np.float32)
    optimizer = SGD(parameters.copy(), momentum=0.9, weight_decay=1e-4)
    for step in range(3):
        gradient, rate = floats(rng, 500), 0.1 / (step + 1)
        optimizer.step(gradient, rate)
        rates, decays = np.array([rate], np.float32), np.array([1e-4], np.float32)
        parameters, velocity = sgd.updated(parameters, velocity, gradient, [500], rates, decays, 0.9)
        np.testing.assert_array_equal(bits(parameters), bits(optimizer.parameters))
        np.testing.assert_array_equal(bits(velocity), bits(optimizer.velocity))


def test_the_twin_of_lars_follows_the_paper():
    rng = np.random.default_rng(2)
    w, g = floats(rng, 3 * TILE), floats(rng, 3 * TILE)
    sizes, how = [TILE + 5, 2 * TILE - 5], {"rate": 0.5, "trust": 0.01, "decay": 1e-3}
    rates = lars.local_rates(w, g, sizes, **how)
    for rate, part in zip(rates, [slice(0, TILE + 5), slice(TILE + 5, None)], strict=True):
        norm, slope = (np.linalg.norm(array[part].astype(np.float64)) for array in (w, g))
        assert rate == pytest.approx(0.5 * 0.01 * norm / (slope + 1e-3 * norm), rel=1e-6)
    zero = np.zeros_like(w)
    assert lars.local_rates(zero, g, sizes, **how).tolist() == [0.5, 0.5]
    velocity = lars.updated(w, zero, g, sizes, momentum=0.9, **how)[1]
    np.testing.assert_allclose(velocity, np.repeat(rates, sizes) * (g + np.float32(1e-3) * w), rtol=1e-6)


def test_a_code_is_off_by_half_a_step_at_most_and_the_rest_is_kept():
    x = floats(np.random.default_rng(3), 1000)
    codes, scales, error = quantise.quantised(x, np.zeros_like(x))
    back = quantise.dequantised(codes, scales)
    assert (np.abs(x - back) <= 0.5001 * np.repeat(scales, quantise.GROUP)[:1000]).all()
    np.testing.assert_array_equal(error, x - back)
    assert np.abs(codes.astype(int)).reshape(-1)[: quantise.GROUP].max() == 127


def test_what_error_feedback_keeps_is_sent_in_the_end():
    x, error, sent = floats(np.random.default_rng(4), 300), np.zeros(300, np.float32), np.zeros(300)
    for _ in range(50):
        codes, scales, error = quantise.quantised(x, error)
        sent += quantise.dequantised(codes, scales)
    np.testing.assert_allclose(sent + error, 50 * x.astype(float), rtol=1e-4, atol=1e-5 * np.abs(x).max())


def test_a_group_with_a_nan_is_seen_by_who_receives_it_and_leaves_no_error():
    x = np.ones(600, np.float32)
    x[300] = np.nan
    codes, scales, error = quantise.quantised(x, np.zeros_like(x))
    assert np.isnan(quantise.dequantised(codes, scales)[256:512]).all()
    assert np.isfinite(scales[[0, 2]]).all()
    assert np.isfinite(error).all()


def test_more_passes_find_the_threshold_more_closely():
    x = floats(np.random.default_rng(5), 5000)
    for k in (1, 50, 4999):
        exact = np.sort(np.abs(x))[-k]
        one, two, three = (np.uint32(sparse.threshold_of(x, k, passes)).view(np.float32) for passes in (1, 2, 3))
        assert 7 / 8 * exact <= one <= two <= three == exact
        assert two >= (1 - 2.0**-13) * exact
        assert len(sparse.selected(x, k, 5000, passes=3)[0]) == k


def test_tiles_cover_every_segment_once():
    sizes = [0, 5, TILE, TILE + 1, 0, 3 * TILE]
    table, first, offsets = tiles_of(sizes)
    covered = np.concatenate([np.arange(begin, end) for begin, end, _ in table])
    np.testing.assert_array_equal(covered, np.arange(sum(sizes)))
    for begin, end, segment in table:
        assert offsets[segment] <= begin < end <= offsets[segment + 1]
        assert end - begin <= TILE
    np.testing.assert_array_equal(np.repeat(np.arange(6), np.diff(first)), table[:, 2])


# ---- arguments


def wrong_arguments(on):
    """(call, what the error says) for each."""
    x, y, h = np.zeros(8, np.float32), np.zeros(8, np.float32), np.zeros(8, np.uint16)
    i, flag = np.zeros(8, np.int32), np.zeros(1, np.int32)
    shifted = np.zeros(40, np.uint8)[1:33].view(np.float32)
    return [
        (lambda: combine.combine("mean", x, [x, y], on=on), "no kernel for 'mean'; choose from sum, prod, max, min"),
        (lambda: combine.combine("sum", x, [x] * 65, on=on), "65 sources; a kernel takes from 1 to 64"),
        (lambda: combine.combine_into_all("sum", [], [x], on=on), "0 targets; a kernel takes from 1 to 64"),
        (lambda: combine.combine_into_all("sum", [x, y, x], [x], on=on), r"targets\[0\] and targets\[2\] share memory"),
        (
            lambda: combine.combine_into_all("sum", [y, h], [x], on=on),
            r"targets\[1\] has bfloat16 elements; .* float32",
        ),
        (
            lambda: combine.combine_into_all("sum", [y[:4]], [x[:4], y[2:6]], on=on),
            "share memory, but are not the same",
        ),
        (lambda: combine.combine("sum", x, [x, h], on=on), r"sources\[1\] has bfloat16 elements; .* must be float32"),
        (lambda: combine.combine("sum", x, [x, y[:7]], on=on), r"sources\[1\] has 7 elements; here there must be 8"),
        (lambda: combine.combine("sum", x[1:], [x[:-1], y[1:]], on=on), "share memory, but are not the same"),
        (lambda: combine.combine("sum", x, [x, list(y)], on=on), r"sources\[1\] is a list"),
        (lambda: combine.combine("sum", shifted, [y, y], on=on), "out begins at address .*, no multiple of .* 4 bytes"),
        (lambda: average.average(i, x, 2, on=on), "no average of float32 as int32"),
        (lambda: average.average(x, x, 0, on=on), "a mean over 0 ranks"),
        (lambda: average.average(h[:4], x[:4].view(np.uint16)[:4], 2, on=on), None),
        (lambda: unscale.unscale(x, i, 0.5, flag, on=on), "gradient has int32 elements; supported are float32"),
        (lambda: quantise.quantise(h.view(np.int8)[:8], x[:2], y, x, on=on), "scales has 2 elements; .* must be 1"),
        (lambda: sparse.select(i, y, x, 9, on=on), "9 of 8 elements cannot be selected"),
        (lambda: sparse.select(i, y, x, 3, passes=4, on=on), "no search of 4 passes; choose from 1 to 3"),
        (lambda: bucket.Bucket([], on=on), "a bucket of no tensors"),
        (lambda: bucket.Bucket([x, h], on=on), r"tensors\[1\] has bfloat16 elements, the first one float32"),
        (lambda: bucket.Bucket([x, x[3:4]], on=on), r"tensors\[0\] and tensors\[1\] share memory"),
        (lambda: bucket.Bucket([x[:4], y], on=on).pack(x[2:].repeat(2)), None),
        (lambda: bucket.Bucket([x[:4]], on=on).pack(x[2:6]), r"flat and tensors\[0\] share memory"),
        (lambda: Segments([3, -1], on=on), "none can be negative"),
        (lambda: sgd.update(x, x, y, Segments([8], on=on), y[:1], y[:1], 0.9, on=on), "parameters and velocity share"),
    ]


@needs_compiler
def test_wrong_arguments_are_refused_with_the_numbers(on):
    for call, text in wrong_arguments(on):
        if text is None:
            call()
        else:
            with pytest.raises((TypeError, ValueError), match=text):
                call()


@needs_compiler
def test_empty_arrays_are_left_alone(on):
    x, i, flag = np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(1, np.int32)
    combine.combine("sum", x, [x, x], on=on)
    combine.combine_into_all("sum", [x], [x], on=on)
    average.average(x, x, 3, on=on)
    unscale.unscale(x, x, 1.0, flag, on=on)
    quantise.quantise(np.zeros(0, np.int8), x, x, x, on=on)
    sparse.scatter_add(x, i, x, flag, on=on)
    assert host(flag)[0] == 0


def test_without_cupy_kernels_are_imported_and_say_what_is_missing():
    program = """
import sys; sys.modules["cupy"] = None
import numpy as np
from hpcdist.kernels import average, bench, bucket, combine, lars, quantise, segments, sgd, sparse, unscale
x = np.ones(3, np.float32)
for call in (lambda: combine.combine("sum", x, [x, x]), lambda: segments.Segments([3])):
    try: call()
    except (TypeError, RuntimeError) as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    first, second = done.stdout.splitlines()
    assert first == "out is a ndarray, not in device memory; pass cupy.asarray(out)"
    assert second.startswith("kernels run with CuPy, which cannot be imported")
    assert second.endswith("pip install 'hpcdist[cuda]'")


# ---- the benchmark


@needs_compiler
@pytest.mark.parametrize("case", bench.CASES, ids=lambda case: case.name)
def test_every_case_of_the_benchmark_can_be_called(on, case):
    case.prepare(on, 3000)()


def test_a_share_is_the_floor_over_what_a_copy_moves_in_the_same_time():
    case = next(case for case in bench.CASES if case.name == "sum of 2, float32")
    rounds = [((1.0, True), (2.0, True)), ((2.0, True), (3.0, True)), ((1.0, True), (1.5, False))]
    record = bench.record(case, 4000, rounds)
    assert record.floor_nbytes == 3 * 4000
    assert record.share == pytest.approx(1.0)  # 3/2 bytes of the copy in 2, 3/2 and 3/2 of its time
    assert record.time_us == pytest.approx(2e6)
    assert record.copy_GBps == pytest.approx(8e-6)
    assert record.queued == pytest.approx(2 / 3)
    assert bench.table([record]).splitlines()[-1] == "| sum of 2, float32 | 100%* |"


def test_the_benchmark_takes_sizes_as_the_sweep_does():
    assert bench.sizes(2**20, 2**30, 4) == [2**20, 2**22, 2**24, 2**26, 2**28, 2**30]
    for wrong, text in (
        (["--min-bytes", "2MB"], "may mean powers of 1000 or of 1024"),
        (["--min-bytes", "2MiB", "--max-bytes", "1MiB"], "the largest last"),
        (["--kernel", "adam"], "no kernel has adam in its name: sum of 2, float64; "),
    ):
        done = CliRunner().invoke(bench.main, wrong)
        assert done.exit_code == 2
        assert text in done.output


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is here, and perhaps a GPU")
def test_without_a_gpu_the_benchmark_writes_nothing(tmp_path):
    done = CliRunner().invoke(bench.main, ["--out", str(tmp_path / "kernels")])
    assert done.exit_code == 1
    assert "nothing was measured: kernels run with CuPy, which cannot be imported" in done.output
    assert not list(tmp_path.iterdir())
