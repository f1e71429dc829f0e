"""FID and other scores: python tools/evaluate.py runs/mnist5k --num 50000 --inception FILE"""

from cascade.commands import run

if __name__ == "__main__":
    run("evaluate")
