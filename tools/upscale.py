"""Enlarge a photo: python tools/upscale.py runs/photos/srf2x photo.png --num 4 --out out/"""

from cascade.commands import run

if __name__ == "__main__":
    run("upscale")
