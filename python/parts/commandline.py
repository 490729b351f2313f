# SPDX-License-Identifier: MIT
# python -m pytracemalloc. Before all else: it must run where the C module does not load.

def _find_analyzer():
    """Path of tm-analyze: TM_ANALYZE, beside the module, or on PATH; None: not found."""
    given = os.environ.get("TM_ANALYZE")
    if given:
        return given
    here = os.path.dirname(os.path.abspath(__file__))
    folders = [here, os.path.join(here, "..", "..", "bin"),
               os.path.join(here, "..", "..", "..", "bin"),
               os.path.join(here, "..", "..", "..", "..", "bin")]
    folders += os.environ.get("PATH", "").split(os.pathsep)
    for folder in folders:
        path = os.path.normpath(os.path.join(folder or ".", "tm-analyze"))
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def _main():
    """python -m pytracemalloc: the analyzer's own code, in its own process."""
    path = _find_analyzer()
    if path is None:
        sys.stderr.write("ERROR: tm-analyze was not found: install it, or set TM_ANALYZE to it\n")
        sys.exit(1)
    sys.stdout.flush()
    try:
        os.execv(path, [path] + sys.argv[1:])
    except OSError as error:
        sys.stderr.write("ERROR: cannot run %s: %s\n" % (path, error.strerror))
        sys.exit(1)


if __name__ == "__main__":
    _main()
