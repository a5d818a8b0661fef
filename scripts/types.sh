#!/bin/bash
# SPDX-License-Identifier: MIT
# mypy finds a package by its folder, but setuptools maps ours: show it a tree of links that has them.
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD
tree=build/types
rm -rf "$tree"
mkdir -p "$tree/usrdrv"
ln -s "$top"/usrdrv/* "$top"/{bridge,devices,drivers,lab} "$tree/usrdrv/"
ln -s "$top/bench" "$top"/scripts/demo{,_net}.py "$tree/"
cd "$tree"
exec "$top/.venv/bin/mypy" --config-file "$top/pyproject.toml" "$@" -p usrdrv -p bench -m demo -m demo_net
