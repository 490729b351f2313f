# SPDX-License-Identifier: MIT
"""Rows with JSON documents into a database in memory, and back."""
import json
import sqlite3


def run(scale):
    rows = int(12000 * scale) + 10
    database = sqlite3.connect(":memory:")
    database.execute("create table item (id integer primary key, kind text, body text)")
    database.executemany(
        "insert into item values (?, ?, ?)",
        ((i, "kind-%d" % (i % 10), json.dumps({"id": i, "tags": ["x"] * 5, "v": i / 3.0}))
         for i in range(rows)))
    total = 0
    for number, kind, body in database.execute("select * from item order by kind, id desc"):
        total += json.loads(body)["id"] - number
    database.close()
    return total
