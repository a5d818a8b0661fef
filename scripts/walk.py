# SPDX-License-Identifier: MIT
"""Print how one request walks through a block driver, and count the visits to files (docs/design/walk.md).

tests/fuzz/stress_serve.c serves the model of the CMD680 to a module that is played; the driver notes each function
that is entered or left. Of all reads and writes that were alone the shortest walk is printed: no tick of the
dispatcher's falls into it. It begins and ends in ENTER.
"""

from __future__ import annotations

import subprocess
import tempfile
from itertools import groupby
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
INCLUDES = (
    "usrdrv/include",
    "loopback-kmod/include/uapi",
    "usrdrv/block",
    "drivers/ide_cmd680",
    "devices",
    "usrdrv/backends",
    "tests/fuzz",
)
SOURCES = (
    "usrdrv/block/*.c",
    "usrdrv/loop/[!_]*.c",
    "drivers/ide_cmd680/[!_]*.c",
    "devices/cmd680/*.c",
    "devices/base/faults.c",
    "usrdrv/backends/areas.c",
    "usrdrv/backends/inproc.c",
    "tests/fuzz/stress_serve.c",
    "tests/fuzz/stress_rig.c",
)
NOTES = """
#define _GNU_SOURCE
#include <stdio.h>
#include <unistd.h>
#define OFF __attribute__((no_instrument_function))
static __thread int serves;	/* this thread is in the main dispatcher */
static FILE *out;
int block_dispatch();
OFF void __cyg_profile_func_enter(void *function, void *caller)
{
	serves |= function == (void *)block_dispatch;
	if (serves)
		fprintf(out = out ?: fopen("walk", "w"), "+%p\\n", function);
}
OFF void __cyg_profile_func_exit(void *function, void *caller)
{
	if (serves)
		fprintf(out, "-%p\\n", function);
}
"""
Step = tuple[int, str, str]
"""How deep it is called, a function, its file. The depth is negative where the function goes on after a call."""


def run(folder: Path) -> list[str]:
    """Return what was entered ("+ADDRESS") and left ("-ADDRESS") in `folder`/program."""
    (folder / "notes.c").write_text(NOTES)
    command = ["gcc", "-no-pie", "-gdwarf-4", "-std=gnu11", "-pthread", "-Dioctl=played_ioctl"]
    command += ["-finstrument-functions"]
    command += ["-finstrument-functions-exclude-file-list=devices/,backends/,fuzz/"]
    command += [f"-I{TOP / include}" for include in INCLUDES]
    command += [str(path) for pattern in SOURCES for path in sorted(TOP.glob(pattern))]
    subprocess.run([*command, "notes.c", "-o", "program"], cwd=folder, check=True)
    subprocess.run(
        [folder / "program", "1", "1", "stop", "signal", "1"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return (folder / "walk").read_text().splitlines()


def steps(folder: Path) -> list[Step]:
    """Return where the dispatcher was, one after the other."""
    trace = run(folder)
    asked = sorted({line[1:] for line in trace})
    command = ["addr2line", "-f", "-e", str(folder / "program"), *asked]
    said = iter(subprocess.check_output(command, text=True).splitlines())
    place = {address: (next(said), Path(next(said).split(":")[0]).name) for address in asked}
    stack: list[tuple[str, str]] = []
    found = []
    for line in trace:
        if line[0] == "+":
            stack.append(place[line[1:]])
        else:
            stack.pop()
        if stack:
            found.append((len(stack) * (1 if line[0] == "+" else -1), *stack[-1]))
    return found


def visits(walk: list[Step], ending: str = "") -> list[str]:
    """Return the files that are visited, one after the other."""
    return [file for file, _ in groupby(file for _, _, file in walk if file.endswith(ending))]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = steps(Path(folder))
    enters = [i for i, (depth, name, _) in enumerate(found) if depth > 0 and name == "loop_enter"]
    walks = []
    for first, last in zip(enters, enters[2:], strict=False):  # one ENTER between: the interrupt's
        walk = found[first : last + 1]
        names = [name for depth, name, _ in walk if depth > 0]
        once = all(names.count(name) == 1 for name in ("take_order", "build_prd", "hand_over"))
        if once and names.index("take_order") < names.index("hand_over"):  # of the same request
            walks.append(walk)
    walk = min(walks, key=lambda walk: len(visits(walk)))
    for depth, name, file in walk:
        if depth > 0:
            print(f"{'  ' * (depth - 1)}{name} {file}")
    for text, seen in (("C files", visits(walk, ".c")), ("with headers", visits(walk))):
        print(f"{text}: {len(seen)} stays, {len(seen) - len(set(seen))} returns")


if __name__ == "__main__":
    main()
