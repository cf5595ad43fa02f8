"""The VFIO user API: ways to put a device behind an IOMMU (or beside it) and to reach its memory.

- :mod:`amdrv.vfio.call`      one ioctl, with errors that say what was asked
- :mod:`amdrv.vfio.iova`      which I/O virtual addresses are free
- :mod:`amdrv.vfio.iommu`     type 1 containers, no-IOMMU, iommufd: one table of operations
- :mod:`amdrv.vfio.device`    the device descriptor: regions, interrupts, the function's own reset
- :mod:`amdrv.vfio.interrupts`  INTx, MSI, MSI-X and the kernel's notices on eventfds
- :mod:`amdrv.vfio.reset`     resets of the whole slot or bus
- :mod:`amdrv.vfio.bind`      which kernel driver has a function

Linux only; nothing here is imported before a VFIO HAL is asked for.
Source: Linux 6.12, include/uapi/linux/vfio.h and iommufd.h, Documentation/driver-api/vfio.rst.
"""
