# SPDX-License-Identifier: MIT
"""The commands beyond tops: their text, JSON, CSV and exit statuses."""
import csv
import io
import json

import pytest

from conftest import NEW, OLD, Workshop

COMMANDS = {
    "top": ["old.tms"],
    "diff": ["old.tms", "new.tms"],
    "summary": ["old.tms"],
    "traceback": ["old.tms"],
    "block": ["0x1000", "old.tms"],
    "timeline": ["old.tms", "new.tms"],
    "verify": ["old.tms", "new.tms"],
    "leaks": ["s0.tms", "s1.tms", "s2.tms", "s3.tms"],
}


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """One for all tests: they only read it."""
    shop = Workshop(str(tmp_path_factory.mktemp("series")))
    shop.make("old.tms", OLD)
    shop.make("new.tms", NEW)
    for i in range(6):
        shop.generate("s%d.tms" % i, 20000, 7, i)
    return shop


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_writes_json_and_csv(series, command):
    document = json.loads(series.ok(command, "--json", *COMMANDS[command]))
    assert document["schema"] == "tm-analyze/1" and document["command"] == command
    rows = list(csv.DictReader(io.StringIO(series.ok(command, "--csv", *COMMANDS[command]))))
    assert rows
    tables = [table for table in document.values() if isinstance(table, list)]
    assert len(rows) == len(tables[0])
    assert list(rows[0]) == list(tables[0][0])


def test_json_of_a_diff(pair):
    document = json.loads(pair.ok("diff", "--json", "old.tms", "new.tms"))
    assert document["group_by"] == "line" and document["cumulative"] is False
    assert document["items"][0] == {
        "snapshot": 1, "rank": 1, "file": "leak.py", "line": 3, "function": None,
        "traceback": None, "value": None, "size": 9000000, "size_diff": 9000000, "count": 1,
        "count_diff": 1, "average": 9000000}
    assert document["items"][3]["file"] is None and document["items"][3]["line"] is None
    snapshot = document["snapshots"][0]
    assert (snapshot["path"], snapshot["pid"], snapshot["compared_to"]) == ("new.tms", 123, 0)
    assert (snapshot["size"], snapshot["size_diff"]) == (9066100, 9059800)
    metrics = {m["name"]: (m["value"], m["diff"]) for m in document["metrics"]}
    assert metrics["gone"] == (0, -999999) and metrics["rss"] == (10000000, None)


def test_json_of_tracebacks(pair):
    document = json.loads(pair.ok("top", "-g", "traceback", "--json", "-n", "1", "new.tms"))
    assert document["items"][0]["traceback"] == [
        "leak.py:3 (leak)", "/a/b/c/lib/x.py:10 (f)", "/a/main.py:5 (main)"]


def test_json_is_valid_whatever_the_names_are(shop):
    shop.make("odd.tms", 'fact pid 1\ntrace 0x10 1 2 0 - 0 a"\\b\x01\udcff\udced\udcb3\udcbf.py:1:f\n')
    document = json.loads(shop.ok("top", "--json", "odd.tms"))
    assert document["items"][0]["file"] == 'a"\\b\x01\ufffd\udcff.py'


def test_csv_quotes(shop):
    shop.make("odd.tms", 'fact pid 1\ntrace 0x10 1 2 0 - 0 a,"b.py:1:f\n')
    rows = list(csv.DictReader(io.StringIO(shop.ok("top", "--csv", "odd.tms"))))
    assert rows[0]["file"] == 'a,"b.py'


def test_summary(pair):
    out = pair.ok("summary", "-M", "new.tms")
    assert out == """\
2013-10-03 11:35:39: new.tms
  8 MiB in 4 blocks at 3 lines, 3 tracebacks
Process
  pid: 123
  traceback_limit: 16
  traces: 1
Memory per domain
  mem: size=8 MiB, count=2
  obj: size=64 KiB, count=2
Largest lines
  leak.py:3: size=8 MiB, count=1
  .../c/lib/x.py:10: size=64 KiB, count=2
  ???:?: size=100 B, count=1

"""


def test_summary_says_what_is_missing(shop):
    shop.make("lossy.tms", "fact pid 1\nfact dropped 7\nfact torn 3\nfact sample_bytes 512\n"
                           "trace 0x10 1 2 0 - 0 a.py:1:f\n")
    out = shop.ok("summary", "lossy.tms")
    assert "7 records could not be kept: sizes and counts are lower bounds" in out
    assert "3 entries were in motion" in out
    assert "about one block in 512 B was recorded: sizes and counts are estimates" in out


def test_traceback(pair):
    assert pair.ok("traceback", "-n", "1", "new.tms") == """\
2013-10-03 11:35:39: Top 1 tracebacks

#1: size=8 MiB, count=1
Traceback (most recent call first):
  File "leak.py", line 3
    (not found)
  File "/a/b/c/lib/x.py", line 10
    (not found)
  File "/a/main.py", line 5
    (not found)

2 more: size=64 KiB, count=3

"""


