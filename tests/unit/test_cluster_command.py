"""The verbs of `hpcdist cluster`; what they do is tested on virtual hosts."""

import pytest
from click.testing import CliRunner

from hpcdist.cli.main import main


def test_all_verbs_are_there_each_with_a_line_of_help():
    said = CliRunner().invoke(main, ["cluster", "--help"]).output
    listed = [line.split()[0] for line in said.partition("Commands:")[2].splitlines() if line.split()[1:]]
    assert listed == ["cut", "down", "exec", "heal", "kill", "run", "status", "up"]


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_verbs_that_take_a_command_or_options_of_others_have_help(verb):
    done = CliRunner().invoke(main, ["cluster", verb, "--help"])
    assert done.exit_code == 0, done.output
