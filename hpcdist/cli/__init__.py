"""The command line: one verb for each thing that people do. A verb's help needs no MPI."""
