"""Train one stage: accelerate launch tools/train.py configs/mnist5k/glow8.yaml [key=value ...]"""

from cascade.commands import run

if __name__ == "__main__":
    run("train")
