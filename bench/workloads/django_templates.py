# SPDX-License-Identifier: MIT
"""Renders a Django template with a loop, filters and inheritance (python3-django)."""
import sys
import types

try:
    import distutils.version  # noqa: F401
    import cgi  # noqa: F401
except ImportError:
    # Django 3.2 imports two modules that Python 3.12 and 3.13 no longer have; nothing that renders
    # a template uses them.
    for _name in ("distutils", "distutils.version", "cgi"):
        sys.modules.setdefault(_name, types.ModuleType(_name))
    sys.modules["distutils.version"].LooseVersion = str

import django  # noqa: E402
from django.conf import settings  # noqa: E402

_BASE = "<html><title>{% block title %}{% endblock %}</title>{% block body %}{% endblock %}</html>"
_PAGE = """{% extends "base" %}{% block title %}{{ title|title }}{% endblock %}{% block body %}
{% for row in rows %}<tr class="{% cycle 'odd' 'even' %}"><td>{{ row.id }}</td>
<td>{{ row.name|upper|escape }}</td><td>{% if row.price > 50 %}{{ row.price|floatformat:2 }}
{% else %}cheap{% endif %}</td></tr>{% empty %}none{% endfor %}{% endblock %}"""

settings.configure(TEMPLATES=[{
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "OPTIONS": {"loaders": [("django.template.loaders.locmem.Loader",
                             {"base": _BASE, "page": _PAGE})]}}], USE_TZ=False)
django.setup()
from django.template.loader import get_template  # noqa: E402


def run(scale):
    for _ in range(int(16 * scale) + 1):
        rows = [{"id": i, "name": "<row %d>" % i, "price": i * 1.5} for i in range(100)]
        get_template("page").render({"title": "a page of rows", "rows": rows})
