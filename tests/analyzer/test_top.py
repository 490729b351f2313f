# SPDX-License-Identifier: MIT
"""The text of tops and differences, pinned to "Output of DisplayTop" of the behaviours."""
import pytest

BIG = """
time 1380800079000000000
fact pid 1
fact traceback_limit 1
{traces}
"""


def test_top_by_line(pair):
    assert pair.ok("top", "old.tms") == """\
2013-10-03 11:34:39: Top 3 allocations per filename and line number
#1: .../c/lib/x.py:10: size=5 KiB, count=2, average=3050 B
#2: y.py:3: size=100 B, count=1
#3: ???:?: size=100 B, count=1
Traced Python memory: size=6 KiB, count=4, average=1575 B

gc.objects: 100
gone: 976 KiB
share: 19.2%

"""


def test_diff_by_line(pair):
    assert pair.ok("diff", "old.tms", "new.tms") == """\
2013-10-03 11:35:39: Top 4 allocations per filename and line number (compared to 2013-10-03 11:34:39)
#1: leak.py:3: size=8 MiB (+8 MiB), count=1 (+1)
#2: .../c/lib/x.py:10: size=64 KiB (+58 KiB), count=2 (+0), average=32 KiB
#3: y.py:3: size=0 B (-100 B), count=0 (-1)
#4: ???:?: size=100 B (+0 B), count=1 (+0)
Traced Python memory: size=8 MiB (+8 MiB), count=4 (+0), average=2213 KiB

gc.objects: 120 (+20)
gone: 0 B (-976 KiB)
rss: 9 MiB
share: 25.0% (+5.8%)

"""


def test_more_line_and_number(pair):
    assert pair.ok("top", "-M", "-n", "1", "new.tms") == """\
2013-10-03 11:35:39: Top 1 allocations per filename and line number
#1: leak.py:3: size=8 MiB, count=1
2 more: size=64 KiB, count=3, average=21 KiB
Traced Python memory: size=8 MiB, count=4, average=2213 KiB

"""


def test_more_line_when_comparing(pair):
    assert pair.ok("diff", "-M", "-n", "1", "old.tms", "new.tms") == """\
2013-10-03 11:35:39: Top 1 allocations per filename and line number (compared to 2013-10-03 11:34:39)
#1: leak.py:3: size=8 MiB (+8 MiB), count=1 (+1)
3 more: size=64 KiB (+58 KiB), count=3 (-1), average=21 KiB
Traced Python memory: size=8 MiB (+8 MiB), count=4 (+0), average=2213 KiB

"""


def test_by_file_compact_prints_bare_sizes(pair):
    assert pair.ok("top", "-f", "-C", "-A", "-M", "-n", "2", "new.tms") == """\
2013-10-03 11:35:39: Top 2 allocations per filename
#1: leak.py: 8 MiB
#2: .../c/lib/x.py: 64 KiB
1 more: 100 B
Traced Python memory: 8 MiB

"""


def test_by_address_never_counts(pair):
    assert pair.ok("top", "-a", "-M", "-n", "2", "new.tms") == """\
2013-10-03 11:35:39: Top 2 allocations per address
#1: memory block 0x83200: size=8 MiB
#2: memory block 0x5000: size=58 KiB
2 more: size=5 KiB, average=3050 B
Traced Python memory: size=8 MiB, average=2213 KiB

"""


def test_cumulative_counts_every_frame_and_has_no_total(pair):
    assert pair.ok("top", "-c", "-M", "new.tms") == """\
2013-10-03 11:35:39: Cumulative top 4 allocations per filename and line number
#1: /a/main.py:5: size=8 MiB, count=3, average=2951 KiB
#2: .../c/lib/x.py:10: size=8 MiB, count=3, average=2951 KiB
#3: leak.py:3: size=8 MiB, count=1
#4: ???:?: size=100 B, count=1

"""


