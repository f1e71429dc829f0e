"""Images into a lossless archive: python tools/compress.py IMAGES --model MODEL --out FILE"""

from cascade.commands import run

if __name__ == "__main__":
    run("compress")
