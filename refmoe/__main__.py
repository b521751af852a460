"""`python -m refmoe`: the same as the command `refmoe`."""

from refmoe.cli import main

if __name__ == "__main__":
    main()
