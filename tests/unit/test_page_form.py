"""The tests of pages themselves: what they take for a command, and for the same form."""

import re

import pytest
from pages import PAGES, ROOT, Command, commands, form, missing, programs

PAGE = """\
# A page

```python
# average.py
print(1)
```

```python
x = 1
```

```console
$ hpcdist show ring \\
      -n 4   # a comment
ring: 4 ranks
...
$ true
```

```console slurm
$ srun hostname
```

```python
y = x
```
"""


def test_commands_come_with_their_lines_and_what_they_print(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    first, second = commands(page)
    assert first == Command(13, "hpcdist show ring -n 4", ("ring: 4 ranks", "..."))
    assert second == Command(17, "true", ())
    assert [command.text for command in commands(page, "slurm")] == ["srun hostname"]
    assert programs(page) == ({"average.py": "# average.py\nprint(1)\n"}, "x = 1\n\ny = x\n")


@pytest.mark.parametrize(
    ("prints", "output", "lacking"),
    [
        (("took 1.5 us",), "took    0.25 us\n", None),
        (("took 1.5 us",), "took 0.25 ms\n", "took 1.5 us"),
        (("a", "b"), "a\nc\n", "b"),
        (("a", "...", "d"), "a\nb\nc\nd\n", None),
        (("a",), "a\nb\n", "(nothing more)"),
        (("a", "..."), "a\nb\n", None),
        (("wrote /tmp/...",), "wrote /tmp/x\n", None),
        ((), "anything\n", None),
        (("a",), "", "a"),
    ],
)
def test_what_has_another_form_is_found(prints, output, lacking):
    assert missing(prints, output) == lacking


def test_names_with_digits_are_no_numbers():
    assert form("float32  on rank 3") == "float32 on rank #"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing
