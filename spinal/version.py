"""The version of this package. A module of its own, so that what stands lowest can read it."""

VERSION = "0.1.0"
