"""Whether there can be virtual hosts here."""

import os
import subprocess

from hpcdist.cluster import namespaces
from hpcdist.cluster.namespaces import NamespaceError


def missing(*kinds):
    """Why there can be no hosts with namespaces of these kinds, given as unshare's options, or None."""
    try:
        namespaces.check_tools()
    except NamespaceError as error:
        return str(error)
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    tried = subprocess.run(["unshare", *user, *kinds, "true"], capture_output=True, text=True, check=False)
    return f"neither root nor a user with namespaces: {tried.stderr.strip()}" if tried.returncode else None
