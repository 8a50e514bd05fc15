"""SGD on least squares, compiled: many steps in one call. NumPy arrays in, NumPy arrays out."""
