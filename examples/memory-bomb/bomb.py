"""Takes memory, a mebibyte at a time, until the kernel says no."""

taken = []
while len(taken) < 1024:
    taken.append(bytearray(b"x" * (1 << 20)))
