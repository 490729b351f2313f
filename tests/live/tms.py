# SPDX-License-Identifier: MIT
"""Reads .tms files after format/tms.h, independently of the C reader; for tests only."""
import collections
import struct

Trace = collections.namedtuple("Trace", "address size node domain age")
Frame = collections.namedtuple("Frame", "file function line first_line")
Site = collections.namedtuple("Site", "file function line kind address first_line module")
Module = collections.namedtuple("Module", "start end bias path build_id")
Stat = collections.namedtuple("Stat", "live_bytes live_blocks total_blocks peak_bytes")


def _rows(form, data):
    """struct.iter_unpack, which came with 3.4."""
    return [struct.unpack_from(form, data, at) for at in range(0, len(data), struct.calcsize(form))]


def _decode(data):
    return data if str is bytes else data.decode("utf-8", "surrogatepass")


def _svb(data, count):
    """StreamVByte: two bits a value, then the values' bytes."""
    data = bytearray(data)
    control, at, result = data, (count + 3) // 4, []
    for i in range(count):
        n = (control[i >> 2] >> (2 * (i & 3)) & 3) + 1
        result.append(sum(byte << 8 * k for k, byte in enumerate(data[at:at + n])))
        at += n
    assert at == len(data)
    return result


class File:
    """facts, frames (by site id), nodes, traces (sorted by address), stats (by site id), metrics,
    modules; kinds: the types of the sections."""

    def __init__(self, path):
        with open(str(path), "rb") as file:
            self._data = file.read()
        assert self._data[:8] == b"\x89TMS\r\n\x1a\n"
        self.facts, self.traces, self.stats, self.metrics = {}, [], {}, {}
        self._strings, self._sites, self.nodes = [], [], []
        self.modules, self.kinds = [], set()
        raw_metrics, raw_modules, at, done = b"", b"", 32, False
        while not done:
            kind, _, size = struct.unpack_from("<IIQ", self._data, at)
            body = self._data[at + 16:at + 16 + size]
            at += 16 + (size + 7) // 8 * 8
            self.kinds.add(kind)
            if kind == 1:
                self.facts = dict(_decode(item).split("=", 1)
                                  for item in body.split(b"\0")[:-1])
            elif kind == 2:
                self._read_strings(body)
            elif kind == 3:
                self._sites = list(_rows("<IIiIQiI", body))
            elif kind == 4:
                self.nodes = list(_rows("<II", body))
            elif kind == 5:
                self._read_traces(body)
            elif kind == 6:
                for row in _rows("<IIQQQQ", body):
                    self.stats[row[0]] = Stat(*row[2:])
            elif kind == 7:
                raw_metrics = body
            elif kind == 8:
                raw_modules = body
            elif kind == 0xffffffff:
                sections, n_traces, n_bytes = struct.unpack("<QQQ", body)
                assert n_traces == len(self.traces)
                assert n_bytes == sum(trace.size for trace in self.traces)
                done = True
        assert at == len(self._data)
        for name, kind, value in _rows("<II8s", raw_metrics):
            self.metrics[self._string(name)] = struct.unpack(
                "<d" if kind == 2 else "<q", value)[0]
        for start, end, bias, name, build_id in _rows("<QQQII", raw_modules):
            self.modules.append(Module(start, end, bias, self._string(name),
                                       self._string(build_id)))
        self.traces.sort()

    def _read_strings(self, body):
        count, = struct.unpack_from("<I", body)
        ends = struct.unpack_from("<%dI" % count, body, 4)
        text, start = body[4 + 4 * count:], 0
        for end in ends:
            self._strings.append(_decode(text[start:end]))
            start = end

    def _read_traces(self, body):
        (count, flags, address, shift, n_address, n_node, n_size, n_domain, n_age, n_type, n_thread,
         domain, age) = struct.unpack_from("<IIQ10I", body)
        at, columns = 56, []
        for n_bytes in (n_address, n_node, n_size, n_domain, n_age):
            columns.append(body[at:at + n_bytes])
            at += n_bytes
        steps, nodes = _svb(columns[0], count), _svb(columns[1], count)
        sizes = (struct.unpack("<%dQ" % count, columns[2]) if flags & 1
                 else _svb(columns[2], count))
        domains = bytearray(columns[3]) if n_domain else [domain] * count
        ages = _svb(columns[4], count) if n_age else [age] * count
        for i in range(count):
            address += steps[i] << shift
            self.traces.append(Trace(address, sizes[i], nodes[i], domains[i], ages[i]))

    def _string(self, index):
        return None if index == 0xffffffff else self._strings[index]

    def site(self, index):
        """All that is known of a site; its module spelled out."""
        file, function, line, kind, address, first_line, module = self._sites[index]
        return Site(self._string(file), self._string(function), line, kind, address, first_line,
                    None if module == 0xffffffff else self.modules[module])

    def sites(self, node):
        """As frames(), with the whole sites."""
        result = []
        while node != 0:
            node, site = self.nodes[node]
            result.append(self.site(site))
        return result

    def frame(self, site):
        file, function, line, _, _, first_line, _ = self._sites[site]
        return Frame(self._string(file), self._string(function), line if line > 0 else None,
                     first_line)

    def frames(self, node):
        """The traceback of a node, most recent frame first."""
        result = []
        while node != 0:
            parent, site = self.nodes[node]
            assert parent < node
            result.append(self.frame(site))
            node = parent
        return result

    def check(self):
        """What must be true of every complete snapshot."""
        addresses = [trace.address for trace in self.traces]
        assert len(set(addresses)) == len(addresses), "a block appears twice"
        by_site = collections.Counter()
        count_by_site = collections.Counter()
        for trace in self.traces:
            site = self.nodes[trace.node][1]
            by_site[site] += trace.size
            count_by_site[site] += 1
        for site, stat in self.stats.items():
            assert by_site.pop(site, 0) == stat.live_bytes, (site, stat)
            assert count_by_site.pop(site, 0) == stat.live_blocks, (site, stat)
            assert stat.peak_bytes >= stat.live_bytes
        assert not any(n > 0 for left in (by_site, count_by_site) for n in left.values())
        assert self.metrics["tracemalloc.traced.size"] == sum(t.size for t in self.traces)
        assert self.metrics["tracemalloc.traces"] == len(self.traces)
        assert self.metrics["tracemalloc.traced.max_size"] >= \
            self.metrics["tracemalloc.traced.size"]
