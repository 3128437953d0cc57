"""Is the artifact the model? The source in onnxruntime, every stage of the compiler, and the machine code, on the same
inputs: answers and scores on whole samples, and bits and sums layer by layer."""
