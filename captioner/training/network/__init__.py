"""The networks, in `keras.layers` and `keras.ops` alone: they run on each backend of Keras."""
