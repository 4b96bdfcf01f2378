"""`hpcdist checkpoint`: look at checkpoints, check, compare, convert, export and remove them; one process, no MPI."""
