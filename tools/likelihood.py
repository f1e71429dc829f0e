"""Bits/dim of a data set: python tools/likelihood.py runs/mnist5k --data mnist5k --split test"""

from cascade.commands import run

if __name__ == "__main__":
    run("likelihood")