def test_block_over_snapshots(pair):
    out = pair.ok("block", "0x5000", "old.tms", "new.tms").splitlines()
    assert out[0] == "2013-10-03 11:34:39, memory block 0x5000: (not found)"
    assert out[1] == "2013-10-03 11:35:39, memory block 0x5000: 58 KiB"


@pytest.mark.parametrize("size, status", [("10M", 0), ("8M", 3), ("9059800", 0), ("9059799", 3),
                                          ("1 KiB", 3), ("1G", 0)])
def test_fail_over(pair, size, status):
    assert pair.run("diff", "--fail-over", size, "old.tms", "new.tms").status == status
    # The memory of the newer one alone is 6300 bytes more.
    assert pair.run("top", "--fail-over", "9066100", "new.tms").status == 0
    assert pair.run("top", "--fail-over", "9066099", "new.tms").status == 3


def test_fail_over_ignores_shrinking(pair):
    pair.make("later.tms", "time 1380800199000000000\nfact pid 123\n")
    assert pair.run("diff", "--fail-over", "1", "new.tms", "later.tms").status == 0


def test_merge_adds_up(pair):
    text = """
time 1380800079000000000
fact pid 124
fact traceback_limit 16
metric gc.objects int 5
metric share percent 0.5
trace 0x1000 500 2 0 dict 1 /a/b/c/lib/x.py:10:f;/a/main.py:5:main
"""
    pair.make("other.tms", text)
    pair.ok("merge", "old.tms", "other.tms", "-o", "both.tms")
    pair.ok("verify", "both.tms")
    document = json.loads(pair.ok("top", "--json", "both.tms"))
    assert document["snapshots"][0]["size"] == 6800 and document["snapshots"][0]["count"] == 5
    assert document["items"][0]["size"] == 6600
    assert {m["name"]: m["value"] for m in document["metrics"]} == {"gc.objects": 105,
                                                                   "gone": 999999}
    assert "pids: 123, 124" in pair.ok("summary", "both.tms")
    assert pair.run("top", "-a", "both.tms").status == 1


def test_merge_refuses_one_process_twice(pair):
    result = pair.run("merge", "old.tms", "new.tms", "-o", "both.tms")
    assert result.status == 1 and "count twice" in result.err
    with pytest.raises(FileNotFoundError):
        pair.read("both.tms")


def test_merge_tells_what_it_wrote(pair):
    pair.make("other.tms", OLD.replace("pid 123", "pid 124"))
    document = json.loads(pair.ok("merge", "old.tms", "other.tms", "-o", "both.tms", "--json"))
    assert (document["schema"], document["command"]) == ("tm-analyze/1", "merge")
    row = document["files"][0]
    assert (row["path"], row["format"], row["size"], row["count"]) == ("both.tms", "tms", 12600, 8)
    assert row["bytes"] == len(pair.read("both.tms"))
    assert [row["pid"] for row in document["snapshots"]] == [123, 124]
    rows = pair.ok("merge", "old.tms", "other.tms", "-o", "both.tms", "--csv").splitlines()
    assert rows[0] == "path,format,bytes,size,size_diff,count,count_diff" and len(rows) == 2
    assert pair.run("merge", "old.tms", "other.tms", "-o", "-", "--json").status == 2


def test_threads_are_not_guessed(shop):
    shop.make("none.tms", "fact pid 1\ntrace 0x10 5 2 0 - 0 a.py:1:f\n")
    result = shop.run("top", "-g", "thread", "none.tms")
    assert result.status == 1
    assert result.err == "ERROR: The snapshot none.tms does not contain threads\n"
    shop.make("some.tms", "fact pid 1\ntrace 0x10 5 2 0 - 7 a.py:1:f\n")
    assert "#1: thread 7: size=5 B, count=1\n" in shop.ok("top", "-g", "thread", "some.tms")


