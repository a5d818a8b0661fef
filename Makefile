# SPDX-License-Identifier: MIT
#
#   make setup   Debian packages (as root), .venv, the package with its C parts
#   make demo    ext4 on a disk, iperf3 over a NIC, both driven by processes (root)
#   make test    every feature, on one way to each card
#   make test-all    all tests that this machine can run, make test's among them
#   make test-debug  usrloop's suite and the usrdrv calls on the debug kernel
#   make kmod    usrloop.ko, for the running kernel and for those of the lab
#   make kmod-install  where modprobe and udev find it, by way of DKMS if that is there (root)
#   make kmod-check    all warnings, sparse, checkpatch
#   make lint    style, types, warnings
#   make bench   measurements; results in bench/results/latest.json
#   make bench-net  the same of the network interface, against veth and a plain relay
#   make bench-loop  usrloop beside ublk and NBD, each with nothing behind it, in guests
#   make bench-map  what mapping memory for DMA costs, on a kernel with our patches
#   make bench-access  what a register access and an interrupt cost, by kind of device name
#   make bench-recovery  from SIGKILL of a driver to the next I/O done, in a guest
#   make figure4 throughput against request size, the kernel's driver and ours; where the time goes
#   make figure-net throughput against packet size, the kernel's ns83820 and our driver
#   make patch-check  the patches for Linux: they apply, checkpatch, sparse
#   make fuzz    the fuzzers and the stress test, FUZZ_SECONDS each

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON := .venv/bin/python
STAMP := .venv/.installed
C_FOLDERS := $(sort $(patsubst %/,%,$(dir $(wildcard $(addsuffix /*.c,$(shell find usrdrv -maxdepth 1 -type d) devices \
	devices/* drivers/*)))))
UAPI := loopback-kmod/include/uapi
HEADERS := $(wildcard usrdrv/include/usrdrv/*.h $(UAPI)/*.h $(C_FOLDERS:=/*.h))
SOURCES := $(wildcard $(C_FOLDERS:=/*.c))
BUILDERS := usrdrv/base/_cffi.py $(wildcard usrdrv/*/_build.py drivers/*/_build.py)
C_CHECK = -std=gnu11 -fsyntax-only -Wall -Wextra -Werror -Wno-unused-parameter \
	-I$(shell /usr/bin/python3 -c 'import sysconfig; print(sysconfig.get_path("include"))') \
	$(addprefix -I,usrdrv/include $(UAPI) devices $(C_FOLDERS) tests/fuzz)
# Without the kernel module, which the kernel's own Makefile compiles.
GUEST_C := $(filter-out %/claim_user.c,$(wildcard tests/lab/guest/*.c))
FUZZ_SECONDS ?= 300

.PHONY: setup demo test test-all test-debug kmod kmod-install kmod-check lint bench bench-net bench-loop bench-map bench-access bench-recovery \
	figure4 figure-net patch-check fuzz clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py packages.txt scripts/setup.sh scripts/stubs.py $(BUILDERS) $(SOURCES) $(HEADERS)
	scripts/setup.sh
	touch $@

demo: setup
	$(PYTHON) scripts/demo.py
	$(PYTHON) scripts/demo_net.py

# Hundreds of processes import the same files: they are compiled once, also where the environment is against it.
export PYTHONDONTWRITEBYTECODE :=

PYTEST = $(PYTHON) -m pytest -n auto --dist loadfile --no-loadscope-reorder
# In this order, the longest files first, so that all workers end at the same time.
EVERYTHING = tests/lab tests/host tests/unit

test: setup
	$(PYTHON) -m usrdrv lab build --kernel base
	$(PYTEST) -m 'not rare' $(EVERYTHING)

test-all: setup
	$(PYTHON) -m usrdrv lab build --kernel base
	$(PYTEST) $(EVERYTHING)

test-debug: setup
	$(PYTHON) -m usrdrv lab build --kernel debug
	USRDRV_LAB_KERNEL=debug $(PYTEST) tests/lab/test_usrdrv_calls.py tests/lab/test_zero_copy_net.py \
		tests/lab/test_zero_copy.py tests/lab/test_usrloop_recovery.py tests/lab/test_usrloop_stacks.py \
		tests/lab/test_usrloop_wire.py tests/lab/test_usrloop_hostile.py tests/lab/test_usrloop_calls.py

kmod: setup
	$(PYTHON) -m usrdrv lab kmod
	@if [[ -e /lib/modules/$$(uname -r)/build ]]; then $(MAKE) -C loopback-kmod; else \
		echo "kmod: nothing for the running kernel: install linux-headers-$$(uname -r)" >&2; fi

kmod-install:
	@$(MAKE) -C loopback-kmod $$(command -v dkms >/dev/null && echo dkms || echo install)

kmod-check: setup
	$(PYTHON) -m usrdrv lab kmod --check

lint: setup
	.venv/bin/ruff check --quiet .
	.venv/bin/ruff format --quiet --check .
	.venv/bin/mypy
	shellcheck scripts/*.sh .ci/run lab/*-hook.sh lab/guest/*
	for compiler in gcc clang; do $$compiler $(C_CHECK) $(SOURCES) $(wildcard tests/fuzz/*.c) $(GUEST_C); done

bench: setup
	$(PYTHON) -m bench --json bench/results/latest.json

bench-net: setup
	$(PYTHON) -m bench.net --json bench/results/net.json

bench-loop: setup
	$(PYTHON) -m usrdrv lab build --kernel base
	$(PYTHON) -m bench.loop

bench-map: setup
	$(PYTHON) -m bench.map_cost

bench-access: setup
	$(PYTHON) -m bench.access

bench-recovery: setup
	$(PYTHON) -m usrdrv lab build
	$(PYTHON) -m bench.recovery

figure4: setup
	$(PYTHON) -m usrdrv lab build --kernel base
	$(PYTHON) -m bench.figure4
	$(PYTHON) -m bench.timeline

figure-net: setup
	$(PYTHON) -m usrdrv lab build
	$(PYTHON) -m bench.figure_net

patch-check: setup
	$(PYTHON) -m usrdrv.lab.patch_check

fuzz: setup
	USRDRV_FUZZ_SECONDS=$(FUZZ_SECONDS) $(PYTHON) -m pytest tests/unit/fuzz

clean:
	$(MAKE) -s -C loopback-kmod clean
	rm -rf build .venv *.egg-info
	find usrdrv bridge devices drivers lab scripts tests bench -name __pycache__ -prune -exec rm -rf {} +
	find usrdrv bridge devices drivers loopback-kmod \( -name '*.so' -o -name '*.o' -o -name '_*.pyi' ! -name _request.pyi \) -delete
