"""Every command and program of the pages, run as a reader would."""

import pytest
from pages import PAGES, ROOT, check, commands, prepare, programs, run

pytestmark = [pytest.mark.long, pytest.mark.limit(600)]


def _with(found):
    return pytest.mark.parametrize("page", [page for page in PAGES if found(page)], ids=_name)


def _name(page):
    return str(page.relative_to(ROOT))


@_with(lambda page: any(commands(page)))
def test_commands_print_what_the_page_shows(page, tmp_path):
    prepare(page, tmp_path)
    check(page, tmp_path)


@_with(lambda page: any(commands(page, "torch")))
def test_programs_for_torch_print_what_the_page_shows(page, tmp_path):
    pytest.importorskip("torch")
    prepare(page, tmp_path)
    check(page, tmp_path, "torch")


@_with(lambda page: programs(page)[1])
def test_snippets_run_on_two_ranks(page, tmp_path):
    prepare(page, tmp_path)
    run("hpcdist run -n 2 -- python snippets.py", tmp_path)


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "jobscripts").glob("*.py")))
def test_programs_say_how_they_are_run(name, tmp_path):
    prepare(ROOT / "README.md", tmp_path)
    text = (ROOT / "jobscripts" / name).read_text()
    lines = [line for line in text.splitlines() if line.startswith(("hpcdist ", "python "))]
    assert lines
    for line in lines:
        run(line, tmp_path)
