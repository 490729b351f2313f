# SPDX-License-Identifier: MIT
"""Each export, opened by a reader of its own, holds the same totals."""
import collections
import csv
import gzip
import io
import json
import os
import re
import stat
import subprocess

import pytest

from conftest import ANALYZE, Workshop, need

TOTAL, BLOCKS = 9066100, 4
GROWTH = 9059800
HERE = os.path.dirname(os.path.abspath(__file__))


def convert(shop, name, *args):
    shop.ok("convert", "new.tms", "-o", name, *args)
    return shop.read(name)


def run_reader(shop, *args, **kwargs):
    result = subprocess.run(list(args), cwd=shop.path, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, timeout=120, **kwargs)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


# --- pprof ---

PROFILE_PROTO = """
syntax = "proto3";
package perftools.profiles;
message Profile {
  repeated ValueType sample_type = 1; repeated Sample sample = 2; repeated Mapping mapping = 3;
  repeated Location location = 4; repeated Function function = 5; repeated string string_table = 6;
  int64 drop_frames = 7; int64 keep_frames = 8; int64 time_nanos = 9; int64 duration_nanos = 10;
  ValueType period_type = 11; int64 period = 12; repeated int64 comment = 13;
  int64 default_sample_type = 14;
}
message ValueType { int64 type = 1; int64 unit = 2; }
message Sample { repeated uint64 location_id = 1; repeated int64 value = 2; repeated Label label = 3; }
message Label { int64 key = 1; int64 str = 2; int64 num = 3; int64 num_unit = 4; }
message Mapping {
  uint64 id = 1; uint64 memory_start = 2; uint64 memory_limit = 3; uint64 file_offset = 4;
  int64 filename = 5; int64 build_id = 6;
}
message Location { uint64 id = 1; uint64 mapping_id = 2; uint64 address = 3; repeated Line line = 4; }
message Line { uint64 function_id = 1; int64 line = 2; }
message Function { uint64 id = 1; int64 name = 2; int64 system_name = 3; int64 filename = 4; int64 start_line = 5; }
"""


