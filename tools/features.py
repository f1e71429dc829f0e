"""Train a net whose features scores compare: python tools/features.py cifar10 --out cifar10.pt"""

from cascade.commands import run

if __name__ == "__main__":
    run("features")
