"""Tools for whoever changes the code; nothing here is shipped."""
