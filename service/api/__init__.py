"""HTTP: routes and wire schemas by noun. A handler parses, calls one use case, shapes the answer."""
