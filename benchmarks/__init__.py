"""How fast the compiler's kernels and networks are on this machine, beside what the machine could do at best and beside
other runtimes, and how good the ARM code is where there is no board. `python -m benchmarks.run --help`."""
