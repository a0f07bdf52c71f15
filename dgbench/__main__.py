"""`python -m dgbench` is the command `dgbench`."""

from dgbench.cli import main

if __name__ == "__main__":
    main()
