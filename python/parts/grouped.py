# SPDX-License-Identifier: MIT
# Traces summed by a key, and the differences of two such sums.

_GROUPS = {"line": 0, "filename": 1, "address": 4}  # enum tm_group_by
_NOT_MADE = object()


def _made_on_first_use(name, make, doc):
    """A property that is kept in attribute `name`; make(self) gives what is _NOT_MADE yet."""
    def get_value(self):
        if getattr(self, name) is _NOT_MADE:
            setattr(self, name, make(self))
        return getattr(self, name)

    def set_value(self, value):
        setattr(self, name, value)

    return property(get_value, set_value, doc=doc)


class GroupedStats(object):
    """GroupedStats(timestamp, stats, group_by, cumulative=False, metrics=None)

    Traces summed by a key: stats is {key: (size, count)}. See Snapshot.top_by().
    """

    def __init__(self, timestamp, stats, group_by, cumulative=False, metrics=None):
        self.timestamp = timestamp
        self._stats = stats
        self._groups = None
        self.group_by = group_by
        self.cumulative = cumulative
        self.metrics = metrics

    stats = _made_on_first_use("_stats", lambda self: _core.groups_stats(self._groups),
                               "{key: (size, count)}; made when it is first asked for.")

    def _is_native(self):
        return self._groups is not None and self._stats is _NOT_MADE

    def compare_to(self, old_stats=None):
        """Differences to an older GroupedStats: a StatsDiff, which is not sorted.

        None in keys becomes '' for a file name and 0 for a line. Without an old
        one all differences are 0.
        """
        if self._is_native() and (old_stats is None or (
                old_stats._is_native() and old_stats.group_by == self.group_by
                and old_stats.cumulative == self.cumulative)):
            changes = _core.groups_compare(self._groups, old_stats and old_stats._groups)
            diff = StatsDiff(_NOT_MADE, old_stats, self)
            diff._changes = changes
            return diff
        return StatsDiff(self._compare(old_stats), old_stats, self)

    def _compare(self, old_stats):
        differences = []
        old = None if old_stats is None else dict(old_stats.stats)
        for key, (size, count) in self.stats.items():
            if old is None:
                row = (0, size, 0, count)
            else:
                old_size, old_count = old.pop(key, (0, 0))
                row = (size - old_size, size, count - old_count, count)
            differences.append(row + (self._sortable(key),))
        for key, (size, count) in (old or {}).items():
            differences.append((-size, 0, -count, 0, self._sortable(key)))
        return differences

    def _sortable(self, key):
        if self.group_by == "filename":
            return "" if key is None else key
        if self.group_by == "line":
            return (key[0] or "", key[1] or 0)
        return key


class StatsDiff(object):
    """StatsDiff(differences, old_stats, new_stats)

    Differences between two GroupedStats: a list of (size_diff, size, count_diff,
    count, key). old_stats can be None.
    """

    def __init__(self, differences, old_stats, new_stats):
        self._differences = differences
        self._changes = None
        self.old_stats = old_stats
        self.new_stats = new_stats

    differences = _made_on_first_use(
        "_differences", lambda self: _core.changes_rows(self._changes, -1),
        "[(size_diff, size, count_diff, count, key)]; made when it is first asked for.")

    def sort(self):
        """Sort the differences: by abs(size_diff), size, abs(count_diff), count, key, descending."""
        if self._differences is not _NOT_MADE:
            self._differences.sort(key=self._sort_key, reverse=True)

    @staticmethod
    def _sort_key(row):
        return (abs(row[0]), row[1], abs(row[2]), row[3], row[4])

    def _top(self, count):
        """(the first rows, number of all, row of the total, row of the rest)"""
        if self._differences is _NOT_MADE:
            number, (total, rest) = _core.changes_sums(self._changes, count)
            return _core.changes_rows(self._changes, count), number, total, rest
        self.sort()
        rows = self._differences
        return (rows[:count], len(rows), self._sum(rows), self._sum(rows[count:]))

    @staticmethod
    def _sum(rows):
        return tuple(sum(row[i] for row in rows) for i in range(4)) + (None,)
