"""The collectives on buffers in the memory of the simulated device."""

import pytest
from collective_cases import *  # noqa: F403
from device_cases import *  # noqa: F403

pytestmark = pytest.mark.mpi
