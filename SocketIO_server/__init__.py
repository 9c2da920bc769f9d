"""The relay: takes captions from publishers, keeps the history, broadcasts to viewers."""
