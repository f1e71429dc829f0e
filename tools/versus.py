"""A flow against a GAN and L1: python tools/versus.py configs/versus/photos-x2.yaml --features F"""

from cascade.commands import run

if __name__ == "__main__":
    run("versus")
