# SPDX-License-Identifier: MIT
"""Snapshots taken with --sample: unbiased estimates, and how far they may be off."""
import json
import math
import os
import random
import tracemalloc

MEAN = 65536
LINES = 5
# (size, line), a fixed program: small blocks, middle ones, some that are nearly always kept
BLOCKS = ([(48, 0)] * 40000 + [(1000 + 7 * i, 1) for i in range(1500)] +
          [(20000 + 31 * i, 2) for i in range(300)] + [(400000, 3)] * 30 + [(0, 4)] * 1000)
TRUE_SIZE = sum(size for size, _ in BLOCKS)


def keeps(rng, size):
    return rng.random() < -math.expm1(-max(size, 1) / MEAN)


def make(shop, name, rng, blocks=BLOCKS, second=1):
    """The snapshot that sampling would give; how many blocks it has."""
    kept = [block for block in blocks if keeps(rng, block[0])]
    shop.make(name, "time %d000000000\nfact pid 1\nfact sample_bytes %d\n" % (1700000000 + second, MEAN) +
              "".join("trace %d %d 2 0 - 1 p.py:%d:f\n" % (4096 + 16 * i, size, line + 1)
                      for i, (size, line) in enumerate(kept)))
    return len(kept)


def top(shop, *args):
    return json.loads(shop.ok(*(args + ("--json",))))


def test_estimates_are_unbiased_and_within_their_bounds(shop):
    rounds, rng = 60, random.Random(5)
    errors, inside, lines = [], 0, [0.0] * LINES
    for _ in range(rounds):
        kept = make(shop, "s.tms", rng)
        document = top(shop, "top", "s.tms")
        snapshot, = document["snapshots"]
        assert snapshot["sample_bytes"] == MEAN and snapshot["samples"] == kept
        errors.append(snapshot["size"] - TRUE_SIZE)
        inside += abs(errors[-1]) <= snapshot["size_error"]
        assert sum(item["size"] for item in document["items"]) == snapshot["size"]
        for item in document["items"]:
            lines[item["line"] - 1] += item["count"] / rounds
    deviation = math.sqrt(sum(e * e for e in errors) / rounds)
    assert abs(sum(errors) / rounds) < 4 * deviation / math.sqrt(rounds)
    # 95 % of them: 57, give or take.
    assert inside >= 52, inside
    # The bound is not merely wide: it is near 1.96 deviations.
    assert snapshot["size_error"] < 3 * deviation
    for line in range(LINES - 1):
        count = sum(1 for _, at in BLOCKS if at == line)
        assert abs(lines[line] - count) < 0.15 * count, (line, lines[line], count)


def test_other_groupings_add_up_to_the_same(shop):
    make(shop, "s.tms", random.Random(1))
    by_line = top(shop, "top", "s.tms")["snapshots"][0]
    for by in ("file", "function", "traceback", "domain", "thread", "size-class"):
        snapshot = top(shop, "top", "--group-by", by, "--number", "1000", "s.tms")["snapshots"][0]
        assert snapshot["size"] == by_line["size"], by
        assert abs(snapshot["count"] - by_line["count"]) <= 40, by  # each group's count is rounded
    # A block is itself.
    block = top(shop, "top", "--group-by", "address", "s.tms")
    assert block["items"][0]["size"] == 400000 and block["snapshots"][0]["sample_bytes"] is None


def test_differences_have_a_bound_of_their_own(shop):
    rng = random.Random(7)
    grown = BLOCKS + [(30000, 2)] * 1000
    make(shop, "a.tms", rng)
    make(shop, "b.tms", rng, grown, 2)
    snapshot, = top(shop, "diff", "a.tms", "b.tms")["snapshots"]
    assert abs(snapshot["size_diff"] - 30000000) < snapshot["size_diff_error"] * 1.5
    assert snapshot["size_diff_error"] > snapshot["size_error"]


def test_the_text_says_it(shop):
    make(shop, "a.tms", random.Random(1))
    make(shop, "b.tms", random.Random(2), second=2)
    shop.make("exact.tms", "time 1700000003000000000\nfact pid 1\ntrace 4096 100 2 0 - 1 p.py:1:f\n")
    out = shop.ok("top", "a.tms")
    assert "Sampled: about one block in 64 KiB was recorded: sizes and counts are estimates from" in out
    assert "its change within" not in out
    assert ", its change within " in shop.ok("diff", "a.tms", "b.tms")
    assert "\nSampled before: its change within " in shop.ok("diff", "b.tms", "exact.tms")
    assert "  about one block in 64 KiB was recorded: sizes" in shop.ok("summary", "a.tms")
    assert "ampled" not in shop.ok("top", "exact.tms")


