# SPDX-License-Identifier: MIT
"""Each export, opened by a reader of its own, holds the same totals."""
import csv
import gzip
import io
import json
import os
import re
import shutil
import subprocess

import pytest

TOTAL, BLOCKS = 9066100, 4


def convert(shop, name, *args):
    shop.ok("convert", "new.tms", "-o", name, *args)
    return shop.read(name)


def need(program):
    path = shutil.which(program)
    if path is None:
        pytest.skip("%s is not installed" % program)
    return path


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


def test_pprof_by_protoc(pair):
    protoc = need("protoc")
    convert(pair, "x.pb.gz")
    pair.write("profile.proto", PROFILE_PROTO.encode())
    out = subprocess.run([protoc, "--decode=perftools.profiles.Profile", "profile.proto"],
                         cwd=pair.path, input=gzip.decompress(pair.read("x.pb.gz")),
                         stdout=subprocess.PIPE, check=True).stdout.decode()
    samples = re.findall(r"^sample \{(.*?)^\}", out, re.S | re.M)
    values = [[int(v) for v in re.findall(r"value: (-?\d+)", sample)] for sample in samples]
    assert [sum(v[i] for v in values) for i in (0, 1)] == [BLOCKS, TOTAL]
    assert not re.search(r"^\s*\d+: ", out, re.M), "a field that the schema does not know"


def test_pprof_by_go(pair):
    go = need("go")
    if subprocess.run([go, "tool", "pprof", "-h"], stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL).returncode not in (0, 2):
        pytest.skip("go has no pprof")
    convert(pair, "new.pb.gz")
    pair.ok("convert", "old.tms", "-o", "old.pb.gz")

    def top(*args):
        return subprocess.run([go, "tool", "pprof", "-top", "-unit=B"] + list(args),
                              cwd=pair.path, stdout=subprocess.PIPE, check=True,
                              env=dict(os.environ, HOME=pair.path)).stdout.decode()
    assert re.search(r"9000000B .* leak$", top("new.pb.gz"), re.M)
    assert re.search(r"60000B .* f$", top("-diff_base=old.pb.gz", "new.pb.gz"), re.M) or \
        re.search(r"59900B .* f$", top("-diff_base=old.pb.gz", "new.pb.gz"), re.M)


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


def test_collapsed_by_flamegraph(pair):
    flamegraph = need("flamegraph.pl")
    svg = subprocess.run([flamegraph], input=convert(pair, "x.folded"), stdout=subprocess.PIPE,
                         check=True).stdout.decode()
    assert "leak (leak.py:3)" in svg


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


def test_dhat_by_dh_view(pair):
    """valgrind's own viewer builds its tree of the file, without a browser."""
    node = need("node")
    viewer = next((path for path in ["/usr/libexec/valgrind/dh_view.js",
                                     "/usr/lib/valgrind/dh_view.js"] if os.path.exists(path)), None)
    if viewer is None:
        pytest.skip("valgrind's dh_view.js is not installed")
    convert(pair, "x.dhat.json")
    script = """
const fs = require('fs'), vm = require('vm');
const element = () => new Proxy(function() {}, {get: (t, k) => k === Symbol.toPrimitive ?
    () => '' : element(), set: () => true, apply: () => element(), construct: () => element()});
const context = vm.createContext({document: element(), window: element(), console, URL: element(),
                                  performance: {now: () => 0}});
vm.runInContext(fs.readFileSync(%s, 'utf8'), context);
context.text = fs.readFileSync('x.dhat.json', 'utf8');
console.log(vm.runInContext(`
    gData = JSON.parse(text);
    if (gData.dhatFileVersion !== kExpectedFileVersion) throw new Error('version');
    gData.pps.forEach(pp => checkPP(pp)); gData.pps.length`, context));
""" % json.dumps(viewer)
    with open(viewer) as file:
        text = file.read()
    if "function checkPP" not in text:
        script = script.replace("gData.pps.forEach(pp => checkPP(pp));",
                                "gData.pps.forEach(pp => checkFields(pp, ['tb', 'tbk', 'fs']));")
    result = subprocess.run([node, "-e", script], cwd=pair.path, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.decode().strip() == "3"


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


def test_heaptrack_by_heaptrack_print(pair):
    program = need("heaptrack_print")
    convert(pair, "x.heaptrack")
    out = subprocess.run([program, "-f", "x.heaptrack"], cwd=pair.path, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, check=True).stdout.decode()
    assert "calls to allocation functions: 4 " in out
    assert "total memory leaked: 9.07M" in out
    assert re.search(r"9.00M (peak|consumed|leaked).* over 1 calls from", out)
    assert "leak.py:3" in out
    assert "failed to parse" not in out and "out of bounds" not in out


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


def test_large_snapshots_agree(shop):
    """The same totals by every way, on data of a size that has all kinds of blocks."""
    shop.generate("new.tms", 30000, 3)
    snapshot = json.loads(shop.ok("top", "--json", "new.tms"))["snapshots"][0]
    size, count = snapshot["size"], snapshot["count"]
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


def test_a_failed_write_leaves_nothing(pair):
    result = pair.run("convert", "new.tms", "-o", "nowhere/x.csv")
    assert result.status == 1 and result.err.startswith("ERROR: Failed to write nowhere/x.csv: ")
    pair.write("broken.tms", pair.read("new.tms")[:-8])
    assert pair.run("convert", "broken.tms", "-o", "y.csv").status == 1
    assert not [name for name in os.listdir(pair.path) if name.startswith("y.csv")]


def test_bases_are_refused_where_they_say_nothing(pair):
    for name in ("x.tms", "x.dhat.json", "x.heaptrack", "x.pickle"):
        assert pair.run("convert", "new.tms", "--base", "old.tms", "-o", name).status == 2
