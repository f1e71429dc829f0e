"""Colour grey photos: python tools/colour.py runs/colour/photos photo.png --num 4 --out out/"""

from cascade.commands import run

if __name__ == "__main__":
    run("colour")