def test_hostile_numbers_saturate(shop):
    shop.make("h.tms", "fact pid 1\nfact sample_bytes 9223372036854775807\n" +
              "".join("trace %d %d 2 0 - 1 p.py:1:f\n" % (4096 + 16 * i, size)
                      for i, size in enumerate([0, 1, 1 << 46, 3])))
    snapshot, = top(shop, "top", "h.tms")["snapshots"]
    assert 0 < snapshot["size"] <= (1 << 63) - 1


def lines_of(document):
    return {item["line"]: (item["size"], item["count"]) for item in document["items"]}


def check_blocks(found, document):
    """Blocks by line, {line: [sizes]}, sum up to the estimates of `top`."""
    for line, (size, count) in lines_of(document).items():
        blocks = found.get(line, [])
        # Rounded to whole blocks, which are made up for in other lines.
        assert abs(sum(blocks) - size) <= 400000, (line, sum(blocks), size)
        assert abs(len(blocks) - count) <= 30 + count // 20, (line, len(blocks), count)
    total = sum(size for size, _ in lines_of(document).values())
    assert abs(sum(map(sum, found.values())) - total) <= 400000


def test_a_pickle_has_the_blocks_that_samples_stand_for(shop):
    make(shop, "s.tms", random.Random(3))
    shop.ok("convert", "s.tms", "-o", "s.pickle")
    snapshot = tracemalloc.Snapshot.load(os.path.join(shop.path, "s.pickle"))
    found = {}
    for trace in snapshot.traces:
        found.setdefault(trace.traceback[0].lineno, []).append(trace.size)
    check_blocks(found, top(shop, "top", "s.tms"))
    assert snapshot.sample_bytes == MEAN
    assert len(snapshot.addresses) == len(snapshot.traces)
    again = top(shop, "top", "s.pickle")["snapshots"][0]
    assert again["size"] == sum(map(sum, found.values())) and again["sample_bytes"] is None


def read_heaptrack(text):
    """{line: [size of each block]}, less those that are gone."""
    traces, ips, infos, found = [None], [None], [], {}
    for words in (line.split(" ") for line in text.splitlines()):
        if words[0] == "i":
            ips.append(int(words[5], 16))
        elif words[0] == "t":
            traces.append(ips[int(words[1], 16)])
        elif words[0] == "a":
            infos.append((int(words[1], 16), traces[int(words[2], 16)]))
        elif words[0] == "+":
            size, line = infos[int(words[1], 16)]
            found.setdefault(line, []).append(size)
        elif words[0] == "-":
            size, line = infos[int(words[1], 16)]
            found.setdefault(line, []).append(-size)
    return found


def test_heaptrack_has_the_blocks_that_samples_stand_for(shop):
    make(shop, "a.tms", random.Random(3))
    make(shop, "b.tms", random.Random(4), BLOCKS + [(30000, 2)] * 1000, 2)
    check_blocks(read_heaptrack(shop.ok("convert", "a.tms", "--to", "heaptrack")),
                 top(shop, "top", "a.tms"))
    change = read_heaptrack(shop.ok("convert", "b.tms", "--base", "a.tms", "--to", "heaptrack"))
    diff, = top(shop, "diff", "a.tms", "b.tms")["snapshots"]
    assert abs(sum(map(sum, change.values())) - diff["size_diff"]) <= 400000


def test_more_blocks_than_a_file_can_have(shop):
    shop.make("h.tms", "fact pid 1\nfact sample_bytes 1000000000\ntrace 4096 5 2 0 - 1 p.py:1:f\n")
    for name in ("h.pickle", "h.heaptrack"):
        result = shop.run("convert", "h.tms", "-o", name)
        assert result.status == 1 and result.err.count("\n") == 1, result.err
        assert "The samples stand for 200000001 blocks" in result.err or \
            "The samples stand for 200000000 blocks" in result.err, result.err
        assert not os.path.exists(os.path.join(shop.path, name))
    shop.ok("convert", "h.tms", "-o", "h.folded")