def fields(data):
    """(field, value) of a protocol buffer's message; a reader without protoc."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7f) << shift
            shift += 7
            if byte < 0x80:
                return value
    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            assert key & 7 == 2
            size = varint()
            yield key >> 3, data[at:at + size]
            at += size


def packed(data):
    return [value for _, value in fields(b"".join(b"\x08" + part for part in split(data)))]


def split(data):
    """The varints of a packed field, each as its bytes."""
    part = b""
    for byte in data:
        part += bytes([byte])
        if byte < 0x80:
            yield part
            part = b""


def signed(value):
    return value - (1 << 64) if value >> 63 else value


class Profile:
    def __init__(self, data):
        message = {}
        for field, value in fields(gzip.decompress(data)):
            message.setdefault(field, []).append(value)
        self.strings = [s.decode() for s in message[6]]
        self.functions = {dict(fields(f))[1]: dict(fields(f)) for f in message.get(5, [])}
        self.locations = {dict(fields(f))[1]: dict(fields(f)) for f in message.get(4, [])}
        self.types = [self.strings[dict(fields(t))[1]] for t in message[1]]
        self.default = self.strings[message[14][0]]
        self.time = message[9][0]
        self.samples = []
        for sample in message.get(2, []):
            parts = dict(fields(sample))
            frames = []
            for location in packed(parts[1]):
                line = dict(fields(self.locations[location][4]))
                function = self.functions[line[1]]
                frames.append((self.strings[function[2]], self.strings[function.get(4, 0)],
                               line.get(2, 0)))
            self.samples.append((frames, [signed(v) for v in packed(parts[2])]))


def test_pprof(pair):
    profile = Profile(convert(pair, "x.pb.gz"))
    assert profile.strings[0] == ""
    assert profile.types == ["inuse_objects", "inuse_space"] and profile.default == "inuse_space"
    assert [sum(v[i] for _, v in profile.samples) for i in (0, 1)] == [BLOCKS, TOTAL]
    assert profile.samples[0][0] == [("leak", "leak.py", 3), ("f", "/a/b/c/lib/x.py", 10),
                                     ("main", "/a/main.py", 5)]
    assert profile.time == 1380800139 * 10 ** 9
    # pprof takes "<module>" there for a C++ name.
    assert all(3 not in function for function in profile.functions.values())


def test_pprof_differences(pair):
    profile = Profile(convert(pair, "d.pb.gz", "--base", "old.tms"))
    assert sum(v[1] for _, v in profile.samples) == 9059800
    assert sum(v[0] for _, v in profile.samples) == 0
    assert min(v[1] for _, v in profile.samples) == -100


def decode_by_protoc(shop, name):
    """[blocks, bytes] of all samples."""
    protoc = need("protoc")
    shop.write("profile.proto", PROFILE_PROTO.encode())
    out = run_reader(shop, protoc, "--decode=perftools.profiles.Profile", "profile.proto",
                     input=gzip.decompress(shop.read(name)))
    assert not re.search(r"^\s*\d+: ", out, re.M), "a field that the schema does not know"
    samples = re.findall(r"^sample \{(.*?)^\}", out, re.S | re.M)
    values = [[int(v) for v in re.findall(r"value: (-?\d+)", sample)] for sample in samples]
    return [sum(v[i] for v in values) for i in (0, 1)]


def test_pprof_by_protoc(pair):
    convert(pair, "x.pb.gz")
    assert decode_by_protoc(pair, "x.pb.gz") == [BLOCKS, TOTAL]
    convert(pair, "d.pb.gz", "--base", "old.tms")
    assert decode_by_protoc(pair, "d.pb.gz") == [0, GROWTH]


def top_by_go(shop, *args):
    """{function: its own amount} and the sum that pprof says."""
    go = need("go")
    out = run_reader(shop, go, "tool", "pprof", "-top", "-unit=B", "-nodefraction=0",
                     "-edgefraction=0", "-nodecount=100000", *args,
                     env=dict(os.environ, HOME=shop.path))
    shown = re.search(r"^Showing nodes accounting for (-?\d+)B?,", out, re.M).group(1)
    rows = re.findall(r"^ *(-?\d+)B? +\S+ +\S+ +-?\d+B? +\S+  (.+)$", out, re.M)
    return {name: int(flat) for flat, name in rows}, int(shown)


def test_pprof_by_go(pair):
    convert(pair, "new.pb.gz")
    flat, shown = top_by_go(pair, "new.pb.gz")
    assert flat == {"leak": 9000000, "f": 66000, "main": 0, "???": 100}
    assert shown == sum(flat.values()) == TOTAL
    flat, shown = top_by_go(pair, "-sample_index=inuse_objects", "new.pb.gz")
    assert shown == sum(flat.values()) == BLOCKS


def test_pprof_differences_by_go(pair):
    expected = {"leak": 9000000, "f": 59900, "y.py:3": -100}
    convert(pair, "new.pb.gz")
    pair.ok("convert", "old.tms", "-o", "old.pb.gz")
    convert(pair, "d.pb.gz", "--base", "old.tms")
    for args in (["-diff_base=old.pb.gz", "new.pb.gz"], ["d.pb.gz"]):
        flat, shown = top_by_go(pair, *args)
        assert {name: amount for name, amount in flat.items() if amount} == expected
        assert shown == GROWTH


# --- collapsed stacks ---

def test_collapsed(pair):
    lines = convert(pair, "x.folded").decode().splitlines()
    assert lines[0] == ("main (/a/main.py:5);f (/a/b/c/lib/x.py:10);leak (leak.py:3) 9000000")
    assert sum(int(line.rsplit(" ", 1)[1]) for line in lines) == TOTAL


def test_collapsed_differences(pair):
    lines = convert(pair, "x.folded", "--base", "old.tms").decode().splitlines()
    amounts = [[int(n) for n in line.split(" ")[-2:]] for line in lines]
    assert [sum(a[i] for a in amounts) for i in (0, 1)] == [6300, TOTAL]


def test_collapsed_separators_are_clean(shop):
    shop.make("new.tms", "fact pid 1\ntrace 0x10 1 2 0 - 0 a;b.py:1:f;c.py:2:g\n".replace(
        "a;b", "a\x02b"))
    assert convert(shop, "x.folded") == b"g (c.py:2);f (a b.py:1) 1\n"


# Debian has it in the package of a profiler for Perl, libdevel-nytprof-perl.
FLAMEGRAPH = ["flamegraph.pl", "/usr/share/perl5/Devel/NYTProf/flamegraph.pl"]


def draw_flamegraph(shop, name):
    """{frame: its bytes}, of all frames that are wide enough to be drawn."""
    svg = run_reader(shop, "perl", need(*FLAMEGRAPH), "--countname", "bytes", "--minwidth", "0",
                     name)
    titles = re.findall(r"<title>(.*?) \(([\d,]+) bytes, ([^)]*)\)</title>", svg)
    return {frame: (int(size.replace(",", "")), percent) for frame, size, percent in titles}


def test_collapsed_by_flamegraph(pair):
    convert(pair, "x.folded")
    frames = draw_flamegraph(pair, "x.folded")
    assert frames["all"][0] == TOTAL
    assert frames["leak (leak.py:3)"] == (9000000, "99.27%")
    assert frames["main (/a/main.py:5)"][0] == 9066000


def test_collapsed_differences_by_flamegraph(pair):
    """Widths are those of the newer snapshot, colours the growth."""
    convert(pair, "x.folded", "--base", "old.tms")
    frames = draw_flamegraph(pair, "x.folded")
    assert frames["all"][0] == TOTAL
    assert frames["leak (leak.py:3)"] == (9000000, "99.27%; +99.27%")


# --- speedscope ---

def check_speedscope(data):
    """What the published schema asks for, and speedscope's importer besides."""
    document = json.loads(data)
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    frames = document["shared"]["frames"]
    for profile in document["profiles"]:
        assert profile["type"] == "sampled"
        assert profile["unit"] in ("bytes", "none")
        assert len(profile["samples"]) == len(profile["weights"])
        assert all(weight > 0 for weight in profile["weights"])
        assert all(0 <= i < len(frames) for sample in profile["samples"] for i in sample)
        assert profile["startValue"] == 0 and profile["endValue"] == sum(profile["weights"])
    return {profile["name"]: profile for profile in document["profiles"]}, frames


