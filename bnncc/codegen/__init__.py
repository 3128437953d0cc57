"""From kernels to a shared library: object code, static memory plan, entry points, linking."""
