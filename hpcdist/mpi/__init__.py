"""The MPI library at hand: how ranks are started, what it says and can be told, and what must hold among its ranks."""
