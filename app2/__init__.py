"""app2: serves the viewer page, on which captions appear live."""
