"""Images out of an archive: python tools/decompress.py FILE --out FOLDER"""

from cascade.commands import run

if __name__ == "__main__":
    run("decompress")
