"""The sweep of device buffers and the report, on GPUs: small, but every element is checked."""

import numpy as np
import pytest
from mpi4py import MPI

from hpcdist.algorithms import ALLREDUCE, SHARED
from hpcdist.bench.findings import Findings
from hpcdist.bench.gpu.measurement import work
from hpcdist.bench.gpu.report import LEAST, Part, Record
from hpcdist.device.paths import ASKABLE, AUTO, PEER
from hpcdist.kernels.reduce import DTYPES, OPS
from hpcdist.sweep import measure, paths
from hpcdist.sweep.measure import Bench, Point
from hpcdist.sweep.record import LIBRARY

pytestmark = pytest.mark.mpi

WORLD = MPI.COMM_WORLD
ALL_PATHS = tuple(path for path in ASKABLE if path != AUTO)  # those that are not possible here are left out


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_algorithm_is_right_on_every_path(gpu, dtype, op):
    found = paths.find(WORLD, gpu, ALL_PATHS)
    for count in (1, 61, 100_003):
        point = Point(count, DTYPES[dtype], op)
        names = [name for name in (*ALLREDUCE, SHARED, LIBRARY) if not measure.refused(name, point)]
        with Bench(WORLD, point, names, accelerator=gpu, paths=found) as bench:
            bench.check()
            wrong = {f"{c.algorithm} {c.path} {c.placement}": str(c.bad) for c in bench.cases if c.bad}
            assert wrong == {}


@pytest.mark.limit(600)
def test_the_report_is_right_and_no_faster_than_the_floor(gpu):
    found = Findings(WORLD, None, Part(), gpu)
    work(found, (4096, 1 << 24), ("ring", SHARED), ALL_PATHS, LEAST, 0.1)
    assert not found.part.problems()
    records = [row for row in found.part.rows if isinstance(row, Record)]
    assert {(record.algorithm, record.nbytes) for record in records} >= {("ring", 4096), ("ring", 1 << 24)}
    large = [record for record in records if record.nbytes == 1 << 24 and record.share]
    assert all(0 < record.share.median < 1.2 for record in large), "a time below the floor would be none"


def test_the_result_is_there_when_the_librarys_call_returns(gpu):
    found = paths.find(WORLD, gpu, ALL_PATHS)
    with Bench(WORLD, Point(1 << 22, np.dtype("f4"), "sum"), [LIBRARY], accelerator=gpu, paths=found) as bench:
        for case in bench.cases:
            bench.source.fill(1)
            bench.target.fill(1)
            case.call()
            assert bool((bench.target == WORLD.size).all()), f"{case.path} {case.placement}"


def test_auto_takes_the_direct_path_where_it_can_be_taken(gpu):
    found = paths.find(WORLD, gpu, (AUTO, PEER))
    assert (found.taken[AUTO] == PEER) == (PEER in found.taken)
