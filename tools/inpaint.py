"""Fill a part of a photo: python tools/inpaint.py runs/inpaint/mnist5k digit.png --mask mask.png"""

from cascade.commands import run

if __name__ == "__main__":
    run("inpaint")
