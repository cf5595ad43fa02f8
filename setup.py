"""Packaging. Everything a user needs to know is in README.md."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="amdrv",
    version="0.1.0",
    description="Boot and drive an AMD GPU from user space, with no kernel driver",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    author="the amdrv authors",
    keywords="AMD GPU driver user-space VFIO RDNA3 gfx1100 emulator compiler tensor",
    classifiers=["Development Status :: 3 - Alpha", "Intended Audience :: Developers",
                 "Intended Audience :: Science/Research", "Operating System :: MacOS",
                 "Operating System :: POSIX :: Linux", "Programming Language :: Python :: 3",
                 "Programming Language :: Python :: 3 :: Only", "Programming Language :: Python :: 3.11",
                 "Programming Language :: Python :: 3.12", "Programming Language :: Python :: 3.13",
                 "Topic :: Software Development :: Compilers", "Topic :: System :: Emulators",
                 "Topic :: System :: Hardware", "Typing :: Typed"],
    python_requires=">=3.11",
    packages=find_packages(include=["amdrv", "amdrv.*", "hcq", "hcq.*", "compiler", "compiler.*", "mock", "mock.*",
                                    "tools", "tools.*"]),
    package_data={"amdrv": ["py.typed", "regs/tables/*"], "compiler": ["py.typed", "viz/page/*"],
                  "hcq": ["py.typed"], "mock": ["py.typed"],
                  "tools": ["py.typed", "boot_diff/data/*", "boot_diff/*.toml", "ioctl_sniff/decoders/*",
                            "ioctl_sniff/*.toml", "amdrv_info/schema/*", "ioctl_sniff/schema/*",
                            "ioctl_sniff/*.c", "ioctl_sniff/*.h"]},
    install_requires=["numpy>=1.26", "llvmlite>=0.45", "cffi", "rich", "msgpack>=1.0", "blake3",
                      "liburing; sys_platform == 'linux' and platform_machine == 'x86_64'",     # else: threads
                      "pyudev; sys_platform == 'linux'"],
    extras_require={"dev": ["pytest", "pytest-xdist", "pytest-timeout", "hypothesis", "ruff", "mypy",
                            "ctypeslib2>=2.4", "pyelftools", "gguf", "array-api-strict", "safetensors", "onnx",
                            "jsonschema", "matplotlib"],
                    "onnx": ["onnx>=1.16"],         # compiler.onnx
                    "reference": ["torch", "expecttest"],       # what the compiler's operations are tested against
                    "plot": ["matplotlib"],         # pictures of amdrv-info bench and vm map, compiler.bench
                    "cluster": ["ray>=2.40"],       # hcq.open("AM@ray"): devices of other machines
                    "docs": ["sphinx>=8", "myst-parser>=4", "furo", "sphinx-copybutton", "onnx>=1.16"],     # make docs
                    "lines": ["pyelftools"]},       # source lines in python -m mock.isa
    entry_points={
        "console_scripts": ["amdrv=amdrv.__main__:main",
                            "amdrv-info=tools.amdrv_info.__main__:main",
                            "ioctl-sniff=tools.ioctl_sniff.__main__:main"],
        "hcq.backends": ["AM=amdrv.backend:open_backend", "KFD=amdrv.kfd.backend:open_backend"],
    },
)
