"""What is built in may be passed on: licences and sources of every crate, as `deny.toml` allows them."""

import json
import re
import subprocess
import tomllib

import harness

RULES = tomllib.loads((harness.ROOT / "deny.toml").read_text())


def allowed(expression, licences):
    """Whether an SPDX expression leaves a choice that is allowed; `/` is an older way to write OR."""
    words = re.findall(r"\(|\)|[^\s()/]+", expression.replace("/", " OR ").replace(" WITH ", "-WITH-"))
    known = {licence.replace(" WITH ", "-WITH-") for licence in licences}
    python = [{"OR": "or", "AND": "and", "(": "(", ")": ")"}.get(word, str(word in known)) for word in words]
    return eval(" ".join(python), {"__builtins__": {}})


def test_expressions_are_read():
    assert allowed("MIT OR GPL-3.0", ["MIT"]) and allowed("Unlicense/MIT", ["MIT"])
    assert not allowed("MIT AND GPL-3.0", ["MIT"]) and allowed("(MIT OR GPL-3.0) AND ISC", ["MIT", "ISC"])
    assert not allowed("Apache-2.0 WITH LLVM-exception", ["Apache-2.0"])


def test_crates_have_licences_and_sources_that_are_allowed():
    done = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"],
        cwd=harness.ROOT, capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    packages = json.loads(done.stdout)["packages"]
    assert len(packages) > 50
    banned = {rule["crate"] for rule in RULES["bans"]["deny"]}
    sources = {f"registry+{url}" for url in RULES["sources"]["allow-registry"]}
    for package in packages:
        name = f"{package['name']} {package['version']}"
        assert allowed(package["license"] or "none", RULES["licenses"]["allow"]), f"{name}: {package['license']}"
        assert package["source"] is None or package["source"] in sources, f"{name}: {package['source']}"
        assert package["name"] not in banned, name