def test_speedscope(pair):
    profiles, frames = check_speedscope(convert(pair, "x.speedscope.json"))
    assert profiles["size"]["endValue"] == TOTAL and profiles["blocks"]["endValue"] == BLOCKS
    assert [frames[i]["name"] for i in profiles["size"]["samples"][0]] == ["main", "f", "leak"]


def test_speedscope_differences(pair):
    profiles, _ = check_speedscope(convert(pair, "x.speedscope.json", "--base", "old.tms"))
    assert profiles["growth"]["endValue"] - profiles["shrinkage"]["endValue"] == 9059800


# --- DHAT ---

def test_dhat(pair):
    document = json.loads(convert(pair, "x.dhat.json"))
    for field in ["dhatFileVersion", "mode", "verb", "bklt", "bkacc", "tu", "Mtu", "cmd", "pid",
                  "te", "pps", "ftbl"]:
        assert field in document
    assert document["dhatFileVersion"] == 2 and document["ftbl"][0] == "[root]"
    assert sum(point["tb"] for point in document["pps"]) == TOTAL
    assert sum(point["tbk"] for point in document["pps"]) == BLOCKS
    stacks = [tuple(point["fs"]) for point in document["pps"]]
    assert len(set(stacks)) == len(stacks)
    assert all(0 < i < len(document["ftbl"]) for stack in stacks for i in stack)


def test_dhat_tells_no_traceback_from_an_unknown_frame(shop):
    shop.make("new.tms", "fact pid 1\ntrace 0x10 5 2 0 - 0 -\ntrace 0x20 7 2 0 - 0 :0:\n")
    document = json.loads(convert(shop, "x.dhat.json"))
    assert len({tuple(point["fs"]) for point in document["pps"]}) == 2
    assert "12 bytes (100%" in show_by_dh_view(shop, "x.dhat.json")


