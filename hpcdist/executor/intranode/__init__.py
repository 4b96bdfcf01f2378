"""Programs of the ranks of one node, which read and write memory of each other."""
