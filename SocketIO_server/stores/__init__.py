"""Where the relay keeps captions: `protocol.Store`, and one module for each kind of store."""
