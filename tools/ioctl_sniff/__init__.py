"""``ioctl-sniff``: what a program says to GPU drivers, decoded.

Runs or follows any program, threads and children included, and prints every ioctl, mmap and open on GPU-like devices.
Stands alone: nothing of the driver is needed, but where it is installed, submitted packets are disassembled.
"""
