"""Training on the simulated device; with GUARDED_AWARE=1 MPI is handed its memory."""

import guarded
import pytest
from guarded import SIMULATED
from train_cases import *  # noqa: F403

from hpcdist.device.awareness import ENVIRONMENT
from hpcdist.device.kinds import KINDS
from hpcdist.device.paths import AWARE, PEER, STAGED

pytest.importorskip("sklearn", reason="trains on the digits")
pytestmark = [pytest.mark.mpi, pytest.mark.long]


@pytest.fixture(autouse=True, scope="module")
def kind():
    guarded.install()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, "simulated", lambda: SIMULATED)
        patch.setenv(ENVIRONMENT, str(int(guarded.AWARE)))
        yield "simulated"


@pytest.fixture(params=[AWARE] if guarded.AWARE else [STAGED, PEER])
def path(request):
    return request.param


@pytest.fixture
def slow():
    return lambda: guarded.slow(guarded.current(), seconds=0.3)
