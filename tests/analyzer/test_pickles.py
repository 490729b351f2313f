# SPDX-License-Identifier: MIT
"""Pickles of the standard library's tracemalloc, read and written, on every Python found."""
import json
import os
import pickle
import pickletools
import subprocess

import pytest

from pythons import find_pythons

PYTHONS = [python for python in find_pythons() if python.version >= (3, 4)]
EACH = pytest.mark.parametrize("python", PYTHONS, ids=[python.name for python in PYTHONS])

DUMP = """
import json, pickle, tracemalloc
tracemalloc.start(8)
keep = []
def f(n):
    for i in range(n):
        keep.append(bytes(100 + i % 7))
def g(n):
    f(n)
    keep.append({})
g(1000)
s = tracemalloc.take_snapshot()
tracemalloc.stop()
s.dump("dump.pickle")
for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
    with open("p%d.pickle" % protocol, "wb") as file:
        pickle.dump(s, file, protocol)
lines = {}
for x in s.statistics("lineno"):
    frame = x.traceback[0]
    lines["%s:%s" % (frame.filename, frame.lineno)] = [x.size, x.count]
cumulative = {}
for x in s.statistics("lineno", cumulative=True):
    frame = x.traceback[0]
    cumulative["%s:%s" % (frame.filename, frame.lineno)] = [x.size, x.count]
print(json.dumps([lines, cumulative, s.traceback_limit]))
"""


def run_python(python, shop, code, *args):
    return subprocess.run([python.path, "-c", code] + list(args), cwd=shop.path, check=True,
                          stdout=subprocess.PIPE, env={"PATH": os.environ["PATH"]}).stdout.decode()


def lines_of(shop, *args):
    document = json.loads(shop.ok("top", "--json", "-n", "100000", *args))
    return {"%s:%s" % (item["file"], item["line"]): [item["size"], item["count"]]
            for item in document["items"]}


@EACH
def test_every_protocol_is_read(shop, python):
    lines, cumulative, limit = json.loads(run_python(python, shop, DUMP))
    names = sorted(name for name in os.listdir(shop.path) if name.endswith(".pickle"))
    assert len(names) >= 6
    for name in names:
        assert lines_of(shop, name) == lines, name
        facts = shop.ok("summary", name)
        assert "traceback_limit: %d\n" % limit in facts
    # 3.4's cumulative statistics were by another rule; those of later versions count a frame of
    # a recursion as often as it occurs, which this data has none of.
    assert lines_of(shop, "-c", "dump.pickle") == cumulative


def test_unknown_domains_and_ages_are_not_guessed(shop):
    run_python(PYTHONS[-1], shop, DUMP)
    for noun in ("domain", "age", "address"):
        result = shop.run("top", "-g", noun, "dump.pickle")
        assert result.status == 1 and "does not contain %s" % noun in result.err
    assert "Memory per domain" not in shop.ok("summary", "dump.pickle")


COMPARE = """
import json, sys, tracemalloc
old = tracemalloc.Snapshot.load("old.pickle")
new = tracemalloc.Snapshot.load("new.pickle")
new = new.filter_traces([tracemalloc.Filter(True, "*")])
rows = {}
for x in new.compare_to(old, "lineno"):
    frame = x.traceback[0]
    rows["%s:%s" % (frame.filename, frame.lineno)] = [x.size, x.size_diff, x.count, x.count_diff]
plain = [type(getattr(new, name, None)).__name__ for name in ("traceback_limit",)]
loaded = tracemalloc.Snapshot.load("new.pickle")
extra = [loaded.pid, loaded.timestamp, loaded.metrics, len(loaded.addresses),
         sorted(map(str, loaded.stats))]
print(json.dumps([rows, new.traceback_limit, extra]))
"""


@EACH
def test_what_is_written_is_loaded_and_compared(pair, python):
    tuples = "4" if python.version >= (3, 9) else "3" if python.version >= (3, 6) else "2"
    for name in ("old", "new"):
        pair.ok("convert", name + ".tms", "-o", name + ".pickle", "--tuples", tuples)
    rows, limit, extra = json.loads(run_python(python, pair, COMPARE))
    assert rows == {"leak.py:3": [9000000, 9000000, 1, 1],
                    "/a/b/c/lib/x.py:10": [66000, 59900, 2, 0],
                    "y.py:3": [0, -100, 0, -1], "<unknown>:0": [100, 0, 1, 0]}
    assert limit == 16
    assert extra == [123, 1380800139.0, {"gc.objects": [120, "int"], "rss": [10000000, "size"],
                                         "share": [0.25, "percent"]}, 4,
                     ["/a/b/c/lib/x.py", "None", "leak.py"]]


def test_round_trip(pair):
    pair.ok("convert", "new.tms", "-o", "copy.pickle")
    for noun in ("line", "traceback", "address"):
        assert pair.ok("top", "-g", noun, "copy.pickle") == pair.ok("top", "-g", noun, "new.tms")


def test_stats_without_traces(shop):
    shop.make("stats.tms", "time 1380800079000000000\nfact pid 7\nfact traces 0\n"
                           "stat a.py:1:f 5000 10 99 7000\nstat - 6 1 1 6\n")
    shop.ok("convert", "stats.tms", "-o", "stats.pickle")
    assert shop.ok("top", "stats.pickle") == shop.ok("top", "stats.tms")
    assert shop.run("top", "-a", "stats.pickle").status == 1


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_nothing_is_executed(shop):
    for protocol in range(6):
        shop.write("evil.pickle", pickle.dumps(Evil(), protocol))
        result = shop.run("top", "evil.pickle")
        assert result.status == 1
        assert result.err.startswith("ERROR: Failed to load evil.pickle: ")
    assert not os.path.exists(os.path.join(shop.path, "executed"))


