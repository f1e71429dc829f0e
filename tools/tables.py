"""A table of scores: python tools/tables.py configs/tables/mnist5k.yaml --features FILE.pt"""

from cascade.commands import run

if __name__ == "__main__":
    run("tables")
