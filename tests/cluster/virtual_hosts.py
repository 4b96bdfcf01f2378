"""Whether there can be virtual hosts here, and the clusters that tests make of them."""

import os
import subprocess
import sys
from pathlib import Path

from hpcdist.cluster import namespaces
from hpcdist.cluster.namespaces import NamespaceError

HPCDIST = str(Path(sys.executable).with_name("hpcdist"))


class Cluster:
    """A cluster of a test file's own, and other people's left alone; calling it runs `hpcdist cluster` on it."""

    def __init__(self, name):
        self.name = f"{name}-{os.getpid()}"

    def __call__(self, verb, *arguments, check=True, **variables):
        """The process of a verb, when it has ended; `variables` are set in its environment."""
        command = [HPCDIST, "cluster", verb, "--name", self.name, *map(str, arguments)]
        how = {"capture_output": True, "text": True, "errors": "replace", "timeout": 150, "check": False}
        done = subprocess.run(command, env=os.environ | variables, **how)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done


def missing(*kinds):
    """Why there can be no hosts with namespaces of these kinds, given as unshare's options, or None."""
    try:
        namespaces.check_tools()
    except NamespaceError as error:
        return str(error)
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    tried = subprocess.run(["unshare", *user, *kinds, "true"], capture_output=True, text=True, check=False)
    return f"neither root nor a user with namespaces: {tried.stderr.strip()}" if tried.returncode else None