def show_by_dh_view(shop, name):
    """The page that valgrind's own viewer makes of the file, without a browser."""
    return run_reader(shop, need("node"), os.path.join(HERE, "dh_view_page.js"),
                      need("/usr/libexec/valgrind/dh_view.js", "/usr/lib/valgrind/dh_view.js"),
                      name)


def test_dhat_by_dh_view(pair):
    convert(pair, "x.dhat.json")
    page = show_by_dh_view(pair, "x.dhat.json")
    totals = re.findall(r"Total: +([\d,]+) bytes .*? in ([\d,]+) blocks", page)
    totals = [tuple(int(n.replace(",", "")) for n in total) for total in totals]
    assert totals[0] == (TOTAL, BLOCKS)
    assert sorted(totals[1:]) == [(100, 1), (66000, 2), (9000000, 1)]
    assert "#1: leak (leak.py:3)" in page and "PID:     123" in page


# --- heaptrack ---

def test_heaptrack(pair):
    """Sums by the rules of the format."""
    infos, total, count = [], 0, 0
    for line in convert(pair, "x.heaptrack").decode().splitlines():
        words = line.split(" ")
        if words[0] == "a":
            infos.append(int(words[1], 16))
        elif words[0] == "+":
            total += infos[int(words[1], 16)]
            count += 1
    assert (total, count) == (TOTAL, BLOCKS)


def print_by_heaptrack(shop, *args):
    program = need("heaptrack_print")
    out = subprocess.run([program, *args], cwd=shop.path, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, check=True).stdout.decode()
    assert "failed to parse" not in out and "out of bounds" not in out
    return out


def test_heaptrack_by_heaptrack_print(pair):
    convert(pair, "x.heaptrack")
    out = print_by_heaptrack(pair, "-f", "x.heaptrack")
    assert "calls to allocation functions: 4 " in out
    assert "total memory leaked: 9.07M" in out
    assert re.search(r"9.00M (peak|consumed|leaked).* over 1 calls from", out)
    assert "leak.py:3" in out


def flames_of_heaptrack(shop, *args):
    """Bytes that heaptrack_print itself sums up, without rounding."""
    print_by_heaptrack(shop, *args, "-F", "flames", "--flamegraph-cost-type", "leaked")
    sums = collections.Counter()
    for line in shop.read("flames").decode().splitlines():
        stack, amount = line.rsplit(" ", 1)
        sums[stack] += int(amount)
    return sums


def test_heaptrack_sums_to_the_byte(pair):
    convert(pair, "x.heaptrack")
    assert sum(flames_of_heaptrack(pair, "-f", "x.heaptrack").values()) == TOTAL


def test_heaptrack_differences(pair):
    convert(pair, "d.heaptrack", "--base", "old.tms")
    out = print_by_heaptrack(pair, "-f", "d.heaptrack", "-l", "1")
    assert "total memory leaked: 9.06M" in out and "-100B leaked over 0 calls from" in out
    flames = flames_of_heaptrack(pair, "-f", "d.heaptrack")
    assert sum(flames.values()) == GROWTH and max(flames.values()) == 9000000
    # heaptrack's own difference of two files says the same.
    convert(pair, "new.heaptrack")
    pair.ok("convert", "old.tms", "-o", "old.heaptrack")
    assert flames_of_heaptrack(pair, "-f", "new.heaptrack", "-d", "old.heaptrack") == flames


# --- tables, .tms ---

def test_csv_and_json(pair):
    rows = list(csv.DictReader(io.StringIO(convert(pair, "x.csv").decode())))
    assert sum(int(row["size"]) for row in rows) == TOTAL
    assert rows[0]["traceback"].split(";")[0] == "leak.py:3 (leak)"
    document = json.loads(convert(pair, "x.json", "--base", "old.tms"))
    assert sum(item["size_diff"] for item in document["items"]) == 9059800


@pytest.mark.parametrize("noun", ["line", "function", "traceback", "address", "domain", "thread",
                                  "age", "type", "size-class"])
