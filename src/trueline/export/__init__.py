"""`trueline export`: a trained line as JSON and as ONNX, checked before it is written."""
