"""app1: the upload page and HTTP API. It runs the captioner and publishes to the relay."""
