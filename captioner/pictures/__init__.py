"""The one way in for a picture, for training, command line and servers: see `Preprocessor`."""
