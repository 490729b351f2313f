# SPDX-License-Identifier: MIT
# The top as text, as tm-analyze prints it.

_STYLES = {"bold": "1", "cyan": "36", "yellow": "33"}
_TITLES = {"line": "filename and line number", "filename": "filename", "address": "address"}


def _format_size(size, signed=False):
    form = "%+d %s" if signed else "%d %s"
    amount = abs(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 5 * 1024 or unit == "TiB":
            break
        amount //= 1024
    return form % (amount if size >= 0 else -amount, unit)


def _format_value(value, format, signed=False):
    if format == "size":
        return _format_size(value, signed)
    if format == "percent":
        return ("%+.1f%%" if signed else "%.1f%%") % (value * 100.0)
    return ("%+d" if signed else "%d") % value


def _format_timestamp(timestamp):
    return str(timestamp).split(".")[0]


class DisplayTop(object):
    """Displays the top of the allocated memory blocks."""

    def __init__(self):
        self.size = True
        self.count = True
        self.average = True
        self.metrics = True
        self.color = None
        self.compare_to_previous = True
        self.filename_parts = 3
        self.previous_top_stats = None

    def display(self, count=10, group_by="line", cumulative=False, file=None, callback=None):
        """Take a snapshot, display its top, and return it.

        callback(snapshot), if given, can add metrics. file: default sys.stdout.
        """
        traces = cumulative or group_by == "address"
        snapshot = Snapshot.create(traces=traces, metrics=self.metrics)
        if callback is not None:
            callback(snapshot)
        self.display_snapshot(snapshot, count, group_by, cumulative, file)
        return snapshot

    def display_snapshot(self, snapshot, count=10, group_by="line", cumulative=False, file=None):
        """Display the top of a Snapshot, compared with the one displayed before."""
        self.display_top_stats(snapshot.top_by(group_by, cumulative), count, file)

    def display_top_stats(self, top_stats, count=10, file=None):
        """Display the top of a GroupedStats, compared with the one displayed before."""
        previous = self.previous_top_stats
        if previous is not None and (previous.group_by, previous.cumulative) != (
                top_stats.group_by, top_stats.cumulative):
            previous = None  # keys of another kind
        self.display_top_diff(top_stats.compare_to(previous), count, file)
        if self.compare_to_previous or previous is None:
            self.previous_top_stats = top_stats

    def display_top_diff(self, top_diff, count=10, file=None):
        """Display the biggest differences of a StatsDiff."""
        if file is None:
            file = sys.stdout
        color = self.color
        if color is None:
            color = (not os.environ.get("NO_COLOR")
                     and hasattr(file, "isatty") and bool(file.isatty()))
        file.write("\n".join(self._lines(top_diff, count, color)) + "\n")

    @staticmethod
    def _style(text, style, color):
        if not color:
            return text
        codes = ";".join(_STYLES[name] for name in style.split())
        return "\033[%sm%s\033[0m" % (codes, text)

    def _lines(self, top_diff, count, color):
        new, old = top_diff.new_stats, top_diff.old_stats
        rows, number, total, rest = top_diff._top(max(count, 0))
        yield self._header(new, old, len(rows), color)
        for i, row in enumerate(rows):
            key = self._key(new.group_by, row[4], color)
            amounts = self._amounts(row, new, old is not None, color)
            yield "#%d: %s%s" % (i + 1, key, ": " + amounts if amounts else "")
        if number > len(rows):
            more = self._style("%d more" % (number - len(rows)), "cyan", color)
            yield "%s: %s" % (more, self._amounts(rest, new, old is not None, color))
        if not new.cumulative:
            yield "Traced Python memory: " + self._amounts(total, new, old is not None, color)
        if self.metrics:
            for line in self._metric_lines(new.metrics, old.metrics if old else None, color):
                yield line
        yield ""

    def _header(self, new, old, number, color):
        title = "%s %d allocations per %s" % (
            "Cumulative top" if new.cumulative else "Top", number, _TITLES[new.group_by])
        text = "%s: %s" % (self._style(_format_timestamp(new.timestamp), "bold", color),
                           self._style(title, "cyan", color))
        if old is not None:
            text += " (compared to %s)" % self._style(_format_timestamp(old.timestamp), "bold",
                                                      color)
        return text

    def _filename(self, name, color):
        if not name:
            return "???"
        parts = name.split("/")
        if len(parts) > self.filename_parts:
            parts = ["..."] + parts[-self.filename_parts:]
        if len(parts) == 1:
            return parts[0]
        return self._style("/".join(parts[:-1]) + "/", "cyan", color) + parts[-1]

    def _key(self, group_by, key, color):
        if group_by == "address":
            return "memory block " + self._style("0x%x" % key, "bold", color)
        if group_by == "filename":
            return self._filename(key, color)
        return "%s:%s" % (self._filename(key[0], color), key[1] or "?")

    def _amounts(self, row, new, compared, color):
        size_diff, size, count_diff, count = row[:4]
        parts = []
        if self.size:
            text = self._style(_format_size(size), "bold" if compared else "yellow", color)
            if compared:
                text += " (%s)" % self._style(_format_size(size_diff, True), "yellow", color)
            parts.append(("size=" if self.count or self.average else "") + text)
        if self.count and new.group_by != "address" and (count or count_diff):
            parts.append("count=%d" % count + (" (%+d)" % count_diff if compared else ""))
        if self.average and count > 1:
            parts.append("average=" + _format_size(size // count))
        return ", ".join(parts)

    def _metric_lines(self, metrics, old_metrics, color):
        metrics, old_metrics = metrics or {}, old_metrics or {}
        names = sorted(set(metrics) | set(old_metrics))
        if names:
            yield ""
        for name in names:
            metric, old = metrics.get(name), old_metrics.get(name)
            format = (metric or old).format
            value = metric.value if metric else 0
            text = "%s: %s" % (name, self._style(_format_value(value, format), "bold", color))
            if old is not None:
                text += " (%s)" % _format_value(value - old.value, format, True)
            yield text
