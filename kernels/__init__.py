"""The arithmetic on buffers: each kernel with its NumPy form."""
