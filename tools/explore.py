"""Play with a model in the browser: python tools/explore.py runs/mnist5k-haar"""

from cascade.commands import run

if __name__ == "__main__":
    run("explore")
