"""Into the compiler: torch module -> ONNX file -> Relax module."""