def test_cumulative_counts_a_recursion_twice(shop):
    shop.make("r.tms", BIG.format(traces="trace 0x10 7 2 0 - 0 r.py:1:f;r.py:1:f;m.py:2:m")
              .replace("limit 1", "limit 9"))
    assert "#1: r.py:1: size=14 B, count=2" in shop.ok("top", "-c", "r.tms")


def test_cumulative_needs_a_limit_of_two(shop):
    shop.make("one.tms", BIG.format(traces="trace 0x10 7 2 0 - 0 a.py:1:f;b.py:2:g"))
    assert shop.ok("top", "-c", "one.tms").startswith("2013-10-03 11:34:39: Top 1 ")


@pytest.mark.parametrize("size, text", [
    (0, "0 B"), (5119, "5119 B"), (5120, "5 KiB"), (5 * 1024 * 1024 - 1, "5119 KiB"),
    (5 * 1024 ** 2, "5 MiB"), (5 * 1024 ** 3, "5 GiB"), (5 * 1024 ** 4 - 1, "5119 GiB"),
    (5 * 1024 ** 4, "5 TiB"), (6000 * 1024 ** 4, "6000 TiB"),
])
def test_sizes(shop, size, text):
    shop.make("s.tms", BIG.format(traces="trace 0x10 %d 2 0 - 0 a.py:1:f" % size))
    assert "#1: a.py:1: size=%s, count=1\n" % text in shop.ok("top", "s.tms")


@pytest.mark.parametrize("name, parts, text", [
    ("/a/b/c", 3, ".../a/b/c"), ("/a/b", 3, "/a/b"), ("a/b/c", 3, "a/b/c"),
    ("a/b/c/d", 3, ".../b/c/d"), ("/usr/lib/x.py", 1, ".../x.py"), ("x.py", 1, "x.py"),
    ("/usr/lib/x.py", 9, "/usr/lib/x.py"), ("<frozen importlib._bootstrap>", 3,
                                            "<frozen importlib._bootstrap>"),
])
def test_file_names(shop, name, parts, text):
    shop.make("n.tms", BIG.format(traces="trace 0x10 1 2 0 - 0 %s:1:f" % name))
    assert "#1: %s:1: size=1 B, count=1\n" % text in shop.ok("top", "-P", parts, "n.tms")


def test_names_cannot_steer_the_terminal(shop):
    shop.make("e.tms", BIG.format(traces="trace 0x10 1 2 0 - 0 a\x1b[31m\x07.py:1:f"))
    out = shop.ok("top", "e.tms")
    assert "\x1b" not in out and "\x07" not in out and r"a\x1b[31m\x07.py:1" in out


def test_everything_hidden(pair):
    assert "#1: leak.py:3\n" in pair.ok("top", "-S", "-C", "-A", "new.tms")


def test_unchanged_order_of_equals_is_by_key_descending(shop):
    shop.make("k.tms", BIG.format(traces="\n".join(
        "trace 0x%d0 5 2 0 - 0 %s:%d:f" % (i + 1, name, line)
        for i, (name, line) in enumerate([("a.py", 1), ("b.py", 9), ("b.py", 10), ("ä.py", 1)]))))
    keys = [line.split(": ")[1] for line in shop.ok("top", "k.tms").splitlines()[1:5]]
    assert keys == ["ä.py:1", "b.py:10", "b.py:9", "a.py:1"]


def test_order_is_that_of_statsdiff_sort(shop):
    old = ["trace 0x10 1000 2 0 - 0 shrinks.py:1:f", "trace 0x20 10 2 0 - 0 grows.py:1:f",
           "trace 0x30 5000 2 0 - 0 stays.py:1:f", "trace 0x40 7 2 0 - 0 splits.py:1:f"]
    new = ["trace 0x20 910 2 0 - 0 grows.py:1:f", "trace 0x30 5000 2 0 - 0 stays.py:1:f",
           "trace 0x40 3 2 0 - 0 splits.py:1:f", "trace 0x50 4 2 0 - 0 splits.py:1:f"]
    shop.make("1.tms", BIG.format(traces="\n".join(old)))
    shop.make("2.tms", BIG.format(traces="\n".join(new)).replace("0079", "0080"))
    names = [line.split(": ")[1] for line in shop.ok("diff", "1.tms", "2.tms").splitlines()[1:5]]
    assert names == ["shrinks.py:1", "grows.py:1", "stays.py:1", "splits.py:1"]


