"""Keep a picture in memory as .gnc and cut a part out of it: python examples/embed.py PICTURE."""

import sys

import gencodec


def main(path: str) -> None:
    data = gencodec.compress(path)
    image = gencodec.decompress(data)
    height, width, channels = image.pixels.shape
    print(f"{width} x {height} x {channels}: {8 * len(data) / image.pixels.size:.3f} bits per sub-pixel")

    corner = gencodec.decompress(data, region=(0, 0, min(64, width), min(64, height)))
    print("mean of the upper left corner:", corner.pixels.mean(axis=(0, 1)).round(1))


if __name__ == "__main__":
    main(sys.argv[1])
