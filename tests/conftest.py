"""Every test has a time limit that works even inside a blocked C call, such as a receive that nobody sends to.

The limit is HPCDIST_TEST_TIMEOUT seconds (default 120), or a test's own: `@pytest.mark.limit(300)`. When it is up, the
stacks of all threads are printed and the process ends; under a launcher that ends all ranks.

Launchers that tests kill leave their folders in a TMPDIR that is removed at the end.
"""

import faulthandler
import gc
import os
import shutil
import tempfile

import pytest
from matrix import pytest_collection_modifyitems

__all__ = ["pytest_collection_modifyitems"]

LIMIT = float(os.environ.get("HPCDIST_TEST_TIMEOUT", "120"))
TERMINAL = pytest.StashKey[int]()
FOLDER = pytest.StashKey[str]()


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): how long the test may take; 0 for as long as it likes")
    config.stash[TERMINAL] = os.dup(2)  # while a test runs, file descriptor 2 belongs to pytest's capture
    config.stash[FOLDER] = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="hpcdist-")


def pytest_collection_finish():
    """Garbage is looked for in what tests make, not again and again in all that was imported."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config):
    os.close(config.stash[TERMINAL])
    shutil.rmtree(config.stash[FOLDER], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    mark = item.get_closest_marker("limit")
    seconds = mark.args[0] if mark else LIMIT
    if seconds:
        faulthandler.dump_traceback_later(seconds, exit=True, file=item.config.stash[TERMINAL])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