def test_tms_keeps_everything(pair, noun):
    convert(pair, "copy.tms")
    pair.ok("verify", "copy.tms")
    assert pair.ok("top", "-g", noun, "copy.tms") == pair.ok("top", "-g", noun, "new.tms")
    assert pair.ok("summary", "copy.tms").replace("copy", "new") == pair.ok("summary", "new.tms")


def test_filters_apply(pair):
    convert(pair, "part.tms", "-x", "*/x.py")
    assert json.loads(pair.ok("top", "--json", "part.tms"))["snapshots"][0]["size"] == 9000100


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Data of a size that has all kinds of blocks, and what it sums up to."""
    shop = Workshop(str(tmp_path_factory.mktemp("large")))
    shop.generate("new.tms", 30000, 3)
    snapshot = json.loads(shop.ok("top", "--json", "new.tms"))["snapshots"][0]
    return shop, snapshot["size"], snapshot["count"]


def test_large_snapshots_agree(large):
    """The same totals by every way."""
    shop, size, count = large
    profile = Profile(convert(shop, "x.pb.gz"))
    assert sum(v[1] for _, v in profile.samples) == size
    assert sum(v[0] for _, v in profile.samples) == count
    assert sum(int(line.rsplit(" ", 1)[1])
               for line in convert(shop, "x.folded").decode().splitlines()) == size
    profiles, _ = check_speedscope(convert(shop, "x.speedscope.json"))
    assert (profiles["size"]["endValue"], profiles["blocks"]["endValue"]) == (size, count)
    points = json.loads(convert(shop, "x.dhat.json"))["pps"]
    assert sum(point["tb"] for point in points) == size
    convert(shop, "x.pickle")
    assert json.loads(shop.ok("top", "--json", "x.pickle"))["snapshots"][0]["size"] == size


def test_large_by_protoc(large):
    shop, size, count = large
    convert(shop, "p.pb.gz")
    assert decode_by_protoc(shop, "p.pb.gz") == [count, size]


def test_large_by_go(large):
    shop, size, _ = large
    convert(shop, "g.pb.gz")
    flat, shown = top_by_go(shop, "g.pb.gz")
    assert shown == size == sum(flat.values())


def test_large_by_flamegraph(large):
    shop, size, _ = large
    convert(shop, "f.folded")
    assert draw_flamegraph(shop, "f.folded")["all"][0] == size


def test_large_by_dh_view(large):
    shop, size, count = large
    convert(shop, "d.dhat.json")
    page = show_by_dh_view(shop, "d.dhat.json")
    first = re.search(r"Total: +([\d,]+) bytes .*? in ([\d,]+) blocks", page)
    assert [int(n.replace(",", "")) for n in first.groups()] == [size, count]


def test_large_by_heaptrack_print(large):
    shop, size, count = large
    convert(shop, "h.heaptrack")
    assert sum(flames_of_heaptrack(shop, "-f", "h.heaptrack").values()) == size
    assert "calls to allocation functions: %d " % count in print_by_heaptrack(shop, "-f",
                                                                             "h.heaptrack")


def test_a_failed_write_leaves_nothing(pair):
    result = pair.run("convert", "new.tms", "-o", "nowhere/x.csv")
    assert result.status == 1 and result.err.startswith("ERROR: Failed to write nowhere/x.csv: ")
    pair.write("broken.tms", pair.read("new.tms")[:-8])
    assert pair.run("convert", "broken.tms", "-o", "y.csv").status == 1
    assert not [name for name in os.listdir(pair.path) if name.startswith("y.csv")]


def is_writing(pid, folder):
    for fd in os.listdir("/proc/%d/fd" % pid):
        try:
            target = os.readlink("/proc/%d/fd/%s" % (pid, fd))
        except OSError:
            continue
        if target.startswith(folder + "/") and target.endswith(" (deleted)"):
            return True
    return False


def test_a_killed_conversion_leaves_nothing(shop):
    try:
        os.close(os.open(shop.path, os.O_TMPFILE | os.O_RDWR))
    except OSError:
        pytest.skip("files without names are not for this file system")
    shop.generate("big.tms", 300000, 3)
    process = subprocess.Popen([ANALYZE, "convert", "big.tms", "-o", "big.pickle"], cwd=shop.path)
    while process.poll() is None and not is_writing(process.pid, os.path.realpath(shop.path)):
        pass
    process.kill()
    if process.wait() != 0:
        assert os.listdir(shop.path) == ["big.tms"]
    shop.ok("convert", "big.tms", "-o", "big.pickle")
    assert os.stat(os.path.join(shop.path, "big.pickle")).st_mode & 0o777 == \
        os.stat(os.path.join(shop.path, "big.tms")).st_mode & 0o777
    assert sorted(os.listdir(shop.path)) == ["big.pickle", "big.tms"]


@pytest.mark.parametrize("form", ["tms", "pprof", "collapsed", "pickle", "csv"])
def test_what_is_no_file_is_written_to(pair, form):
    """A device would be gone if a file came to its place."""
    path = os.path.join(pair.path, "pipe")
    os.mkfifo(path)
    process = subprocess.Popen([ANALYZE, "convert", "new.tms", "--to", form, "-o", "pipe"],
                               cwd=pair.path)
    with open(path, "rb") as pipe:
        data = pipe.read()
    assert process.wait() == 0 and stat.S_ISFIFO(os.lstat(path).st_mode)
    pair.ok("convert", "new.tms", "--to", form, "-o", "file")
    with open(os.path.join(pair.path, "file"), "rb") as file:
        assert data == file.read()


def test_links_are_followed(pair):
    os.symlink("file.csv", os.path.join(pair.path, "link.csv"))
    for _ in range(2):  # where there is no file yet, too
        pair.ok("convert", "new.tms", "-o", "link.csv")
        assert os.readlink(os.path.join(pair.path, "link.csv")) == "file.csv"
        assert pair.read("file.csv") == pair.read("link.csv")


@pytest.mark.parametrize("name", ["x.tms", "x.dhat.json", "x.pickle"])
def test_bases_are_refused_where_they_say_nothing(pair, name):
    result = pair.run("convert", "new.tms", "--base", "old.tms", "-o", name)
    assert result.status == 2 and len(result.err.splitlines()) == 1
    assert "has no form for differences: convert both snapshots" in result.err


# --- what was written ---

@pytest.mark.parametrize("name, form", [
    ("x.tms", "tms"), ("x.pb.gz", "pprof"), ("x.folded", "collapsed"),
    ("x.speedscope.json", "speedscope"), ("x.dhat.json", "dhat"), ("x.heaptrack", "heaptrack"),
    ("x.pickle", "pickle"), ("x.csv", "csv"), ("x.json", "json"),
])
def test_convert_tells_what_it_wrote(pair, name, form):
    document = json.loads(pair.ok("convert", "new.tms", "-o", name, "--json"))
    assert (document["schema"], document["command"]) == ("tm-analyze/1", "convert")
    assert document["files"] == [{"path": name, "format": form, "bytes": len(pair.read(name)),
                                  "size": TOTAL, "size_diff": None, "count": BLOCKS,
                                  "count_diff": None}]
    assert [row["path"] for row in document["snapshots"]] == ["new.tms"]
    rows = list(csv.DictReader(io.StringIO(pair.ok("convert", "new.tms", "-o", name, "--csv"))))
    assert rows[0]["path"] == name and rows[0]["size"] == str(TOTAL)


def test_convert_tells_differences(pair):
    document = json.loads(pair.ok("convert", "new.tms", "--base", "old.tms", "-o", "x.pb.gz",
                                  "--json", "-i", "leak.py", "-i", "*/x.py"))
    row = document["files"][0]
    assert (row["size"], row["size_diff"], row["count"], row["count_diff"]) == (9066000, 9059900,
                                                                              3, 1)


@pytest.mark.parametrize("args", [["--to", "json"], ["--to", "csv", "-o", "-"]])
def test_a_report_is_not_mixed_with_what_is_written(pair, args):
    result = pair.run("convert", "new.tms", "--json", *args)
    assert result.status == 2 and result.out == "" and "-o OUT" in result.err
