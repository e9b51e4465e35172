"""`python -m gencodec` is the `gencodec` command."""

from gencodec.cli import main

if __name__ == "__main__":
    main()
