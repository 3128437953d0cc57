"""What kernels are written with: vectors, loops over tiles and windows, products, epilogues. None of it is a kernel."""
