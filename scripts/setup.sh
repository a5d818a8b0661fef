#!/bin/bash
# SPDX-License-Identifier: MIT
# Install what packages.txt lists and this machine lacks; make .venv and install usrdrv into it.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
while read -r name; do
	[[ -z $name || $name == \#* ]] && continue
	dpkg-query -W -f '${db:Status-Status}\n' "$name" 2>/dev/null | grep -qx installed ||
		missing+=("$name")
done <packages.txt

if ((${#missing[@]})); then
	if ((EUID)); then
		echo "setup: Debian packages are missing: sudo apt-get install ${missing[*]}" >&2
		exit 1
	fi
	echo "setup: installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	apt-get -qq install --no-install-recommends -y "${missing[@]}" >/dev/null
fi

# The interpreter that nbdkit's Python plugin embeds; libnbd's module comes from the system too.
[[ -x .venv/bin/python ]] || /usr/bin/python3 -m venv --system-site-packages .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install --upgrade 'setuptools>=77'
"${pip[@]}" install --editable '.[dev]'
.venv/bin/python scripts/stubs.py
echo "setup: done"
