"""Draw a grid of samples: python tools/sample.py runs/mnist5k --num 100 --out grid.png"""

from cascade.commands import run

if __name__ == "__main__":
    run("sample")
