"""What good photos are like: python tools/pristine.py photos/ --out pristine.safetensors"""

from cascade.commands import run

if __name__ == "__main__":
    run("pristine")