COLORS = {"bold": "\x1b[1m", "cyan": "\x1b[36m", "yellow": "\x1b[33m", "end": "\x1b[0m"}


def test_colors(pair):
    lines = pair.ok("diff", "--color", "old.tms", "new.tms").splitlines()
    assert lines[0] == ("{bold}2013-10-03 11:35:39{end}: {cyan}Top 4 allocations per filename and "
                        "line number{end} (compared to {bold}2013-10-03 11:34:39{end})"
                        ).format(**COLORS)
    assert lines[2] == ("#2: {cyan}.../c/lib/{end}x.py:10: size={bold}64 KiB{end} "
                        "({yellow}+58 KiB{end}), count=2 (+0), average=32 KiB").format(**COLORS)
    assert lines[7] == "gc.objects: {bold}120{end} (+20)".format(**COLORS)
    top = pair.ok("top", "--color", "-a", "-n", "1", "new.tms").splitlines()
    assert top[1] == ("#1: memory block {bold}0x83200{end}: size={yellow}8 MiB{end}"
                      ).format(**COLORS)
    assert top[2].startswith("{cyan}3 more{end}: ".format(**COLORS))


def test_no_color_into_a_pipe(pair):
    assert "\x1b" not in pair.ok("diff", "old.tms", "new.tms")
    assert "\x1b" not in pair.ok("diff", "--color", "--no-color", "old.tms", "new.tms")


def test_group_nouns(pair):
    expected = {
        "function": "#1: leak (leak.py): size=8 MiB, count=1",
        "traceback": "#1: leak.py:3 (3 frames): size=8 MiB, count=1",
        "domain": "#1: mem: size=8 MiB, count=2, average=4394 KiB",
        "size-class": "#1: blocks of up to 16777216 B: size=8 MiB, count=1",
        "thread": "#1: thread ???: size=8 MiB, count=2, average=4394 KiB",
        "age": "#1: before the first snapshot: size=8 MiB, count=3, average=2931 KiB",
        "type": "#1: list: size=8 MiB, count=2, average=4394 KiB",
    }
    for noun, line in expected.items():
        assert pair.ok("top", "-g", noun, "new.tms").splitlines()[1] == line


def test_stats_only(shop):
    shop.make("stats.tms", "time 1380800079000000000\nfact pid 1\nfact traces 0\n"
                           "stat a.py:1:f 5000 10 99 7000\nstat b.py:2:g 100 0 5 100\n"
                           "stat - 6 1 1 6\n")
    assert shop.ok("top", "stats.tms") == """\
2013-10-03 11:34:39: Top 2 allocations per filename and line number
#1: a.py:1: size=5000 B, count=10, average=500 B
#2: ???:?: size=6 B, count=1
Traced Python memory: size=5006 B, count=11, average=455 B

"""


def test_source_lines(shop):
    shop.write("code.py", b"first\n   second = 2  # caf\xc3\xa9\n")
    shop.make("s.tms", BIG.format(traces="trace 0x10 9 2 0 - 0 /far/away/code.py:2:f\n"
                                         "trace 0x20 8 2 0 - 0 /far/away/code.py:99:f"))
    assert shop.ok("top", "--source-root", ".", "s.tms").splitlines()[1:4] == [
        "#1: .../far/away/code.py:2: size=9 B, count=1", "    second = 2  # caf\u00e9",
        "#2: .../far/away/code.py:99: size=8 B, count=1"]
