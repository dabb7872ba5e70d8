"""`python -m vitpe`, which is also what torchrun starts."""

from vitpe.cli import main

if __name__ == "__main__":
    main()
