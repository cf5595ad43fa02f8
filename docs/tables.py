"""The tables of docs/reference.md, asked of the code: ``python docs/tables.py`` writes them; a test compares.

What no registry says (what a variable of the environment is for) stands here, and the same test holds it against the
sources: a variable that the code reads and this file does not know is a failure, and so is the reverse.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference.md"
PACKAGES = ("amdrv", "compiler", "hcq", "mock", "tools", "examples")

VARIABLES = {
    "AM": "`1`: tensors are on a GPU that this process boots (`AM`) unless a device is named; otherwise on the CPU",
    "AMDRV_CACHE": "folder of kernels that the mock compiled, and of ioctl-sniff's recorder; default: "
                   "`$XDG_CACHE_HOME/amdrv` or `~/.cache/amdrv`",
    "AMDRV_FIRMWARE": "folders with firmware files, divided by `:`, before the HAL's own",
    "AMDRV_FIRMWARE_TEST": "where AMD's own firmware is, for the tests that boot with it",
    "AMDRV_HAL": "the way to the machine: see below",
    "AMDRV_ISA": "what executes machine code in the mock: `auto` (default), `jit`, `interpreter`",
    "AMDRV_LINUX_SOURCE": "where Linux's sources are, for `tools.autogen` and the tests against them",
    "AMDRV_MESA_SOURCE": "where Mesa's sources are, likewise",
    "AMDRV_MOCK": "the mock machine: see below; or `snapshot:FILE`",
    "AMDRV_MOCK_TRACE": "file into which the mock records every register access, packet, walk, fault and interrupt",
    "AMDRV_UAPI_SOURCE": "where a newer Linux's headers are, likewise",
    "BEAM": "how many candidates a search for kernels keeps (0: no search, heuristics choose)",
    "CC": "the C compiler that ioctl-sniff's recorder is built with; default: the first of cc, gcc, clang",
    "COMPILER_CACHE": "`0`: no kernels are kept on disk",
    "DEBUG": "what the compiler shows: see below",
    "FORCE_COLOR": "`1`: colours although the output is no terminal",
    "HCQ_CLUSTER_TIMEOUT": "seconds that `hcq.open(\"AM@ray\")` waits for a card to be free; default: 60",
    "HCQ_DEBUG": "`1`: devices keep books, find races, and say where memory was freed",
    "HCQ_DEVICE": "what `hcq.open()` opens; default: `AM`",
    "HCQ_IO": "how files are read: `auto` (default), `uring`, `threads`",
    "HCQ_STORE": "folders in which files are found by their content, divided by `:`",
    "HCQ_TIMEOUT": "seconds that a wait lasts while no queue completes anything; default: 30",
    "KFD": "`1`: likewise on a GPU that stays with its kernel driver (`KFD`)",
    "NO_COLOR": "`1`: no colours",
    "RAY_ADDRESS": "the cluster that `hcq.open(\"AM@ray\")` joins; default: the one of this machine",
    "RAY_USAGE_STATS_ENABLED": "`hcq` sets it to 0, unless you set it",
    "XDG_CACHE_HOME": "where caches are; default: `~/.cache`",
    "VIZ": "`1`: a page that shows what the compiler did, served until Ctrl-C; `out.html`, `out.json`: a file "
           "([looking inside](viz.md))",
    "VIZ_PORT": "port to serve it at; default: 8765, or the next that is free",
    "VIZ_PROFILE": "`0`: no profile of GPUs for it",
}
SYSTEM = {"LD_PRELOAD", "LOGNAME", "TERM", "USER", "PATH", "HOME"}      # of the system, and not ours to explain

DOORS = {
    "auto": "a real card that may be opened: VFIO where one is bound to vfio-pci, otherwise sysfs; never the mock",
    "vfio": "a card bound to vfio-pci, by the best of iommufd, type1 and noiommu that is there",
    "vfio:iommufd": "VFIO's devices and iommufd (Linux 6.6 or newer)",
    "vfio:type1": "VFIO's containers and groups, with an IOMMU",
    "vfio:noiommu": "VFIO without an IOMMU: the card may write everywhere",
    "vfio-user:SOCKET": "a card that another process serves; several sockets, divided by `,`, are several cards",
    "sysfs": "a card without a kernel driver, as root; interrupts are polled",
    "mock": "the machine made of software",
}


COMMANDS = {
    "amdrv": "`amdrv hold ADDRESS` keeps a card open, so that each process finds it warm",
    "amdrv-info": "looks at cards, checks the machine, binds and resizes ([tools](tools.md))",
    "ioctl-sniff": "shows every ioctl of a program, decoded ([tools](tools.md#ioctl-sniff))",
    "python -m amdrv.dump": "walks page tables, rings and registers of a dump ([the mock](mock.md#looking-into-it))",
    "python -m compiler.bench": "times models: tokens or images a second, phases, memory ([models](models.md))",
    "python -m compiler.debug": "lists the levels of `DEBUG`",
    "python -m compiler.viz": "opens what `VIZ` recorded ([looking inside](viz.md))",
    "python -m mock.catalogue": "the tables of rules and faults on the mock's page",
    "python -m mock.firmware": "writes a synthetic set of firmware files",
    "python -m mock.isa": "disassembles, traces, times code objects ([the ISA](isa.md#for-people))",
    "python -m mock.snapshot": "says what a snapshot of a machine holds",
    "python -m mock.trace": "shows, compares and converts traces of the mock",
    "python -m mock.vfio_user": "serves a card to QEMU or to another process",
}


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(heads: tuple[str, ...], rows: list[str]) -> str:
    return "\n".join([row(*heads), "|" + "---|" * len(heads), *rows])


def variables_read() -> dict[str, set[str]]:
    """{variable: packages that read it}, from the calls in the sources."""
    found: dict[str, set[str]] = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for name in _names(ast.parse(path.read_text(encoding="utf-8"))):
                found.setdefault(name, set()).add(package)
    return found


def _names(tree: ast.AST) -> Iterator[str]:
    loops: dict[str, list[ast.expr]] = {}       # {loop variable: what it goes through}, where that stands there
    for node in ast.walk(tree):
        if (isinstance(node, (ast.For, ast.comprehension)) and isinstance(node.target, ast.Name)
                and isinstance(node.iter, (ast.Tuple, ast.List))):
            loops.setdefault(node.target.id, []).extend(node.iter.elts)
    for node in ast.walk(tree):
        arguments: list[ast.expr] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            if called.endswith(("environ.get", "environ.setdefault", "environ.pop", "os.getenv")):
                arguments = node.args[:1]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "environment":
            arguments = node.args[:1]       # tools/amdrv_info/doctor.py is given os.environ.get
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            arguments = [node.slice]
        elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "os.environ":
            arguments = [node.left]
        for argument in [*arguments, *(e for a in arguments if isinstance(a, ast.Name) for e in loops.get(a.id, ()))]:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value


def environment() -> str:
    read = variables_read()
    from tools.fetch_sources import SOURCES
    for source in SOURCES.values():
        read.setdefault(source.variable, set()).add("tools")
    rows = [row(f"`{name}`", text, ", ".join(sorted(read.get(name, {"nobody"})))) for name, text in VARIABLES.items()]
    return table(("variable", "means", "read by"), rows)


def hals() -> str:
    return table(("`AMDRV_HAL`", "is"), [row(f"`{name}`", text) for name, text in DOORS.items()])


def devices() -> str:
    import hcq
    from compiler.runtime import default_device
    rows = [row(f"`{name}`, `{name}:1` ...", "hcq, compiler", f"a card, opened by `{target}`; numbers count the cards")
            for name, target in sorted(hcq.backends().items()) if target.startswith("amdrv.")]
    rows += [row(f"`{name}@ray`, `{name}:1@ray` ...", "hcq", "a card of another machine, by Ray")
             for name, target in sorted(hcq.backends().items()) if target.startswith("amdrv.")]
    assert callable(default_device)
    return table(("name", "for", "is"), rows + [row("`CPU`, `CPU:1` ...", "compiler", "this computer")])


def chips() -> str:
    from amdrv.device import GFX_TARGETS
    from amdrv.facts import navi31
    from mock.arch import arch_of, known_archs
    rows = []
    for version, name in GFX_TARGETS.items():
        modelled = name in known_archs()
        shape = f"{arch_of(name).compute_units} compute units" if modelled else "no"
        known = f"{navi31.MARKETING_NAME} ({navi31.VENDOR_ID:04x}:{navi31.DEVICE_ID:04x})" if modelled else ""
        rows.append(row(f"`{name}`", ".".join(map(str, version)), known, shape))
    return table(("architecture", "graphics IP", "card", "in the mock"), rows)


def mock_keys() -> str:
    from mock.machine import KEYS
    return ", ".join(f"`{key}`" for key in KEYS)


def debug() -> str:
    from compiler.debug import LEVELS
    return table(("`DEBUG`", "shows"), [row(str(level), text) for level, text in LEVELS.items()])


def errors(module: str) -> str:
    home = importlib.import_module(module)
    classes = [thing for thing in vars(home).values()
               if inspect.isclass(thing) and issubclass(thing, BaseException) and thing.__module__ == module]
    rows = []
    for cls in classes:
        bases = ", ".join(f"`{base.__name__}`" for base in cls.__bases__)
        means = (inspect.getdoc(cls) or "").partition("\n\n")[0]
        rows.append(row(f"`{cls.__name__}`", bases, means.replace("\n", " ").replace("``", "`")))
    return table(("error", "is a", "means"), rows)


def strict() -> str:
    from mock.rules import RULES
    return ", ".join(f"`{name}`" + ("" if rule.default else " (off unless asked for)") for name, rule in RULES.items())


def faults() -> str:
    import mock.catalogue
    kinds = re.findall(r"^\| `([\w-]+)` \|", mock.catalogue.faults(), re.M)
    return ", ".join(f"`{kind}`" for kind in kinds)


def commands() -> str:
    return table(("command", "is for"), [row(f"`{name}`", text) for name, text in COMMANDS.items()])


def commands_there() -> set[str]:
    """Console scripts, and modules that run as programs for people."""
    scripts = set(re.findall(r'"([\w-]+)=[\w.]+:main"', (ROOT / "setup.py").read_text(encoding="utf-8")))
    for package in ("amdrv", "compiler", "hcq", "mock"):
        for path in (ROOT / package).rglob("*.py"):
            if '__name__ == "__main__"' in path.read_text(encoding="utf-8"):
                parts = path.relative_to(ROOT).with_suffix("").parts
                scripts.add("python -m " + ".".join(part for part in parts if part != "__main__"))
    return scripts - {"python -m amdrv", "python -m compiler.bench.worker"}     # the script amdrv; a process of bench


TABLES = {
    "environment": environment, "hals": hals, "devices": devices, "chips": chips, "mock-keys": mock_keys,
    "debug": debug, "errors-amdrv": lambda: errors("amdrv.errors"), "errors-hcq": lambda: errors("hcq.errors"),
    "strict": strict, "faults": faults, "commands": commands,
}


def page(text: str) -> str:
    """A page with its tables made anew, between ``<!-- NAME -->`` and ``<!-- end -->``.

    :raises ValueError: a mark is missing.
    """
    for name, make in TABLES.items():
        match = re.search(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", text, re.S)
        if match is None:
            raise ValueError(f"the page has no <!-- {name} --> ... <!-- end -->")
        made: Any = make()
        text = f"{text[:match.end(1)]}{made}{text[match.start(2):]}"
    return text


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
