"""The command line: one small file a command; everything it does is done by the library."""
