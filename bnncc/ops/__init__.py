"""The domain `bnncc`: one file an operator, its numpy meaning first."""

ONNX_DOMAIN = "bnncc"
ONNX_VERSION = 1
