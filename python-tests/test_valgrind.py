"""valgrind's memcheck on the library in a C program, for one round; `make valgrind` is the long setting."""

import harness
import valgrind


def test_memcheck_finds_no_error_in_a_program_with_threads(tmp_path):
    valgrind.check("memcheck", tmp_path, harness.EXTENSION, 1)
