"""A report as one HTML page: what is drawn and said, for the templates beside it."""
