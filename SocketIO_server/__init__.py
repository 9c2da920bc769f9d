"""The relay: takes captions from publishers, keeps the history, broadcasts to viewers."""  # noqa: N999 (the name that everybody knows)
