"""Speed and memory of a stage, on this machine: python tools/bench.py configs/bench/glow32.yaml"""

from cascade.commands import run

if __name__ == "__main__":
    run("bench")
