"""From the last Relax module to kernels: which kernel computes what, in which order, with which schedule."""
