#!/bin/bash
# Prints the folder with the API clients of others that tests/clients uses: a Python with avisdk, ansible-core and schemathesis in
# bin/, Ansible's collections in collections/. Gets them from PyPI into target/tools when they are not there, or others
# than tests/clients names.
set -euo pipefail
cd "$(dirname "$0")/.."
wanted=(tests/clients/requirements.txt tests/clients/collections.txt)
folder=${CARGO_TARGET_DIR:-$PWD/target}/tools/clients
stamp=$(cat "${wanted[@]}" "$0" | sha256sum)

if [ "$(cat "$folder/stamp" 2>/dev/null)" != "$stamp" ]; then
    echo "clients: getting avisdk, ansible-core, schemathesis and Avi's modules for Ansible into $folder" >&2
    rm -rf "$folder"
    python3 -m venv "$folder" >&2
    pip=("$folder/bin/pip" --quiet --disable-pip-version-check)
    "${pip[@]}" install --require-hashes -r "${wanted[0]}" >&2 </dev/null
    # 60 MB, of which two folders are wanted: the modules, and the callback that prints JSON.
    "${pip[@]}" download --no-deps --require-hashes -r "${wanted[1]}" -d "$folder/wheel" >&2 </dev/null
    "$folder/bin/python" - "$folder"/wheel/ansible-*.whl "$folder/collections" <<'PY'
import sys, zipfile
wheel, target = zipfile.ZipFile(sys.argv[1]), sys.argv[2]
wanted = tuple(f"ansible_collections/{c}/" for c in ("community/network", "ansible/posix"))
wheel.extractall(target, [name for name in wheel.namelist() if name.startswith(wanted)])
PY
    rm -rf "$folder/wheel"
    echo "$stamp" >"$folder/stamp"
fi
echo "$folder"
