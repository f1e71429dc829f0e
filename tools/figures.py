"""Figures of cascades and runs: python tools/figures.py reconstructions runs/mnist5k --out r.png"""

from cascade.commands import run

if __name__ == "__main__":
    run("figures")
