"""torch modules -> ONNX graphs: exact lowering, proof of bounds, the files that models ship as."""
