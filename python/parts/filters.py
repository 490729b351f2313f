# SPDX-License-Identifier: MIT
# Which allocations are traced, and which traces of a snapshot are kept.

def _check_filename(filename):
    if filename is not None and not isinstance(filename, _TEXT):
        raise TypeError("filename must be a str or None")


class Filter(object):
    """Filter(include, pattern, lineno=None, traceback=False)

    Selects memory allocations by file name, line and frames. include: whether
    it selects what is traced, or what is ignored. pattern: a file name in which
    * matches anything; .pyc and .pyo at the end become .py. lineno: None, or
    below 1: any line. traceback: look at all frames, not at the first alone.
    The keyword filename is another name for pattern.

    The match methods say whether the filter keeps: where an inclusive filter
    says True, an exclusive one says False. Filters cannot be changed; equal ones
    compare equal. TypeError, ValueError for a pattern that is none.
    """
    __slots__ = ("_include", "_pattern", "_lineno", "_traceback")

    def __init__(self, include, pattern=None, lineno=None, traceback=False, filename=None):
        if pattern is None:
            pattern = filename
        elif filename is not None:
            raise TypeError("pattern and filename are two names of one argument")
        if not isinstance(pattern, _TEXT):
            raise TypeError("filename pattern must be a str, not %s" % _type_name(pattern))
        if lineno is not None:
            if not isinstance(lineno, _INTEGERS):
                raise TypeError("lineno must be an int or None, not %s" % _type_name(lineno))
            if lineno < 1:
                lineno = None
        self._include = bool(include)
        self._pattern = _core.filter_normalize(pattern)
        self._lineno = lineno
        self._traceback = bool(traceback)

    @property
    def include(self):
        """True: only what matches is traced. False: what matches is ignored."""
        return self._include

    @property
    def pattern(self):
        """File name, in which * matches any text."""
        return self._pattern

    @property
    def lineno(self):
        """Line number (int), None: any."""
        return self._lineno

    @property
    def traceback(self):
        """True: all frames of a traceback are looked at; False: the most recent one alone."""
        return self._traceback

    def _key(self):
        return (self._include, self._pattern, self._lineno, self._traceback)

    def __eq__(self, other):
        return self._key() == other._key() if isinstance(other, Filter) else NotImplemented

    def __ne__(self, other):
        return self._key() != other._key() if isinstance(other, Filter) else NotImplemented

    def __hash__(self):
        return hash(self._key())

    def __reduce__(self):
        return (type(self), self._key())

    def __repr__(self):
        return ("<pytracemalloc.Filter include=%r pattern=%r lineno=%r traceback=%r>"
                % self._key())

    def match(self, filename, lineno):
        """Whether the filter keeps this file name and line; either can be None."""
        _check_filename(filename)
        if filename is None:
            return not self._include
        found = _core.filter_match(self._pattern, self._lineno, filename, lineno)
        return found == self._include

    def match_filename(self, filename):
        """Whether the filter keeps this file name, whatever the line."""
        _check_filename(filename)
        if filename is None:
            return not self._include
        return _core.filter_match(self._pattern, None, filename, None) == self._include

    def match_lineno(self, lineno):
        """Whether the filter keeps this line, whatever the file."""
        if self._lineno is None:
            return self._include
        if lineno is None or lineno < 1:
            return not self._include
        return (lineno == self._lineno) == self._include

    def match_traceback(self, traceback):
        """Whether the filter keeps this traceback, a tuple of (filename, lineno) tuples.

        An inclusive filter that looks at all frames keeps if any frame matches,
        an exclusive one if none does. TypeError for what is no traceback.
        """
        if not isinstance(traceback, tuple):
            raise TypeError("traceback must be a tuple")
        for frame in traceback:
            if not isinstance(frame, tuple) or len(frame) != 2:
                raise TypeError("frames must be 2-tuples")
        if not traceback:
            return not self._include
        frames = traceback if self._traceback else traceback[:1]
        kept = [self.match(filename, lineno) for filename, lineno in frames]
        return any(kept) if self._include else all(kept)


def add_filter(filter):
    """Add a Filter on Python memory allocations; traces that exist stay.

    An allocation is traced if some inclusive filter keeps it, or there is none,
    and every exclusive filter keeps it. A filter that is there already is not
    added again.
    """
    if not isinstance(filter, Filter):
        raise TypeError("filter must be a Filter, not %s" % _type_name(filter))
    if filter._key() not in _core.get_filters():
        _core.add_filter(filter._key())


def add_include_filter(filename, lineno=None, traceback=False):
    """Add an inclusive filter: see add_filter() and Filter."""
    add_filter(Filter(True, filename, lineno, traceback))


def add_exclude_filter(filename, lineno=None, traceback=False):
    """Add an exclusive filter: see add_filter() and Filter."""
    add_filter(Filter(False, filename, lineno, traceback))


def clear_filters():
    """Remove all filters on Python memory allocations."""
    _core.clear_filters()


def get_filters():
    """The filters on Python memory allocations: a new list, inclusive ones first."""
    keys = _core.get_filters()
    return ([Filter(*key) for key in keys if key[0]] + [Filter(*key) for key in keys if not key[0]])
