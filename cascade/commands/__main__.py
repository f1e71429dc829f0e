"""``python -m cascade.commands COMMAND ...``, the same as ``csrflow COMMAND ...``."""

from cascade.commands import main

if __name__ == "__main__":
    main()
