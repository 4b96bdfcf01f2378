"""Data sets as HDF5 files, of which every rank reads its own samples only, and the order of the samples."""
