"""TIR kernels: plain functions of shapes, an epilogue and a target. They know no Relax."""
