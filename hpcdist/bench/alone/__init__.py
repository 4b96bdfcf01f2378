"""Jobs of Pythons that do not have this package, or another commit of it; `harness` is what they and ours share.

A program in this folder is started by its path, and imports `harness` from beside it.
"""
