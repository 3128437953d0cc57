"""Timing of compiled networks: the whole call, layer by layer, and beside onnxruntime in the same run.

Every number made here is measured on the machine it runs on, and says so (`"kind": "measured"`).
"""
