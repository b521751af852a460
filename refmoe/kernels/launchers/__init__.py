"""One launcher a file: checks, outputs, and which kernel a call takes."""