def snapshot(traces, **more):
    """A pickle with whatever is wanted in it, made of opcodes by hand."""
    state = dict({"traceback_limit": 1}, **more)
    body = b"\x80\x03ctracemalloc\nSnapshot\n)\x81}(X\x06\x00\x00\x00traces" + traces
    for key, value in state.items():
        body += b"X" + len(key).to_bytes(4, "little") + key.encode()
        body += pickle.dumps(value, 3)[2:-1]
    return body + b"ub."


def plain(value):
    return pickle.dumps(value, 3)[2:-1]


def test_made_by_hand_is_read(shop):
    shop.write("ok.pickle", snapshot(plain([(0, 5, (("a.py", 1),)), (7, 6, (("b.py", None),), 3),
                                            (9, (("a.py", 1),))])))
    assert lines_of(shop, "ok.pickle") == {"a.py:1": [14, 2], "b.py:None": [6, 1]}


WRONG = {
    "a trace that is no tuple": [5],
    "a trace of one": [(5,)],
    "a trace of five": [(0, 5, (), 1, 2)],
    "a size that is none": [(0, "x", ())],
    "a negative size": [(0, -5, (("a", 1),))],
    "a size beyond 64 bits": [(0, 1 << 70, (("a", 1),))],
    "a traceback that is none": [(0, 5, 7)],
    "a frame that is none": [(0, 5, (7,))],
    "a name that is none": [(0, 5, ((7, 1),))],
    "a line that is none": [(0, 5, (("a", "b"),))],
    "no traces": 5,
}


@pytest.mark.parametrize("what", sorted(WRONG))
def test_wrong_contents(shop, what):
    shop.write("wrong.pickle", snapshot(plain(WRONG[what])))
    result = shop.run("top", "wrong.pickle")
    assert result.status == 1 and len(result.err.splitlines()) == 1
    assert result.err.startswith("ERROR: Failed to load wrong.pickle: the pickle is no tracemalloc")


@pytest.mark.parametrize("more", [{"metrics": 5}, {"metrics": {"a": 5}}, {"stats": []},
                                  {"stats": {"a": {1: 5}}}, {"stats": {"a": {1: (1, -1)}}},
                                  {"addresses": [1, 2, 3]}])
def test_wrong_attributes(shop, more):
    shop.write("wrong.pickle", snapshot(plain([(0, 5, (("a.py", 1),))]), **more))
    assert shop.run("top", "wrong.pickle").status == 1


def test_sizes_that_add_up_to_too_much(shop):
    shop.write("huge.pickle", snapshot(plain([(0, 2 ** 62, (("a", 1),))] * 2)))
    result = shop.run("top", "huge.pickle")
    assert result.status == 1 and "2^63" in result.err
    shop.write("large.pickle", snapshot(plain([(0, 2 ** 62, (("a", 1),))])))
    assert "size=4194304 TiB" in shop.ok("top", "large.pickle")


def test_truncated_everywhere(shop):
    whole = snapshot(plain([(0, 5, (("a.py", 1),)), (0, 6, (("b.py", 2),))]))
    assert list(pickletools.genops(whole))
    for size in range(1, len(whole)):
        shop.write("cut.pickle", whole[:size])
        result = shop.run("top", "cut.pickle")
        assert result.status == 1, size
        assert result.err.startswith("ERROR: Failed to load cut.pickle: ")


def test_a_million_frames(shop):
    frame = b"(X\x01\x00\x00\x00aK\x01tq\x00"
    traceback = b"(" + frame + b"h\x00" * 999999 + b"tq\x01"
    shop.write("deep.pickle", snapshot(b"](K\x00K\x05" + traceback + b"\x87e"))
    document = json.loads(shop.ok("top", "--json", "deep.pickle"))
    assert document["snapshots"][0]["size"] == 5
    shop.ok("top", "-g", "traceback", "-n", "1", "--json", "deep.pickle")


@pytest.mark.parametrize("data", [
    b"\x80\x03r\xff\xff\xff\xff.", b"\x80\x04]r\xff\xff\xff\x7f.", b"\x80\x03B\xff\xff\xff\xff.",
    b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", b"\x80\x03\x8b\xff\xff\xff\x7f.",
    b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff.", b"\x80\x03" + b"(" * 100000,
    b"\x80\x03" + b"2" * 1000, b"\x80\x03" + b"]" + b"2a" * 10000, b"\x80\x09N.", b"\x80\x03.",
    b"\x80\x03N.", b"\x80\x03g\n.", b"\x80\x03t.", b"\x80\x03Nb.", b"\x80\x03}Ns.",
])
def test_absurd_pickles(shop, data):
    shop.write("absurd.pickle", data)
    result = shop.run("top", "absurd.pickle")
    assert result.status == 1 and len(result.err.splitlines()) == 1


@pytest.mark.parametrize("data", [
    b"\x80\x03]N(a.", b"\x80\x03}NN(s.", b"\x80\x03]((NNNae.", b"\x80\x03}N(Nsl.", b"\x80\x03N(0l.",
    b"\x80\x03](e.", b"\x80\x03(e.", b"\x80\x03((u.", b"\x80\x03(o.", b"\x80\x03N(\x85.",
])
def test_marks_protect_what_is_below_them(shop, data):
    shop.write("marks.pickle", data)
    result = shop.run("top", "marks.pickle")
    assert result.status == 1 and len(result.err.splitlines()) == 1
