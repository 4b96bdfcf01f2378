"""The collectives on buffers in GPU memory; start it on several ranks, too: `hpcdist run -n 4 -- pytest --with-mpi`."""

import pytest
from collective_cases import *  # noqa: F403
from device_cases import *  # noqa: F403

pytestmark = pytest.mark.mpi