def test_verify(pair):
    assert pair.ok("verify", "old.tms") == (
        "old.tms: ok, 4 traces of 6300 bytes, 4 sites, 6 tracebacks\n")
    data = bytearray(pair.read("old.tms"))
    data[len(data) // 2] ^= 4
    pair.write("bad.tms", bytes(data))
    result = pair.run("verify", "bad.tms", "new.tms")
    assert result.status == 1
    assert result.err.startswith("ERROR: Failed to load bad.tms: ")
    assert result.out.startswith("new.tms: ok")


def test_verify_compares_stats_with_traces(shop):
    shop.make("lies.tms", "fact pid 1\ntrace 0x10 9 2 0 - 0 a.py:1:f\nstat a.py:1:f 10 1 1 10\n")
    result = shop.run("verify", "lies.tms")
    assert result.status == 1 and "stats count 1 blocks of 10 bytes" in result.err


def test_timeline(pair):
    lines = pair.ok("timeline", "old.tms", "new.tms").splitlines()
    assert lines[0].split() == ["2013-10-03", "11:34:39", "6", "KiB", "count=4"]
    assert lines[1].split()[:7] == ["2013-10-03", "11:35:39", "8", "MiB", "+8", "MiB", "count=4"]
    assert "#1: ▁█ leak.py:3: 0 B -> 8 MiB" in lines


# --- leaks ---

def snapshot(minute, lines, age=0):
    """A snapshot `minute` minutes after the first; lines: {(file, line): size}."""
    text = ["time %d" % ((1380800000 + minute * 60) * 10 ** 9), "fact pid 1"]
    for i, ((name, line), size) in enumerate(sorted(lines.items())):
        text.append("trace 0x%x %d 2 %d - 0 %s:%d:f" % (0x1000 * (i + 1), size, age, name, line))
    return "\n".join(text) + "\n"


def make_series(shop, rows):
    names = []
    for minute, row in enumerate(rows):
        names.append(shop.make("m%02d.tms" % minute, snapshot(minute, row)))
    return names


def test_leaks_finds_the_steady_one(shop):
    noise = [5, 9, 4, 8, 5, 9]
    names = make_series(shop, [{("leak.py", 3): 1000 * (i + 1), ("noise.py", 1): 100000 * noise[i],
                                ("still.py", 1): 77, ("falls.py", 2): 9000 - i,
                                ("small.py", 5): 100 * i + 1}
                               for i in range(6)])
    document = json.loads(shop.ok("leaks", "--warm-up", "0", "--json", *names))
    assert [(row["file"], row["line"]) for row in document["items"]] == [("leak.py", 3)]
    row = document["items"][0]
    assert row["bytes_per_hour"] == pytest.approx(60000)
    assert (row["rises"], row["intervals"], row["size_diff"]) == (5, 5, 5000)
    assert row["confidence"] == pytest.approx(1 - 1 / 720)
    assert document["smaller_leaks"] == 1
    out = shop.ok("leaks", "--warm-up", "0", *names)
    assert "1 more grew steadily, but by less than 4096 B each" in out
    assert "#2: small.py:5: +5 KiB/hour" in shop.ok("leaks", "--warm-up", "0", "--min-growth", "1",
                                                     *names)


def test_leaks_knows_how_little_three_snapshots_say(shop):
    names = make_series(shop, [{("leak.py", 3): 5000 * (i + 1)} for i in range(3)])
    out = shop.ok("leaks", *names)
    assert "confidence=83 %" in out and "take more" in out
    assert "Nothing grew steadily." in shop.ok("leaks", "--confidence", "0.9", *names)


def test_leaks_one_odd_snapshot_does_not_decide(shop):
    sizes = [1000, 2000, 3000, 500000, 5000, 6000, 7000, 8000]
    names = make_series(shop, [{("leak.py", 3): size} for size in sizes])
    row = json.loads(shop.ok("leaks", "--warm-up", "0", "--json", *names))["items"][0]
    assert row["bytes_per_hour"] == pytest.approx(60000, rel=0.2)
    assert row["rises"] == 6 and row["intervals"] == 7


def test_leaks_says_what_it_took_for_warm_up(shop):
    sizes = [1000, 900000, 905000, 910000, 915000, 920000, 925000]
    names = make_series(shop, [{("cache.py", 3): size} for size in sizes])
    out = shop.ok("leaks", *names)
    assert "(6 snapshots over 0:05:00, 1 more treated as warm-up)" in out
    assert json.loads(shop.ok("leaks", "--json", *names))["warm_up"] == 1
    assert json.loads(shop.ok("leaks", "--warm-up", "2", "--json", *names))["warm_up"] == 2


def test_leaks_shows_ages(shop):
    for i in range(4):
        text = ["time %d" % ((1380800000 + i * 60) * 10 ** 9), "fact pid 1"]
        for block in range(i + 1):
            text.append("trace 0x%x 2000 2 %d - 0 leak.py:3:f" % (0x1000 * (block + 1), block))
        shop.make("m%d.tms" % i, "\n".join(text) + "\n")
    document = json.loads(shop.ok("leaks", "--warm-up", "0", "--json", "m?.tms"))
    assert document["ages"] == [{"rank": 1, "age": age, "size": 2000} for age in range(4)]
    assert document["items"][0]["size_before_first_snapshot"] == 2000
    assert "allocated: 25 % before the first snapshot, " in shop.ok("leaks", "m?.tms")


def test_leaks_fail_over(shop):
    names = make_series(shop, [{("leak.py", 3): 5000 * (i + 1)} for i in range(5)])
    assert shop.run("leaks", "--warm-up", "0", "--fail-over", "20000", *names).status == 0
    assert shop.run("leaks", "--warm-up", "0", "--fail-over", "19999", *names).status == 3


@pytest.mark.parametrize("args", [["leaks"], ["timeline"], ["summary", "-n", "3"]])
def test_width_is_that_of_a_pager(series, args):
    out = series.ok(*args, *["s%d.tms" % i for i in range(6)])
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize("command", ["", "top", "diff", "summary", "traceback", "block", "leaks",
                                     "timeline", "merge", "convert", "verify", "extract"])
def test_width_of_help(shop, command):
    lines = shop.ok(*([command] if command else []), "--help").splitlines()
    assert max(len(line) for line in lines) < 80


def test_leaks_in_an_invented_service(series):
    out = series.ok("leaks", "-g", "traceback", *["s%d.tms" % i for i in range(6)])
    assert ".../srv/app/cache.py:57 (3 frames): +" in out.splitlines()[2]
