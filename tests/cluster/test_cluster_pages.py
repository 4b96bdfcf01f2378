"""The commands of pages that want virtual hosts."""

import pytest
from pages import PAGES, check, cluster_of_pages, commands, prepare
from virtual_hosts import missing

MISSING = missing("--net")
pytestmark = [pytest.mark.skipif(MISSING is not None, reason=str(MISSING)), pytest.mark.limit(600)]


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page, "cluster"))], ids=str)
def test_commands_print_what_the_page_shows(page, tmp_path):
    prepare(page, tmp_path)
    with cluster_of_pages():
        check(page, tmp_path, "cluster")
