# SPDX-License-Identifier: MIT
"""Reads .tms files as docs/FORMAT.md describes them, and shares no code with the C reader.

It shows that the page is enough to write a reader, and tests use it to look into snapshots. It is
slow, and it checks checksums and totals only. As a program: prints the files that are named, and
fails if one is not as it should be.
"""

import struct
import sys

NONE = 0xFFFFFFFF
NAMES = {1: "facts", 2: "strings", 3: "sites", 4: "nodes", 5: "traces", 6: "stats", 7: "metrics",
         8: "modules", 9: "types"}
END = 0xFFFFFFFF
WIDE = 1


def crc32c(data, _table=[]):
    if not _table:
        for n in range(256):
            for _ in range(8):
                n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
            _table.append(n)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def require(truth, what):
    if not truth:
        raise ValueError(what)


def svb(column, count):
    """The values of a StreamVByte column."""
    at = (count + 3) // 4
    values = []
    for i in range(count):
        n = (column[i // 4] >> 2 * (i % 4) & 3) + 1
        values.append(int.from_bytes(column[at:at + n], "little"))
        at += n
    require(at == len(column), "a column has the wrong length")
    return values


def table(layout, payload):
    return list(struct.iter_unpack("<" + layout, payload))


def sections(data):
    """Type and payload of each section."""
    require(data[:8] == b"\x89TMS\r\n\x1a\n", "not a tm snapshot")
    version, at = struct.unpack_from("<II", data, 8)
    require(version == 1, "a version of its own")
    require(crc32c(data[:24]) == struct.unpack_from("<I", data, 24)[0], "checksum of the header")
    while at < len(data):
        kind, crc, n_bytes = struct.unpack_from("<IIQ", data, at)
        payload = data[at + 16:at + 16 + n_bytes]
        require(len(payload) == n_bytes, "truncated")
        require(crc32c(data[at:at + 4] + payload) == crc, "checksum of section %#x" % kind)
        yield kind, payload
        at += 16 + (n_bytes + 7) // 8 * 8


def text(data):
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "backslashreplace")


def strings(payload):
    count, = struct.unpack_from("<I", payload)
    ends = struct.unpack_from("<%dI" % count, payload, 4)
    data = payload[4 + 4 * count:]
    texts = [text(data[a:b]) for a, b in zip((0,) + ends, ends)]
    require((ends or (0,))[-1] == len(data), "the strings have the wrong length")
    return texts


def traces(payload):
    """Dicts, one a trace."""
    (count, flags, address, shift, *lengths, domain, age) = struct.unpack_from("<IIQ10I", payload)
    columns, at = [], 56
    for length in lengths:
        columns.append(payload[at:at + length])
        at += length
    require(at == len(payload), "the columns have the wrong length")
    addresses = []
    for delta in svb(columns[0], count):
        address += delta << shift
        addresses.append(address)
    sizes = struct.unpack("<%dQ" % count, columns[2]) if flags & WIDE else svb(columns[2], count)
    values = {
        "address": addresses,
        "node": svb(columns[1], count),
        "size": sizes,
        "domain": columns[3] or bytes([domain]) * count,
        "age": svb(columns[4], count) if columns[4] else [age] * count,
        "type": svb(columns[5], count) if columns[5] else [0] * count,
        "thread": svb(columns[6], count) if columns[6] else [0] * count,
    }
    return [dict(zip(values, row)) for row in zip(*values.values())]


class Snapshot:
    """A file: `facts` is a dict, `traces` a list of dicts, the rest lists of tuples in the order
    of the page's tables."""

    def __init__(self, path):
        with open(path, "rb") as file:
            data = file.read()
        self.facts, self.strings, self.traces, self.types = {}, [], [], []
        self.sites, self.nodes, self.stats, self.metrics, self.modules = [], [], [], [], []
        self.timestamp_ns, = struct.unpack_from("<Q", data, 16)
        found = list(sections(data))
        require(found and found[-1][0] == END, "the end section is missing")
        layouts = {"sites": "IIiIQiI", "nodes": "II", "stats": "IIQQQQ", "modules": "QQQII"}
        for kind, payload in found:
            name = NAMES.get(kind)
            if name == "facts":
                pairs = payload.decode("utf-8", "surrogateescape").split("\0")[:-1]
                self.facts = dict(pair.split("=", 1) for pair in pairs)
            elif name == "strings":
                self.strings = strings(payload)
            elif name == "traces":
                self.traces += traces(payload)
            elif name == "types":
                self.types = [row[0] for row in table("I", payload)]
            elif name == "metrics":
                self.metrics = [(n, f, struct.unpack("<d" if f == 2 else "<q", raw)[0])
                                for n, f, raw in table("II8s", payload)]
            elif name in layouts:
                setattr(self, name, table(layouts[name], payload))
        end = struct.unpack("<QQQ", found[-1][1])
        total = sum(trace["size"] for trace in self.traces) & 0xFFFFFFFFFFFFFFFF
        require(end == (len(found) - 1, len(self.traces), total), "the totals do not agree")

    def string(self, index):
        return None if index == NONE else self.strings[index]

    def traceback(self, node):
        """(file, line, function) of each frame, most recent first."""
        frames = []
        while node != 0:
            node, site = self.nodes[node]
            file, function, line = self.sites[site][:3]
            frames.append((self.string(file), line, self.string(function)))
        return frames


def main():
    for path in sys.argv[1:]:
        snapshot = Snapshot(path)
        print(path, snapshot.timestamp_ns, snapshot.facts)
        for trace in snapshot.traces:
            print(" ", trace, snapshot.traceback(trace["node"]))


if __name__ == "__main__":
    main()
