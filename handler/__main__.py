"""`python -m handler` is the command `layerdiffuse-alpha`."""

from handler.cli.main import main

if __name__ == "__main__":
    main()
